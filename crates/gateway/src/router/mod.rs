//! Which route takes a request.
//!
//! The most specific match wins, whatever the order in the file:
//!
//! 1. **Host.** The exact name, then `*.` entries by most labels, then routes without a host.
//! 2. **Path**, with the patterns of Go's `ServeMux`, segment by segment from the left: a literal before a variable
//!    `{name}` before a rest `{name...}`; so the longest prefix wins. `/cart` is that path alone. `/cart/` is
//!    `/cart/` and all below it, **not** `/cart`, and nothing is redirected from the one to the other (where Go
//!    would). `/cart/{$}` is `/cart/` alone. A match without a path is one with `/`: everything.
//! 3. **Conditions** on method, header fields and query: of routes with the same host and path the one with most conditions
//!    is asked first, then the one that stands earlier.
//!
//! A route whose conditions fail is passed over, for less specific paths and then for less specific hosts. Only when
//! nothing at all takes the request does a method that nobody takes make it 405 instead of 404.
//!
//! Names of hosts are compared without port, letter case or a final dot. Paths must have gone through [`path::normalise`]
//! and are compared by what their segments stand for, so that an escape is no way round a route.

pub(crate) mod changes;
mod condition;
mod explain;
pub mod path;
pub(crate) mod pattern;
mod route;
mod template;
mod tree;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

pub use explain::{Candidate, Explanation, Tested, Verdict, Winner};
pub use pattern::CAPTURES_MAX;
pub(crate) use route::fixed_answer;
pub use route::{CompiledAction, CompiledAnswer, CompiledRedirect, CompiledRoute};
pub use tree::Captures;

use crate::config;
use crate::config::problem::Place;
use condition::Conditions;
use pattern::HostPattern;
use tree::{Forest, Leaf, Table};

/// What is looked up.
#[derive(Clone, Copy)]
pub struct Query<'q, 'v> {
    /// The authority that the client asked for, with or without port.
    pub host: &'q str,
    /// The method, in the letter case that it came in.
    pub method: &'q str,
    /// The path after [`path::normalise`]. `*` is looked up as `/`.
    pub path: &'q str,
    /// The query without its `?`.
    pub query: Option<&'q str>,
    /// The first value of the header field of this name, which is given in lower case.
    pub header: &'q dyn Fn(&str) -> Option<&'v [u8]>,
    /// The names that the client proved with its certificate.
    pub identity: &'q [Box<str>],
}

impl<'q> Query<'q, '_> {
    fn lookup_path(&self) -> &'q str {
        if self.path == "*" { "/" } else { self.path }
    }
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug)]
pub struct Found<'r> {
    /// The route.
    pub route: &'r CompiledRoute,
    /// What the variables of its path stand for.
    pub captures: Captures,
}

/// No route takes the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// Whatever its method.
    #[error("no route")]
    NoRoute,
    /// It would take another method. Displays as the value of an `allow` field.
    #[error("{0}")]
    MethodNotAllowed(Methods),
}

/// Methods, sorted, each once. Displays as the value of an `allow` field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Methods(Vec<Box<str>>);

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// All routes of a configuration, immutable, shared by every worker.
///
/// A look-up allocates nothing and takes one hash per host entry and path segment, whatever the number of routes.
#[derive(Debug, Default)]
pub struct Router {
    routes: Box<[CompiledRoute]>,
    labels: Box<[Label]>,
    forest: Forest,
    exact: Table<u32>,
    below: Table<u32>,
    /// Labels of the longest name in `below`: a client's host with more is not looked up more often.
    below_labels_max: usize,
    any: Option<u32>,
}

/// What only people ask a route for.
#[derive(Debug)]
struct Label {
    host: Option<Box<str>>,
    path: Option<Box<str>>,
    variables: Vec<Box<str>>,
}

/// A host entry that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    Exact,
    Below { labels: usize },
    Any,
}

