//! Conditions beside host and path: method, header fields, query parameters.

use std::fmt;

use super::{Query, path::escaped};
use crate::config;

/// A test of one value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Test {
    /// One of these; one for `exact`.
    AnyOf(Box<[Box<str>]>),
    Prefix(Box<str>),
    Suffix(Box<str>),
    Present,
    Absent,
}

impl Test {
    fn of(condition: &config::Condition) -> Self {
        match condition {
            config::Condition::Exact(text) => Self::AnyOf([text.as_str().into()].into()),
            config::Condition::AnyOf(texts) => {
                let mut texts: Vec<Box<str>> = texts.iter().map(|text| text.as_str().into()).collect();
                texts.sort_unstable();
                texts.dedup();
                Self::AnyOf(texts.into())
            }
            config::Condition::Prefix(text) => Self::Prefix(text.as_str().into()),
            config::Condition::Suffix(text) => Self::Suffix(text.as_str().into()),
            config::Condition::Present(true) => Self::Present,
            config::Condition::Present(false) => Self::Absent,
        }
    }

    /// Whether a value, byte by byte as it is meant, passes.
    fn passes(&self, value: Option<impl Iterator<Item = u8> + Clone>) -> bool {
        let Some(mut value) = value else { return *self == Self::Absent };
        match self {
            Self::AnyOf(texts) => texts.iter().any(|text| value.clone().eq(text.bytes())),
            Self::Prefix(text) => text.bytes().all(|byte| value.next() == Some(byte)),
            Self::Suffix(text) => {
                let length = value.clone().count();
                length >= text.len() && value.skip(length - text.len()).eq(text.bytes())
            }
            Self::Present => true,
            Self::Absent => false,
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyOf(texts) => match &**texts {
                [text] => write!(f, "is `{text}`"),
                texts => write!(f, "is one of `{}`", texts.join("`, `")),
            },
            Self::Prefix(text) => write!(f, "begins with `{text}`"),
            Self::Suffix(text) => write!(f, "ends with `{text}`"),
            Self::Present => f.write_str("is present"),
            Self::Absent => f.write_str("is absent"),
        }
    }
}

/// All that a request must satisfy beside host and path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Conditions {
    /// Sorted, each once; empty for any.
    methods: Box<[Box<str>]>,
    /// Names in lower case.
    headers: Box<[(Box<str>, Test)]>,
    query: Box<[(Box<str>, Test)]>,
    identity: Option<Test>,
}

impl Conditions {
    pub(super) fn of(matches: &config::Match) -> Self {
        let mut methods: Vec<Box<str>> =
            matches.methods.iter().map(|method| method.as_str().into()).collect();
        methods.sort_unstable();
        methods.dedup();
        let mut headers: Vec<_> = matches
            .headers
            .iter()
            .map(|(name, test)| (name.to_ascii_lowercase().into_boxed_str(), Test::of(test)))
            .collect();
        headers.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let query = matches.query.iter().map(|(name, test)| (name.as_str().into(), Test::of(test))).collect();
        let identity = matches.identity.as_ref().map(Test::of);
        Self { methods: methods.into(), headers: headers.into(), query, identity }
    }

    /// How many there are: a route with more is asked first.
    pub(super) fn count(&self) -> usize {
        let single = usize::from(!self.methods.is_empty()) + usize::from(self.identity.is_some());
        single + self.headers.len() + self.query.len()
    }

    pub(super) fn methods(&self) -> &[Box<str>] {
        &self.methods
    }

    #[inline]
    pub(super) fn hold(&self, query: &Query<'_, '_>) -> bool {
        self.takes_method(query.method) && self.hold_but_method(query)
    }

    /// `GET` takes `HEAD` too, as in Go.
    #[inline]
    pub(super) fn takes_method(&self, method: &str) -> bool {
        self.methods.is_empty()
            || self.methods.iter().any(|own| **own == *method || (method == "HEAD" && **own == *"GET"))
    }

