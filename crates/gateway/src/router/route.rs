//! A route made ready to be applied to requests.

use std::sync::Arc;

use super::changes::{Changes, Message, is_token};
use super::condition::Conditions;
use super::pattern::{HostPattern, PathPattern, is_host_name};
use super::template::Template;
use super::tree::Captures;
use crate::config;
use crate::config::problem::Place;

/// A route made ready.
#[derive(Debug)]
pub struct CompiledRoute {
    /// Its position in the configuration's list, and in [`Router::routes`](super::Router::routes).
    pub index: usize,
    /// The name given, or one made of the match, such as `shop.example/cart/`; no other route of the router has it.
    pub name: Arc<str>,
    /// What becomes of its requests.
    pub action: CompiledAction,
    /// The host that the service is asked for; `None` for the one that the client asked for.
    pub host: Option<Box<str>>,
    pub(super) conditions: Conditions,
    path: PathRewrite,
    request: Changes,
    response: Changes,
}

/// What becomes of a route's requests.
#[derive(Debug)]
pub enum CompiledAction {
    /// They go to the service at this index.
    Service(usize),
    /// They go to one of the services at these indices, by the weights of [`config::Route::split`] in the same order.
    Split(Box<[usize]>),
    /// They are redirected.
    Redirect(CompiledRedirect),
    /// They are answered at once.
    Answer(CompiledAnswer),
}

/// A redirect. Its answer has no body.
#[derive(Debug)]
pub struct CompiledRedirect {
    status: u16,
    location: Template,
    fields: Box<[u8]>,
}

impl CompiledRedirect {
    /// The answer's status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Writes the fields that belong between the status line and the empty line, `content-length` among them.
    ///
    /// Whatever the request, the location is one line, and its host is one that the configuration names: a path never
    /// begins with `//`.
    pub fn write_fields(&self, path: &str, query: Option<&str>, captures: &Captures, out: &mut Vec<u8>) {
        out.extend_from_slice(b"location: ");
        self.location.write(path, query, captures, out);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.fields);
    }
}

/// An answer that is known in advance.
#[derive(Debug)]
pub struct CompiledAnswer {
    status: u16,
    fields: Box<[u8]>,
    body: Box<[u8]>,
}

impl CompiledAnswer {
    /// The answer's status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The fields that belong between the status line and the empty line, `content-length` among them; the same for HEAD.
    #[must_use]
    pub fn fields(&self) -> &[u8] {
        &self.fields
    }

    /// The body, which an answer to HEAD goes without.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// What path the service is asked for.
#[derive(Debug)]
enum PathRewrite {
    Keep,
    /// Instead of what the match names.
    Prefix(Box<str>),
    Whole(Template),
}

impl CompiledRoute {
    /// Writes the path that the service is asked for, for a request whose normalised path is `path`: that one, unless the
    /// route rewrites it. The query is the caller's to add.
    pub fn write_path(&self, path: &str, captures: &Captures, out: &mut Vec<u8>) {
        match &self.path {
            PathRewrite::Keep => out.extend_from_slice(path.as_bytes()),
            PathRewrite::Prefix(prefix) => {
                let rest = captures.rest(path);
                out.extend_from_slice(prefix.as_bytes());
                if !rest.is_empty() && !prefix.ends_with('/') {
                    out.push(b'/');
                }
                out.extend_from_slice(rest.as_bytes());
            }
            PathRewrite::Whole(template) => template.write(path, None, captures, out),
        }
    }

    /// Whether requests go on with the path, host and fields that they came with.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        matches!(self.path, PathRewrite::Keep) && self.host.is_none() && self.request.is_empty()
    }

    /// Whether requests lose the field called `name`, in any letter case.
    #[inline]
    #[must_use]
    pub fn removes_request_field(&self, name: &[u8]) -> bool {
        self.request.removes(name)
    }

    /// Whole lines, each with its line end, that requests get.
    #[inline]
    #[must_use]
    pub fn request_fields(&self) -> &[u8] {
        &self.request.added
    }

    /// Whether answers lose or get any field.
    #[inline]
    #[must_use]
    pub fn changes_response(&self) -> bool {
        !self.response.is_empty()
    }

    /// Whether answers lose the field called `name`, in any letter case.
    #[inline]
    #[must_use]
    pub fn removes_response_field(&self, name: &[u8]) -> bool {
        self.response.removes(name)
    }

    /// Whole lines, each with its line end, that answers get.
    #[inline]
    #[must_use]
    pub fn response_fields(&self) -> &[u8] {
        &self.response.added
    }
}

/// A route and where it belongs.
pub(super) struct Placed {
    pub(super) host: HostPattern,
    pub(super) path: PathPattern,
    pub(super) route: CompiledRoute,
}