impl Router {
    /// Compiles `routes`; `service` gives the index that a service's name is to become in [`CompiledAction`].
    ///
    /// # Errors
    /// Everything that is wrong with the routes, each with its place below `routes`: patterns that cannot match,
    /// actions that are not exactly one, unknown services, unsafe redirects and header changes, names given twice, and routes
    /// of which one can never be reached because another one has the same match.
    pub fn build(
        routes: &[config::Route],
        service: impl Fn(&str) -> Option<usize>,
    ) -> Result<Self, Vec<config::Problem>> {
        let mut problems = Vec::new();
        let mut root = Place::root(&mut problems);
        let mut list = root.at("routes");
        let mut router = Self::default();
        let (mut compiled, mut labels) = (Vec::new(), Vec::new());
        let mut names = Names::given(routes, &mut list);
        let mut matches: HashMap<(Leaf, Conditions), usize> = HashMap::new();
        for (index, params) in routes.iter().enumerate() {
            let mut place = list.item(index);
            let Some(mut placed) = route::compile(index, params, &service, &mut place) else { continue };
            placed.route.name = names.of(params);
            let leaf = {
                let root = router.root_of(&placed.host);
                router.forest.insert(root, &placed.path.segments)
            };
            if let Some(other) = matches.insert((leaf, placed.route.conditions.clone()), index) {
                let message = format!(
                    "the routes {} and {} match the same requests",
                    described(routes, other, &compiled),
                    described(routes, index, &[]),
                );
                place
                    .at("match")
                    .error(message, "take one out, or give one a condition that the other lacks");
            }
            router.forest.routes_mut(leaf).push(u32::try_from(compiled.len()).unwrap_or(u32::MAX));
            labels.push(Label {
                host: params.matches.host.as_deref().map(Into::into),
                path: params.matches.path.as_deref().map(Into::into),
                variables: placed.path.names,
            });
            compiled.push(placed.route);
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        for leaf in router.forest.leaves_mut() {
            leaf.sort_by_key(|index| std::cmp::Reverse(compiled[*index as usize].conditions.count()));
            leaf.shrink_to_fit();
        }
        router.routes = compiled.into();
        router.labels = labels.into();
        Ok(router)
    }

    /// Every route, in the order of the configuration.
    #[must_use]
    pub fn routes(&self) -> &[CompiledRoute] {
        &self.routes
    }

    /// The route that takes a request.
    ///
    /// # Errors
    /// [`NotFound`]; the only case in which something is allocated.
    pub fn find(&self, query: &Query<'_, '_>) -> Result<Found<'_>, NotFound> {
        let found = self.each_candidate(query, |_, routes, captures| {
            for &index in routes {
                let route = &self.routes[index as usize];
                if route.conditions.hold(query) {
                    return ControlFlow::Break(Found { route, captures: *captures });
                }
            }
            ControlFlow::Continue(())
        });
        found.ok_or_else(|| {
            let allowed = self.allowed(query);
            if allowed.0.is_empty() { NotFound::NoRoute } else { NotFound::MethodNotAllowed(allowed) }
        })
    }

    /// Methods with which some route would take the request.
    fn allowed(&self, query: &Query<'_, '_>) -> Methods {
        let mut methods: Vec<Box<str>> = Vec::new();
        self.each_candidate(query, |_, routes, _| {
            let conditions = routes.iter().map(|index| &self.routes[*index as usize].conditions);
            for conditions in conditions.filter(|conditions| conditions.hold_but_method(query)) {
                methods.extend(conditions.methods().iter().cloned());
                if conditions.methods().iter().any(|method| **method == *"GET") {
                    methods.push("HEAD".into());
                }
            }
            ControlFlow::<()>::Continue(())
        });
        methods.sort_unstable();
        methods.dedup();
        Methods(methods)
    }

    /// Shows `visit` the routes of each host entry and path that fit, most specific first, until it breaks off.
    fn each_candidate<B>(
        &self,
        query: &Query<'_, '_>,
        mut visit: impl FnMut(Entry, &[u32], &Captures) -> ControlFlow<B>,
    ) -> Option<B> {
        let path = query.lookup_path();
        let mut host = [0; HOST_MAX];
        let visited = self.each_root(host_name(query.host, &mut host), |entry, root| {
            self.forest.visit(root, path, &mut |routes, captures| visit(entry, routes, captures))
        });
        visited.break_value()
    }

