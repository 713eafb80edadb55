//! `${NAME}`, `${NAME:-default}`, `${file:/path}` and `$$` in scalars.
//!
//! Substitution happens in the tree, after parsing: a value can never become a key, a list or a map, whatever it holds.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::error::{ERRORS_MAX, Finding};
use crate::lookup::{Answer, Lookup};
use crate::source::SOURCE_BYTES_MAX;
use crate::tree::{NodeId, Path, Style, Tree, Value, quoted};

/// What was put in, so that it can be taken out of messages again.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    /// The values' lengths, the values, and what they were written as: longest first, so that no part of a value is left.
    pairs: BTreeSet<(Reverse<usize>, String, String)>,
    /// Bytes of all values together.
    bytes: usize,
}

/// Values shorter than this are taken out of messages about their own place only: `1` stands everywhere.
const SECRET_CHARACTERS_MIN: usize = 4;

impl Secrets {
    fn add(&mut self, value: &str, written: &str) {
        if value.chars().count() < SECRET_CHARACTERS_MIN {
            return;
        }
        let debugged = format!("{value:?}");
        let debugged = &debugged[1..debugged.len() - 1];
        for form in [value, debugged, value.trim()] {
            self.pairs.insert((Reverse(form.len()), form.to_owned(), written.to_owned()));
        }
    }

    /// The message with every value that was put in shown as it was written.
    pub(crate) fn scrub(&self, message: &str) -> String {
        let scrub = |message: String, value: &str, written| {
            if message.contains(value) { message.replace(value, written) } else { message }
        };
        self.pairs
            .iter()
            .fold(message.to_owned(), |message, (_, value, written)| scrub(message, value, written))
    }
}

/// Substitutes in every scalar; one finding for each `${}` that has no value.
pub(crate) fn substitute(
    tree: &mut Tree<'_>,
    lookup: &dyn Lookup,
    findings: &mut Vec<Finding>,
) -> (Secrets, Vec<NodeId>) {
    let mut secrets = Secrets::default();
    let mut failed = Vec::new();
    for index in 0..tree.nodes.len() {
        let id = NodeId(index as u32);
        let Value::Scalar(scalar) = &tree.nodes[index].value else { continue };
        if !scalar.text.contains('$') {
            continue;
        }
        let outcome = expand(&scalar.text, lookup, &mut secrets);
        match outcome {
            Ok(Expanded { text, style: None }) => set(tree, index, text, None),
            Ok(Expanded { text, style: Some(style) }) => {
                if style == Style::Substituted {
                    secrets.add(&text, tree.written(id));
                }
                set(tree, index, text, Some(style));
            }
            Err(refusal) => {
                failed.push(id);
                if findings.len() <= ERRORS_MAX {
                    findings.push(refusal.finding(tree, id));
                }
            }
        }
    }
    (secrets, failed)
}

fn set(tree: &mut Tree<'_>, index: usize, text: String, style: Option<Style>) {
    if let Value::Scalar(scalar) = &mut tree.nodes[index].value {
        scalar.text = Cow::Owned(text);
        scalar.style = style.unwrap_or(scalar.style);
    }
}

struct Expanded {
    text: String,
    /// The new style; absent when nothing but `$$` was replaced.
    style: Option<Style>,
}

struct Refusal {
    /// The `${…}` at fault.
    token: String,
    message: String,
    remedy: String,
}

impl Refusal {
    fn finding(self, tree: &Tree<'_>, id: NodeId) -> Finding {
        let (start, end) = tree.node(id).range;
        let raw = tree.text.get(start as usize..end as usize).unwrap_or_default();
        let range = raw.find(&self.token).map_or((start, end), |at| {
            let start = start + at as u32;
            (start, start + self.token.len() as u32)
        });
        Finding {
            range: Some(range),
            path: Path(&tree.steps(id)).to_string(),
            value: Some(quoted(&self.token).trim_matches('`').to_owned()),
            message: self.message,
            remedy: self.remedy,
        }
    }
}