    #[inline]
    pub(super) fn hold_but_method(&self, query: &Query<'_, '_>) -> bool {
        self.headers.iter().all(|(name, test)| header_passes(query, name, test))
            && self.query.iter().all(|(name, test)| parameter_passes(query, name, test))
            && self.identity.as_ref().is_none_or(|test| identity_passes(query, test))
    }

    /// Each condition in words, and whether it holds.
    pub(super) fn tests(&self, query: &Query<'_, '_>) -> Vec<(String, bool)> {
        let method = (!self.methods.is_empty()).then(|| {
            (format!("method is one of {}", self.methods.join(", ")), self.takes_method(query.method))
        });
        let headers = self
            .headers
            .iter()
            .map(|(name, test)| (format!("header {name} {test}"), header_passes(query, name, test)));
        let parameters = self.query.iter().map(|(name, test)| {
            (format!("query parameter {name} {test}"), parameter_passes(query, name, test))
        });
        let identity =
            self.identity.iter().map(|test| (format!("identity {test}"), identity_passes(query, test)));
        method.into_iter().chain(headers).chain(parameters).chain(identity).collect()
    }
}

fn header_passes(query: &Query<'_, '_>, name: &str, test: &Test) -> bool {
    test.passes((query.header)(name).map(|value| value.iter().copied()))
}

/// Whether one of the client's names passes, or the absence of any does.
fn identity_passes(query: &Query<'_, '_>, test: &Test) -> bool {
    match query.identity {
        [] => test.passes(None::<std::iter::Empty<u8>>),
        names => names.iter().any(|name| test.passes(Some(name.bytes()))),
    }
}

fn parameter_passes(query: &Query<'_, '_>, name: &str, test: &Test) -> bool {
    test.passes(parameter(query.query.unwrap_or_default(), name).map(unescaped))
}

/// The first value of a parameter, still escaped; one without `=` has the empty value.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find_map(|(key, value)| unescaped(key).eq(name.bytes()).then_some(value))
}

/// The bytes that a form-encoded text stands for (WHATWG URL, 5.1); a broken escape stands for itself.
fn unescaped(text: &str) -> impl Iterator<Item = u8> + Clone {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        if let Some(byte) = escaped(rest) {
            rest = &rest[3..];
            return Some(byte);
        }
        rest = tail;
        Some(if first == b'+' { b' ' } else { first })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_compared_as_they_are_meant() {
        let value = |query: &str, name: &str| {
            parameter(query, name).map(|value| String::from_utf8(unescaped(value).collect()).unwrap())
        };
        assert_eq!(value("a=1&b=2", "b").as_deref(), Some("2"));
        assert_eq!(value("%61dmin=%31", "admin").as_deref(), Some("1"));
        assert_eq!(value("a=x+y%2Bz%", "a").as_deref(), Some("x y+z%"));
        assert_eq!(value("flag&a=1=2", "flag").as_deref(), Some(""));
        assert_eq!(value("flag&a=1=2", "a").as_deref(), Some("1=2"));
        assert_eq!(value("a=1&a=2", "a").as_deref(), Some("1"));
        assert_eq!(value("", ""), None);
    }

    #[test]
    fn tests_pass_what_they_say() {
        use crate::config::Condition::{AnyOf, Exact, Prefix, Present, Suffix};
        let passes = |condition: &config::Condition, value: Option<&str>| {
            Test::of(condition).passes(value.map(str::bytes))
        };
        let text = |text: &str| text.to_owned();
        assert!(passes(&Exact(text("a")), Some("a")) && !passes(&Exact(text("a")), Some("ab")));
        assert!(passes(&AnyOf(vec![text("a"), text("b")]), Some("b")) && !passes(&AnyOf(vec![]), Some("a")));
        assert!(passes(&Prefix(text("ab")), Some("abc")) && !passes(&Prefix(text("ab")), Some("a")));
        assert!(passes(&Suffix(text("bc")), Some("abc")) && !passes(&Suffix(text("bc")), Some("c")));
        assert!(passes(&Present(true), Some("")) && !passes(&Present(true), None));
        assert!(passes(&Present(false), None) && !passes(&Present(false), Some("")));
        assert!(!passes(&Exact(text("")), None));
    }
}
