//! Why a request takes the route that it takes, for people.

use std::fmt;

use serde::Serialize;

use super::{Entry, Query, Router};

/// Every route whose host and path fit a request, in the order in which they are asked, and what each said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The route that takes the request; `None` when none does.
    pub route: Option<Winner>,
    /// Every route whose host and path fit, most specific first.
    pub candidates: Vec<Candidate>,
    /// Methods that routes would have taken, when it is the method alone that no route takes.
    pub allowed_methods: Vec<String>,
}

/// The route that takes the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Winner {
    /// Its index.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// What the variables of its path stand for.
    pub variables: Vec<(String, String)>,
}

/// A route whose host and path fit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its index.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The host entry that fits: `shop.example`, `*.shop.example` or `any host`.
    pub host: String,
    /// The path pattern that fits; `any path` for a match without one.
    pub path: String,
    /// Its conditions, and whether each holds.
    pub conditions: Vec<Tested>,
    /// What came of it.
    pub verdict: Verdict,
}

/// A condition of a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tested {
    /// The condition in words.
    pub condition: String,
    /// Whether the request satisfies it.
    pub holds: bool,
}

/// What came of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It takes the request.
    Won,
    /// A condition does not hold.
    ConditionFailed,
    /// The winner's host entry is more specific.
    LessSpecificHost,
    /// The winner's path is more specific.
    LessSpecificPath,
    /// The winner has more conditions.
    FewerConditions,
    /// The winner stands earlier in the file.
    LaterInFile,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Self::Won => "takes the request",
            Self::ConditionFailed => "a condition does not hold",
            Self::LessSpecificHost => "its host is less specific",
            Self::LessSpecificPath => "its path is less specific",
            Self::FewerConditions => "it has fewer conditions",
            Self::LaterInFile => "it stands later in the file",
        }
    }
}

/// A candidate's place in the order, kept from the look-up itself.
struct Seen {
    index: u32,
    entry: Entry,
    /// Counts up with every path pattern of every host entry.
    leaf: usize,
}

impl Router {
    /// Explains which route takes a request. The same look-up as [`Router::find`], gone through to its end.
    #[must_use]
    pub fn explain(&self, query: &Query<'_, '_>) -> Explanation {
        let mut seen = Vec::new();
        let mut captures_of = Vec::new();
        let mut leaf = 0;
        self.each_candidate(query, |entry, routes, captures| {
            leaf += 1;
            for &index in routes {
                seen.push(Seen { index, entry, leaf });
                captures_of.push(*captures);
            }
            std::ops::ControlFlow::<()>::Continue(())
        });
        let holds = |seen: &Seen| self.routes[seen.index as usize].conditions.hold(query);
        let won = seen.iter().position(holds);
        let candidates = seen
            .iter()
            .enumerate()
            .map(|(position, own)| {
                let verdict = match won.map(|won| (won, &seen[won])) {
                    Some((won, _)) if won == position => Verdict::Won,
                    _ if !holds(own) => Verdict::ConditionFailed,
                    Some((_, winner)) if winner.entry != own.entry => Verdict::LessSpecificHost,
                    Some((_, winner)) if winner.leaf != own.leaf => Verdict::LessSpecificPath,
                    Some((_, winner)) if self.conditions(winner) > self.conditions(own) => {
                        Verdict::FewerConditions
                    }
                    _ => Verdict::LaterInFile,
                };
                self.candidate(own, query, verdict)
            })
            .collect();
        let route = won.map(|won| {
            let index = seen[won].index as usize;
            let names = self.labels[index].variables.iter().enumerate();
            let value = |at| captures_of[won].get(at, query.lookup_path()).to_owned();
            Winner {
                index,
                name: self.routes[index].name.to_string(),
                variables: names.map(|(at, name)| (name.to_string(), value(at))).collect(),
            }
        });
        let allowed_methods = if route.is_none() { self.allowed(query).0 } else { Vec::new() };
        Explanation {
            route,
            candidates,
            allowed_methods: allowed_methods.iter().map(ToString::to_string).collect(),
        }
    }

    fn conditions(&self, seen: &Seen) -> usize {
        self.routes[seen.index as usize].conditions.count()
    }

    fn candidate(&self, seen: &Seen, query: &Query<'_, '_>, verdict: Verdict) -> Candidate {
        let index = seen.index as usize;
        let (route, label) = (&self.routes[index], &self.labels[index]);
        let tests = route.conditions.tests(query).into_iter();
        Candidate {
            index,
            name: route.name.to_string(),
            host: label.host.as_deref().unwrap_or("any host").to_owned(),
            path: label.path.as_deref().unwrap_or("any path").to_owned(),
            conditions: tests.map(|(condition, holds)| Tested { condition, holds }).collect(),
            verdict,
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.route {
            Some(winner) => {
                writeln!(f, "route {}", winner.name)?;
                for (name, value) in &winner.variables {
                    writeln!(f, "  {{{name}}} = {value}")?;
                }
            }
            None if self.allowed_methods.is_empty() => writeln!(f, "no route")?,
            None => writeln!(f, "no route for this method; allowed: {}", self.allowed_methods.join(", "))?,
        }
        for candidate in &self.candidates {
            let Candidate { name, host, path, verdict, .. } = candidate;
            let mark = if *verdict == Verdict::Won { '+' } else { '-' };
            writeln!(f, "{mark} {name} (host {host}, path {path}): {}", verdict.words())?;
            for Tested { condition, holds } in &candidate.conditions {
                writeln!(f, "    {condition}: {}", if *holds { "yes" } else { "no" })?;
            }
        }
        Ok(())
    }
}
