//! Changes to a message's header, made ready so that applying them is a comparison and a copy.

use crate::config::HeaderChanges;
use crate::config::problem::Place;

/// Which message is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    Request,
    Response,
}

/// Fields to take out, and the lines to put in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// In lower case, each once; those of `set` too.
    removed: Box<[Box<[u8]>]>,
    /// Whole lines, `name: value\r\n`.
    pub(super) added: Box<[u8]>,
}

impl Changes {
    /// Reports what cannot be changed, and leaves it out.
    pub(super) fn of(changes: &HeaderChanges, message: Message, place: &mut Place<'_>) -> Self {
        let mut removed: Vec<Box<[u8]>> = Vec::new();
        let mut added = Vec::new();
        for (index, name) in changes.remove.iter().enumerate() {
            let mut place = place.at("remove");
            if place.item(index).take(check_name(name, message)).is_some() {
                removed.push(name.to_ascii_lowercase().into_bytes().into());
            }
        }
        for (key, fields) in [("set", &changes.set), ("add", &changes.add)] {
            for (name, value) in fields {
                let mut place = place.at(key);
                let mut place = place.at(name);
                let checked = check_name(name, message).and_then(|()| check_value(value));
                if place.take(checked).is_none() {
                    continue;
                }
                let lower = name.to_ascii_lowercase().into_bytes();
                added.extend_from_slice(&lower);
                added.extend_from_slice(b": ");
                added.extend_from_slice(value.as_bytes());
                added.extend_from_slice(b"\r\n");
                if key == "set" {
                    removed.push(lower.into());
                }
            }
        }
        removed.sort_unstable();
        removed.dedup();
        Self { removed: removed.into(), added: added.into() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.removed.is_empty() && self.added.is_empty()
    }

    #[inline]
    pub(super) fn removes(&self, name: &[u8]) -> bool {
        self.removed.iter().any(|removed| removed.eq_ignore_ascii_case(name))
    }
}

/// Fields that belong to one connection or to the framing of one message (RFC 9110, 7.6.1): a change would let the two
/// sides disagree on where a message ends.
const FRAMING: [&str; 11] = [
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Fields of requests that the gateway writes itself.
const FORWARDING: [&str; 6] =
    ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto"];

fn check_name(name: &str, message: Message) -> Result<(), (String, String)> {
    if !is_token(name) {
        let remedy = "a name is made of letters, digits and !#$%&'*+-.^_`|~".to_owned();
        return Err((format!("`{name}` is no name of a header field"), remedy));
    }
    let lower = name.to_ascii_lowercase();
    let refused =
        |why: &str, remedy: &str| Err((format!("`{name}` cannot be changed: {why}"), remedy.to_owned()));
    if FRAMING.contains(&&*lower) {
        return refused(
            "it belongs to the connection or to the message's framing",
            "take it out; Seawall writes it as needed",
        );
    }
    if lower.starts_with("seawall-") {
        return refused("it is Seawall's own", "use the route's keys, such as `criticality` and `timeout`");
    }
    if message == Message::Request && lower == "host" {
        return refused("it is written from the request's host", "use `rewrite.host`");
    }
    if message == Message::Request && FORWARDING.contains(&&*lower) {
        return refused(
            "it says who the client is, and is written from the connection",
            "use the listener's `trusted`",
        );
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), (String, String)> {
    if value.bytes().any(|byte| byte.is_ascii_control() && byte != b'\t') {
        let remedy = "take control characters such as line ends out".to_owned();
        return Err((format!("{value:?} cannot be the value of a header field"), remedy));
    }
    if value.trim_matches([' ', '\t']) != value {
        return Err((
            format!("{value:?} begins or ends with white space"),
            "take the white space out".to_owned(),
        ));
    }
    Ok(())
}

/// Whether `name` is a token (RFC 9110, 5.6.2).
pub(crate) fn is_token(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compile(changes: &HeaderChanges, message: Message) -> (Changes, usize) {
        let mut problems = Vec::new();
        let compiled = Changes::of(changes, message, &mut Place::root(&mut problems));
        (compiled, problems.len())
    }

    fn set(name: &str, value: &str) -> HeaderChanges {
        HeaderChanges { set: [(name.to_owned(), value.to_owned())].into(), ..HeaderChanges::default() }
    }

    #[test]
    fn setting_replaces_and_adding_does_not() {
        let changes = HeaderChanges {
            remove: vec!["X-Debug".into()],
            set: [("X-Env".to_owned(), "prod".to_owned())].into(),
            add: [("Vary".to_owned(), "cookie".to_owned())].into(),
        };
        let (compiled, problems) = compile(&changes, Message::Response);
        assert_eq!(problems, 0);
        assert_eq!(&*compiled.added, b"x-env: prod\r\nvary: cookie\r\n");
        assert!(compiled.removes(b"x-DEBUG") && compiled.removes(b"x-env") && !compiled.removes(b"vary"));
    }

    #[test]
    fn framing_and_forwarding_cannot_be_changed() {
        for name in FRAMING {
            for message in [Message::Request, Message::Response] {
                assert_eq!(
                    compile(&set(&name.to_uppercase(), "1"), message),
                    (Changes::default(), 1),
                    "{name}"
                );
            }
        }
        for name in FORWARDING.into_iter().chain(["host", "seawall-attempt"]) {
            assert_eq!(compile(&set(name, "1"), Message::Request).1, 1, "{name}");
            let remove = HeaderChanges { remove: vec![name.into()], ..HeaderChanges::default() };
            assert_eq!(compile(&remove, Message::Request).1, 1, "{name}");
        }
    }

    proptest! {
        #[test]
        fn header_changes_cannot_inject_a_line(name in "[\\x00-\\x7f]{0,6}", value in "[\\x00-\\x7fé]{0,8}") {
            let (compiled, problems) = compile(&set(&name, &value), Message::Response);
            let lines = compiled.added.iter().filter(|byte| **byte == b'\n').count();
            let returns = compiled.added.iter().filter(|byte| **byte == b'\r').count();
            prop_assert_eq!((lines, returns), (1 - problems, 1 - problems));
            prop_assert!(!compiled.added.contains(&0));
        }
    }
}
