//! A parsed text: values with the bytes they came from.

use std::borrow::Cow;
use std::fmt::{self, Write};

/// A value's number in its [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct NodeId(pub(crate) u32);

/// Every value of a text. An alias adds no value: several parents share the one that it names.
#[derive(Debug)]
pub(crate) struct Tree<'s> {
    pub(crate) text: &'s str,
    pub(crate) nodes: Vec<Node<'s>>,
    /// How many values there are with those that stand in several places counted in each.
    pub(crate) values: u64,
}

#[derive(Debug)]
pub(crate) struct Node<'s> {
    /// Where it was written; the root is its own parent.
    pub(crate) parent: NodeId,
    /// Bytes of the text.
    pub(crate) range: (u32, u32),
    pub(crate) value: Value<'s>,
}

#[derive(Debug)]
pub(crate) enum Value<'s> {
    Scalar(Scalar<'s>),
    List(Vec<NodeId>),
    Map(Vec<Entry<'s>>),
}

#[derive(Debug)]
pub(crate) struct Entry<'s> {
    pub(crate) key: Cow<'s, str>,
    pub(crate) key_range: (u32, u32),
    pub(crate) value: NodeId,
}

#[derive(Debug)]
pub(crate) struct Scalar<'s> {
    pub(crate) text: Cow<'s, str>,
    pub(crate) style: Style,
}

/// How a scalar came to its text, and so what it may be taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Written without quotes: whatever its text looks like.
    Plain,
    /// Written with quotes or as a block: a string.
    Quoted,
    /// Put together from `${}`: whatever its text looks like, but never nothing, and never shown.
    Substituted,
    /// Not known, because the lookup withholds it; the text is what was written.
    Withheld,
}

/// What a scalar's text looks like (the core schema of YAML 1.2, without infinities and not-a-number).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Looks {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text,
}

impl Scalar<'_> {
    pub(crate) fn looks(&self) -> Looks {
        match self.style {
            Style::Quoted | Style::Withheld => Looks::Text,
            Style::Plain => looks(&self.text),
            Style::Substituted => match looks(&self.text) {
                Looks::Null => Looks::Text,
                other => other,
            },
        }
    }
}

fn looks(text: &str) -> Looks {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Looks::Null,
        "true" | "True" | "TRUE" => return Looks::Bool(true),
        "false" | "False" | "FALSE" => return Looks::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Looks::Text;
    }
    let radix = |digits: &str, radix| {
        let valid = digits.starts_with(|c: char| c.is_digit(radix));
        if valid { i128::from_str_radix(digits, radix).ok() } else { None }
    };
    let integer = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(digits), _) => radix(digits, 16),
        (_, Some(digits)) => radix(digits, 8),
        _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    if let Some(integer) = integer {
        return Looks::Integer(integer);
    }
    let may_be_float = digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    match text.parse::<f64>() {
        Ok(float) if may_be_float && float.is_finite() => Looks::Float(float),
        _ => Looks::Text,
    }
}

/// One step from a value to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The value of a key.
    Key(String),
    /// An item of a list, from 0.
    Index(usize),
}

/// A path as people write it: `services.cart.endpoints[1]`.
pub(crate) struct Path<'a>(pub(crate) &'a [Step]);

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if at > 0 {
                        f.write_char('.')?;
                    }
                    let plain = !key.is_empty()
                        && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/' | '*'));
                    if plain { f.write_str(key)? } else { write!(f, "{key:?}")? }
                }
            }
        }
        Ok(())
    }
}

impl<'s> Tree<'s> {
    pub(crate) const ROOT: NodeId = NodeId(0);

