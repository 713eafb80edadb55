//! What a user may write as the host and the path of a match.

use super::path;

/// Most variables in one path.
pub const CAPTURES_MAX: usize = 8;
/// Most bytes in one segment of a path that is to be matched literally.
pub(super) const LITERAL_MAX: usize = 255;

/// Why a part of a route cannot be used, and what to do about it.
pub(crate) type Fault = (String, String);

/// Which hosts an entry stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum HostPattern {
    /// Any host, or none.
    Any,
    /// This one, in lower case.
    Exact(Box<[u8]>),
    /// Every name that ends with a dot and this, in lower case.
    Below(Box<[u8]>),
}

impl HostPattern {
    pub(super) fn parse(text: Option<&str>) -> Result<Self, Fault> {
        let Some(text) = text else { return Ok(Self::Any) };
        let refused = || {
            (
                format!("`{text}` is no host to match"),
                "write a host name without port, such as shop.example, or *.shop.example for every name below it"
                    .to_owned(),
            )
        };
        let lower = text.to_ascii_lowercase();
        if let Some(inner) = lower.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| refused())?;
            return Ok(Self::Exact(lower.into_bytes().into()));
        }
        let (below, name) = match lower.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, lower.as_str()),
        };
        if !is_host_name(name) {
            return Err(refused());
        }
        let name = name.as_bytes().into();
        Ok(if below { Self::Below(name) } else { Self::Exact(name) })
    }
}

/// Whether `name` is a host name or an IPv4 address: labels of letters, digits, `-` and `_`, at most 253 bytes.
pub(crate) fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A segment of a path to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// These bytes, unescaped. Empty for `{$}`, the end of a path after its last slash.
    Literal(Box<[u8]>),
    /// Any one segment that is not empty.
    Variable,
    /// All that is left, which may be nothing.
    Rest,
}

/// A path to match, in the language of Go's `ServeMux`.
#[derive(Clone, Debug)]
pub(super) struct PathPattern {
    pub(super) segments: Vec<Segment>,
    /// Names of the variables, in order; an unnamed rest has none and stands last.
    pub(super) names: Vec<Box<str>>,
}

impl PathPattern {
    /// A match without a path takes every path, as `/` does.
    pub(super) fn parse(text: Option<&str>) -> Result<Self, Fault> {
        let text = text.unwrap_or("/");
        let mut pattern = Self { segments: Vec::new(), names: Vec::new() };
        let refused =
            |why: &str, remedy: &str| (format!("`{text}` is no path to match: {why}"), remedy.to_owned());
        let inner = text
            .strip_prefix('/')
            .ok_or_else(|| refused("it does not begin with `/`", "begin it with a slash, such as /cart/"))?;
        let mut segments = inner.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let parsed = match inner {
                None if segment.is_empty() && last => Segment::Rest,
                None if segment.is_empty() => {
                    return Err(refused(
                        "it holds `//`",
                        "requests never have an empty segment; write one slash",
                    ));
                }
                None => Segment::Literal(literal(segment).map_err(|(why, remedy)| refused(why, remedy))?),
                Some("$") if last => Segment::Literal([].into()),
                Some(name) => {
                    let (name, kind) = match name.strip_suffix("...") {
                        Some(name) => (name, Segment::Rest),
                        None => (name, Segment::Variable),
                    };
                    if !is_variable_name(name) {
                        return Err(refused(
                            &format!("`{segment}` is no variable"),
                            "write {name} for one segment or {name...} for the rest, with letters, digits and _ in the name",
                        ));
                    }
                    if kind == Segment::Rest && !last {
                        return Err(refused(
                            &format!("`{segment}` is not its last segment"),
                            "put a variable rest at the end",
                        ));
                    }
                    if pattern.names.iter().any(|other| **other == *name) {
                        return Err(refused(
                            &format!("`{name}` stands in it twice"),
                            "give each variable a name of its own",
                        ));
                    }
                    pattern.names.push(name.into());
                    kind
                }
            };
            pattern.segments.push(parsed);
        }
        if pattern.names.len() > CAPTURES_MAX {
            let why = format!("it has more than {CAPTURES_MAX} variables");
            return Err(refused(&why, "match the last segments with one variable rest, {name...}"));
        }
        Ok(pattern)
    }
}