/// Compiles the route at `index`, or reports all that is wrong with it.
pub(super) fn compile(
    index: usize,
    route: &config::Route,
    service: &impl Fn(&str) -> Option<usize>,
    place: &mut Place<'_>,
) -> Option<Placed> {
    let (host, path) = {
        let mut place = place.at("match");
        check_conditions(&route.matches, &mut place);
        let host = place.at("host").take(HostPattern::parse(route.matches.host.as_deref()));
        let path = place.at("path").take(PathPattern::parse(route.matches.path.as_deref()));
        (host, path)
    };
    let names = path.as_ref().map_or(&[][..], |path| &path.names);
    let request = Changes::of(&route.request_headers, Message::Request, &mut place.at("request_headers"));
    let response = Changes::of(&route.response_headers, Message::Response, &mut place.at("response_headers"));
    let rewrite = compile_rewrite(&route.rewrite, names, &mut place.at("rewrite"));
    let action = compile_action(route, names, &response, service, place);
    let route = CompiledRoute {
        index,
        name: route.name.as_deref().unwrap_or_default().into(),
        action: action?,
        host: route.rewrite.host.as_deref().map(Into::into),
        conditions: Conditions::of(&route.matches),
        path: rewrite?,
        request,
        response,
    };
    Some(Placed { host: host?, path: path?, route })
}

fn check_conditions(matches: &config::Match, place: &mut Place<'_>) {
    for (index, method) in matches.methods.iter().enumerate() {
        if !is_token(method) || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
            let remedy = "methods are written in capitals, such as GET or POST";
            place.at("methods").item(index).error(format!("`{method}` is no method"), remedy);
        }
    }
    let mut seen: Vec<String> = Vec::new();
    for (name, test) in &matches.headers {
        let lower = name.to_ascii_lowercase();
        let mut place = place.at("headers");
        let mut place = place.at(name);
        if !is_token(name) {
            let remedy = "a name is made of letters, digits and !#$%&'*+-.^_`|~";
            place.error(format!("`{name}` is no name of a header field"), remedy);
        } else if lower == "host" {
            place.error("conditions on `host` belong to the match's host", "use `match.host`");
        } else if seen.contains(&lower) {
            place.error(format!("`{name}` stands here twice in different letter case"), "keep one of them");
        }
        seen.push(lower);
        check_any_of(test, &mut place);
    }
    for (name, test) in &matches.query {
        let mut place = place.at("query");
        let mut place = place.at(name);
        if name.is_empty() {
            place.error("a query parameter has a name", "write the parameter's name before the colon");
        }
        check_any_of(test, &mut place);
    }
    if let Some(test) = &matches.identity {
        check_any_of(test, &mut place.at("identity"));
    }
}

fn check_any_of(test: &config::Condition, place: &mut Place<'_>) {
    if matches!(test, config::Condition::AnyOf(values) if values.is_empty()) {
        place.at("any_of").error("no value is one of none", "list the values, or take the condition out");
    }
}

fn compile_rewrite(
    rewrite: &config::Rewrite,
    names: &[Box<str>],
    place: &mut Place<'_>,
) -> Option<PathRewrite> {
    if let Some(host) = &rewrite.host {
        let bare = host.rsplit_once(':').map_or(host.as_str(), |(name, port)| {
            if port.parse::<u16>().is_ok() { name } else { host.as_str() }
        });
        let address = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if !is_host_name(bare) && address.is_none_or(|address| address.parse::<std::net::Ipv6Addr>().is_err())
        {
            let remedy = "write a host name, with a port if it needs one, such as cart.internal:8080";
            place.at("host").error(format!("`{host}` is no host"), remedy);
        }
    }
    match (&rewrite.prefix, &rewrite.path) {
        (None, None) => Some(PathRewrite::Keep),
        (Some(_), Some(_)) => {
            place.error("`prefix` and `path` contradict each other", "keep one of them");
            None
        }
        (Some(prefix), None) => {
            // No variables: a prefix replaces what the match names, whatever it stands for.
            let template = Template::parse(prefix, &[], false);
            place.at("prefix").take(template).map(|_| PathRewrite::Prefix(prefix.as_str().into()))
        }
        (None, Some(path)) => {
            place.at("path").take(Template::parse(path, names, false)).map(PathRewrite::Whole)
        }
    }
}