    pub(crate) fn node(&self, id: NodeId) -> &Node<'s> {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn scalar(&self, id: NodeId) -> Option<&Scalar<'s>> {
        match &self.node(id).value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Whether there is a key or an item, but no value.
    pub(crate) fn is_null(&self, id: NodeId) -> bool {
        self.scalar(id).is_some_and(|scalar| scalar.looks() == Looks::Null)
    }

    /// The values that a value consists of.
    pub(crate) fn parts(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let (items, entries): (&[NodeId], &[Entry<'s>]) = match &self.node(id).value {
            Value::Scalar(_) => (&[], &[]),
            Value::List(items) => (items, &[]),
            Value::Map(entries) => (&[], entries),
        };
        items.iter().copied().chain(entries.iter().map(|entry| entry.value))
    }

    /// The key that a value was written under.
    pub(crate) fn key_of(&self, id: NodeId) -> Option<&Entry<'s>> {
        match &self.node(self.node(id).parent).value {
            Value::Map(entries) => entries.iter().find(|entry| entry.value == id),
            _ => None,
        }
    }

    /// The steps from the root to where a value was written.
    pub(crate) fn steps(&self, mut id: NodeId) -> Vec<Step> {
        let mut steps = Vec::new();
        while id != Self::ROOT {
            let parent = self.node(id).parent;
            match &self.node(parent).value {
                Value::Scalar(_) => {}
                Value::List(items) => {
                    steps.extend(items.iter().position(|item| *item == id).map(Step::Index))
                }
                Value::Map(entries) => {
                    let entry = entries.iter().find(|entry| entry.value == id);
                    steps.extend(entry.map(|entry| Step::Key(entry.key.clone().into_owned())));
                }
            }
            id = parent;
        }
        steps.reverse();
        steps
    }

    /// Follows steps from the root as far as there is anything: the last value met, the key that led to it, and
    /// whether that is the whole way.
    pub(crate) fn follow(&self, steps: &[Step]) -> (NodeId, Option<&Entry<'s>>, bool) {
        let (mut id, mut led) = (Self::ROOT, None);
        for step in steps {
            let next = match (step, &self.node(id).value) {
                (Step::Index(index), Value::List(items)) => items.get(*index).map(|item| (*item, None)),
                (Step::Key(key), Value::Map(entries)) => {
                    entries.iter().find(|entry| entry.key == *key).map(|entry| (entry.value, Some(entry)))
                }
                _ => None,
            };
            match next {
                Some((next, entry)) => (id, led) = (next, entry),
                None => return (id, led, false),
            }
        }
        (id, led, true)
    }

    /// A value as messages show it. What came from `${}` is shown as it was written.
    pub(crate) fn shown(&self, id: NodeId) -> String {
        let node = self.node(id);
        match &node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
            Value::Scalar(scalar) => match scalar.style {
                Style::Plain | Style::Quoted if scalar.looks() == Looks::Null => "nothing".to_owned(),
                Style::Plain | Style::Quoted => quoted(&scalar.text),
                Style::Substituted | Style::Withheld => quoted(self.written(id)),
            },
        }
    }

    /// A scalar's text as it stands in the file, without its quotes.
    pub(crate) fn written(&self, id: NodeId) -> &'s str {
        let (start, end) = self.node(id).range;
        self.text.get(start as usize..end as usize).unwrap_or_default().trim().trim_matches(['"', '\''])
    }
}

/// Characters of a value that a message shows.
const VALUE_SHOWN: usize = 60;

/// A text between back quotes, on one line, shortened.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(VALUE_SHOWN).flat_map(shown_character).collect();
    if text.chars().nth(VALUE_SHOWN).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

fn shown_character(character: char) -> impl Iterator<Item = char> {
    let escaped = character.is_control().then(|| character.escape_default());
    let plain = escaped.is_none().then_some(character);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_look_as_the_core_schema_says() {
        assert_eq!(looks("~"), Looks::Null);
        assert_eq!(looks("True"), Looks::Bool(true));
        for text in [
            "yes", "no", "on", "off", "10s", "1_000", ".inf", ".nan", "-", ".", "1e999", "0x", "0x-1", "1:30",
        ] {
            assert_eq!(looks(text), Looks::Text, "{text}");
        }
        assert_eq!(looks("-12"), Looks::Integer(-12));
        assert_eq!(looks("0x1F"), Looks::Integer(31));
        assert_eq!(looks("0o17"), Looks::Integer(15));
        assert_eq!(looks("18446744073709551615"), Looks::Integer(u64::MAX.into()));
        assert_eq!(looks("1.5e3"), Looks::Float(1500.0));
    }

    #[test]
    fn paths_read_as_people_write_them() {
        let steps = ["services", "a.b", "endpoints"].map(|key| Step::Key(key.to_owned()));
        assert_eq!(Path(&steps).to_string(), r#"services."a.b".endpoints"#);
    }
}