fn is_variable_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// The bytes that a literal segment stands for.
fn literal(segment: &str) -> Result<Box<[u8]>, (&'static str, &'static str)> {
    if segment.contains(['{', '}']) {
        return Err((
            "a variable must be a whole segment",
            "write /{name}/ and use the value in the service",
        ));
    }
    if segment == "*" || segment == "**" {
        return Err((
            "`*` is no variable",
            "write {name} for one segment, or end the path with / for everything below",
        ));
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut at = 0;
    while let Some(&byte) = segment.as_bytes().get(at) {
        let (byte, length) = match byte {
            b'%' => match path::escaped(&segment.as_bytes()[at..]) {
                Some(b'/' | b'\\' | 0) => return Err(("it holds an escaped slash, backslash or NUL", NEVER)),
                Some(byte) => (byte, 3),
                None => return Err(("it holds a broken escape", "write % as %25")),
            },
            b'?' | b'#' => {
                return Err(("it holds a query or fragment", "put conditions on the query under `query`"));
            }
            b'\\' | 0..=b' ' | 0x7f => return Err(("it holds a space, control byte or backslash", NEVER)),
            byte => (byte, 1),
        };
        bytes.push(byte);
        at += length;
    }
    if matches!(&*bytes, b"." | b"..") || bytes.starts_with(b".;") || bytes.starts_with(b"..;") {
        return Err(("it holds a dot segment", NEVER));
    }
    if bytes.len() > LITERAL_MAX {
        return Err(("a segment is longer than 255 bytes", "match it with a variable, {name}"));
    }
    Ok(bytes.into())
}

const NEVER: &str = "requests with such a path are refused or rewritten before routing; take it out";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_read_as_documented() {
        let segments = |text: &str| PathPattern::parse(Some(text)).unwrap().segments;
        let literal = |text: &str| Segment::Literal(text.as_bytes().into());
        assert_eq!(segments("/"), [Segment::Rest]);
        assert_eq!(segments("/cart"), [literal("cart")]);
        assert_eq!(segments("/cart/"), [literal("cart"), Segment::Rest]);
        assert_eq!(segments("/cart/{$}"), [literal("cart"), literal("")]);
        assert_eq!(segments("/u/{id}/o"), [literal("u"), Segment::Variable, literal("o")]);
        assert_eq!(segments("/f/{path...}"), [literal("f"), Segment::Rest]);
        assert_eq!(segments("/caf%C3%A9"), segments("/café"));
    }

    #[test]
    fn patterns_that_can_never_match_are_refused() {
        for bad in [
            "",
            "cart",
            "/a//b",
            "/a/../b",
            "/a/%2e",
            "/a%2fb",
            "/a?x=1",
            "/a#b",
            "/a/*",
            "/x{y}",
            "/{}",
            "/{1}",
            "/{a}/{a}",
            "/{a...}/b",
            "/{$}/b",
            "/a b",
            "/a%",
            "/a/{b",
            "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}",
        ] {
            assert!(PathPattern::parse(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_without_ports() {
        for good in ["shop.example", "*.shop.example", "LOCALHOST", "127.0.0.1", "[::1]", "my_host"] {
            assert!(HostPattern::parse(Some(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "*",
            "*.",
            "a.*.b",
            "shop.example:80",
            "http://x",
            "shop..example",
            "a/b",
            "[::1",
            "shop.example.",
        ] {
            assert!(HostPattern::parse(Some(bad)).is_err(), "{bad}");
        }
    }
}