fn expand(text: &str, lookup: &dyn Lookup, secrets: &mut Secrets) -> Result<Expanded, Refusal> {
    let mut out = String::with_capacity(text.len());
    let mut style = None;
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(tail) = rest.strip_prefix("$$") {
            out.push('$');
            rest = tail;
            continue;
        }
        if !rest.starts_with("${") {
            out.push('$');
            rest = &rest[1..];
            continue;
        }
        let Some(end) = rest.find('}') else {
            return Err(Refusal {
                token: rest.to_owned(),
                message: format!("{} is not closed", quoted(rest)),
                remedy: "close it with `}`, or write `$${` for a plain `${`".to_owned(),
            });
        };
        let (token, tail) = rest.split_at(end + 1);
        match value(token, lookup)? {
            Given::Default(value) => {
                out.push_str(value);
                style = style.or(Some(Style::Substituted));
            }
            Given::Found(value) => {
                secrets.add(&value, token);
                secrets.bytes += value.len();
                if secrets.bytes > SOURCE_BYTES_MAX {
                    return Err(too_large(token));
                }
                out.push_str(&value);
                style = style.or(Some(Style::Substituted));
            }
            Given::Withheld => style = Some(Style::Withheld),
        }
        rest = tail;
    }
    if style == Some(Style::Withheld) {
        return Ok(Expanded { text: text.to_owned(), style });
    }
    out.push_str(rest);
    Ok(Expanded { text: out, style })
}

fn too_large(token: &str) -> Refusal {
    Refusal {
        token: token.to_owned(),
        message: format!("the values put in are larger than {} MiB together", SOURCE_BYTES_MAX >> 20),
        remedy: "is it the right file or variable?".to_owned(),
    }
}

/// What stands for one `${…}`.
enum Given<'t> {
    Found(String),
    /// From the text itself, so no secret.
    Default(&'t str),
    Withheld,
}

fn value<'t>(token: &'t str, lookup: &dyn Lookup) -> Result<Given<'t>, Refusal> {
    let refuse = |message: String, remedy: String| Refusal { token: token.to_owned(), message, remedy };
    let inner = &token[2..token.len() - 1];
    if let Some(path) = inner.strip_prefix("file:") {
        let failed = |reason: &str| {
            refuse(
                format!("cannot read the file of {}: {reason}", quoted(token)),
                "give the path of a file that this user may read".to_owned(),
            )
        };
        return match lookup.file(path) {
            Answer::Found(value) => Ok(Given::Found(value)),
            Answer::Withheld => Ok(Given::Withheld),
            Answer::Absent => Err(failed("there is none")),
            Answer::Failed(reason) => Err(failed(&reason)),
        };
    }
    let (name, default) = match inner.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inner, None),
    };
    let mut characters = name.chars();
    let valid = characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(refuse(
            format!("{} names no variable", quoted(token)),
            "write `${NAME}`, `${NAME:-default}` or `${file:/path}`; write `$${` for a plain `${`".to_owned(),
        ));
    }
    // As in a shell, a default also stands in for a value that is empty.
    match (lookup.variable(name), default) {
        (Answer::Withheld, _) => Ok(Given::Withheld),
        (Answer::Found(value), Some(default)) if value.is_empty() => Ok(Given::Default(default)),
        (Answer::Found(value), _) => Ok(Given::Found(value)),
        (Answer::Absent, Some(default)) => Ok(Given::Default(default)),
        (Answer::Absent, None) => Err(refuse(
            format!("the environment variable `{name}` is not set"),
            format!("set it, or give a default: `${{{name}:-default}}`"),
        )),
        (Answer::Failed(reason), _) => Err(refuse(
            format!("the environment variable `{name}` cannot be used: {reason}"),
            "set it anew".to_owned(),
        )),
    }
}