fn compile_action(
    route: &config::Route,
    names: &[Box<str>],
    response: &Changes,
    service: &impl Fn(&str) -> Option<usize>,
    place: &mut Place<'_>,
) -> Option<CompiledAction> {
    let Some(action) = route.action() else {
        let given: Vec<&str> = [
            ("service", route.service.is_some()),
            ("split", !route.split.is_empty()),
            ("redirect", route.redirect.is_some()),
            ("answer", route.answer.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, given)| given.then_some(key))
        .collect();
        if given.is_empty() {
            let remedy = "give exactly one of `service`, `split`, `redirect` and `answer`";
            place.error("the route does not say what becomes of its requests", remedy);
        } else {
            let message = format!("the route does more than one thing: `{}`", given.join("`, `"));
            place.error(message, "keep one of them, or make several routes");
        }
        return None;
    };
    let forwards = matches!(action, config::Action::Service(_) | config::Action::Split(_));
    if !forwards && route.rewrite != config::Rewrite::default() {
        place
            .at("rewrite")
            .error("no service is asked, so there is nothing to rewrite", "take `rewrite` out");
    }
    if !forwards && route.request_headers != config::HeaderChanges::default() {
        let mut place = place.at("request_headers");
        place.error("no service is asked, so there is no request to change", "take `request_headers` out");
    }
    if route.split_by.is_some() && route.split.is_empty() {
        place
            .at("split_by")
            .error("there is no `split` to pin users in", "take `split_by` out, or add `split`");
    }
    let index_of = |name: &str, mut place: Place<'_>| {
        let index = service(name);
        if index.is_none() {
            place.error(format!("no service is called `{name}`"), "name a service of `services`");
        }
        index
    };
    match action {
        config::Action::Service(name) => index_of(name, place.at("service")).map(CompiledAction::Service),
        config::Action::Split(targets) => {
            let mut list = place.at("split");
            if targets.iter().all(|target| target.weight == 0) {
                list.error(
                    "all weights are 0, so nobody gets a request",
                    "give at least one service a weight",
                );
            }
            let mut indices = Vec::with_capacity(targets.len());
            for (position, target) in targets.iter().enumerate() {
                let mut item = list.item(position);
                if targets[..position].iter().any(|earlier| earlier.service == target.service) {
                    let message = format!("`{}` stands in the split twice", target.service);
                    item.at("service").error(message, "add the two weights");
                }
                indices.push(index_of(&target.service, item.at("service")));
            }
            indices.into_iter().collect::<Option<Box<[usize]>>>().map(CompiledAction::Split)
        }
        config::Action::Redirect(redirect) => {
            let mut place = place.at("redirect");
            if !matches!(redirect.status, 301 | 302 | 303 | 307 | 308) {
                let message = format!("{} is no status of a redirect", redirect.status);
                place.at("status").error(message, "use 301, 302, 303, 307 or 308");
            }
            let location = place.at("to").take(Template::parse(&redirect.to, names, true))?;
            let fields = [b"content-length: 0\r\n", &*response.added].concat().into();
            Some(CompiledAction::Redirect(CompiledRedirect { status: redirect.status, location, fields }))
        }
        config::Action::Answer(answer) => {
            compile_answer(answer, response, &mut place.at("answer")).map(CompiledAction::Answer)
        }
    }
}

/// An answer that belongs to no route, and to which a route's own changes of the header are still to be made.
pub(crate) fn fixed_answer(answer: &config::FixedAnswer, place: &mut Place<'_>) -> Option<CompiledAnswer> {
    compile_answer(answer, &Changes::default(), place)
}

fn compile_answer(
    answer: &config::FixedAnswer,
    response: &Changes,
    place: &mut Place<'_>,
) -> Option<CompiledAnswer> {
    if !(200..=599).contains(&answer.status) {
        let message = format!("{} is no status of an answer", answer.status);
        place.at("status").error(message, "use a status from 200 to 599");
    }
    let bodiless = matches!(answer.status, 204 | 205 | 304);
    if bodiless && !answer.body.is_empty() {
        place
            .at("body")
            .error(format!("an answer {} has no body", answer.status), "take the body out, or use 200");
    }
    let kind = &answer.content_type;
    if kind.bytes().any(|byte| byte.is_ascii_control()) || kind.trim() != kind || kind.is_empty() {
        let message = format!("{kind:?} is no content type");
        place.at("content_type").error(message, "write one such as text/html; charset=utf-8");
        return None;
    }
    let mut fields = String::new();
    if !bodiless {
        if !response.removes(b"content-type") {
            fields = format!("content-type: {kind}\r\n");
        }
        fields += &format!("content-length: {}\r\n", answer.body.len());
    } else if answer.status == 205 {
        fields = "content-length: 0\r\n".to_owned();
    }
    let fields = [fields.as_bytes(), &*response.added].concat().into();
    let body = answer.body.as_bytes().into();
    Some(CompiledAnswer { status: answer.status, fields, body })
}