    fn each_root<B>(
        &self,
        host: Option<&[u8]>,
        mut visit: impl FnMut(Entry, u32) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        if let Some(host) = host {
            if let Some(&root) = self.exact.get(host) {
                visit(Entry::Exact, root)?;
            }
            if !self.below.is_empty() {
                let mut labels = memchr::memchr_iter(b'.', host).count();
                for dot in memchr::memchr_iter(b'.', host) {
                    if labels <= self.below_labels_max
                        && let Some(&root) = self.below.get(&host[dot + 1..])
                    {
                        visit(Entry::Below { labels }, root)?;
                    }
                    labels -= 1;
                }
            }
        }
        self.any.map_or(ControlFlow::Continue(()), |root| visit(Entry::Any, root))
    }

    fn root_of(&mut self, host: &HostPattern) -> u32 {
        let forest = &mut self.forest;
        match host {
            HostPattern::Any => *self.any.get_or_insert_with(|| forest.plant()),
            HostPattern::Exact(name) => *self.exact.entry(name.clone()).or_insert_with(|| forest.plant()),
            HostPattern::Below(name) => {
                let labels = memchr::memchr_iter(b'.', name).count() + 1;
                self.below_labels_max = self.below_labels_max.max(labels);
                *self.below.entry(name.clone()).or_insert_with(|| forest.plant())
            }
        }
    }
}

/// Longest host that is looked up; no pattern is longer.
const HOST_MAX: usize = 253;

/// The host without port and final dot, in lower case; `None` when no entry can be for it.
fn host_name<'h>(authority: &'h str, lower: &'h mut [u8; HOST_MAX]) -> Option<&'h [u8]> {
    let bytes = authority.as_bytes();
    let end = match bytes.first()? {
        b'[' => memchr::memchr(b']', bytes)? + 1,
        _ => memchr::memchr(b':', bytes).unwrap_or(bytes.len()),
    };
    let name = bytes[..end].strip_suffix(b".").unwrap_or(&bytes[..end]);
    if !name.iter().any(u8::is_ascii_uppercase) {
        return (name.len() <= HOST_MAX).then_some(name);
    }
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    Some(lower)
}

/// Names of routes, so that no two are alike.
struct Names {
    taken: HashSet<Arc<str>>,
    /// How often each name was made of a match.
    made: HashMap<String, usize>,
}

impl Names {
    /// Takes the names that users gave, and reports those that were given twice.
    fn given(routes: &[config::Route], list: &mut Place<'_>) -> Self {
        let mut taken = HashSet::new();
        for (index, route) in routes.iter().enumerate() {
            let Some(name) = &route.name else { continue };
            let mut place = list.item(index);
            if name.is_empty() || name.chars().any(char::is_control) {
                place
                    .at("name")
                    .error(format!("{name:?} is no name"), "write a short word, or take the key out");
            } else if !taken.insert(Arc::from(name.as_str())) {
                place
                    .at("name")
                    .error(format!("two routes are called `{name}`"), "give each a name of its own");
            }
        }
        Self { taken, made: HashMap::new() }
    }

    /// The name of a route: given, or made of its match and numbered when another one has that.
    fn of(&mut self, route: &config::Route) -> Arc<str> {
        if let Some(name) = &route.name {
            return name.as_str().into();
        }
        let base = made_name(&route.matches);
        let number = self.made.entry(base.clone()).or_default();
        loop {
            *number += 1;
            let name: Arc<str> =
                if *number == 1 { base.as_str().into() } else { format!("{base} #{number}").into() };
            if self.taken.insert(Arc::clone(&name)) {
                return name;
            }
        }
    }
}

/// `GET shop.example/cart/`
fn made_name(matches: &config::Match) -> String {
    let methods =
        if matches.methods.is_empty() { String::new() } else { format!("{} ", matches.methods.join(",")) };
    let host = matches.host.as_deref().unwrap_or_default().to_ascii_lowercase();
    format!("{methods}{host}{}", matches.path.as_deref().unwrap_or("/"))
}

/// A route by its name and number, for messages.
fn described(routes: &[config::Route], index: usize, compiled: &[CompiledRoute]) -> String {
    let name = compiled.iter().find(|route| route.index == index).map(|route| route.name.to_string());
    let route = &routes[index];
    let name = name.or_else(|| route.name.clone()).unwrap_or_else(|| made_name(&route.matches));
    format!("`{name}` (routes[{index}])")
}

#[cfg(test)]
mod tests;
