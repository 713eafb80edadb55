//! From text to [`Tree`].

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError};

use crate::error::{ERRORS_MAX, Finding};
use crate::source::{SOURCE_BYTES_MAX, Source};
use crate::tree::{Entry, Node, NodeId, Path, Scalar, Step, Style, Tree, Value, quoted};

/// Collections inside one another, aliases followed.
const DEPTH_MAX: usize = 64;
/// Values written in a text: bounds memory.
const VALUES_MAX: u64 = 4_000_000;
/// Values that stand for others by alias: bounds time, and defuses a text that multiplies itself.
const ALIASED_MAX: u64 = 400_000;
/// Bytes of all scalars, aliases followed.
const SCALAR_BYTES_MAX: u64 = SOURCE_BYTES_MAX as u64;

/// Parses a text that holds one document. An empty text is an empty map.
///
/// What can be told apart from its surroundings (a duplicate key, a tag) is noted in `findings` and left out of the
/// tree; what makes the rest unreadable ends the parse and is the error.
pub(crate) fn parse<'s>(source: &'s Source, findings: &mut Vec<Finding>) -> Result<Tree<'s>, Finding> {
    if source.text().len() > SOURCE_BYTES_MAX {
        let message = format!("the text is larger than {} MiB", SOURCE_BYTES_MAX >> 20);
        return Err(Finding::of_file(message, "is it the right file?"));
    }
    let mut builder = Builder::new(source.text());
    let mut options = granit_parser::options! {
        flow_nesting_limit: DEPTH_MAX,
        block_nesting_limit: DEPTH_MAX,
    };
    options.set_emit_comments(false);
    for event in Parser::new_from_str_with_options(source.text(), options) {
        let (event, span) = event.map_err(|error| unreadable(source.text(), &error))?;
        let range = span.byte_range().map_or((0, 0), |range| (range.start as u32, range.end as u32));
        builder.on_event(event, range, findings)?;
    }
    let empty = builder.tree.nodes.is_empty() || builder.tree.is_null(Tree::ROOT);
    builder.tree.values = builder.size.values;
    if empty {
        builder.tree.nodes.clear();
        builder.push(Value::Map(Vec::new()), (0, 0));
    }
    Ok(builder.tree)
}

/// A collection that is not complete yet.
struct Open<'s> {
    id: NodeId,
    anchor: usize,
    /// What had been counted before it.
    before: Size,
    /// The greatest height of its parts so far.
    height: usize,
    /// The key whose value comes next.
    key: Option<(Cow<'s, str>, (u32, u32))>,
    /// The keys so far, once there are too many to compare one by one.
    seen: HashSet<Cow<'s, str>>,
}

/// What an anchor names.
#[derive(Clone, Copy)]
struct Anchored {
    id: NodeId,
    size: Size,
    height: usize,
}

#[derive(Clone, Copy, Default)]
struct Size {
    values: u64,
    bytes: u64,
}

struct Builder<'s> {
    tree: Tree<'s>,
    open: Vec<Open<'s>>,
    anchors: HashMap<usize, Anchored>,
    size: Size,
    documents: usize,
}

/// Maps with more keys find duplicates through a set.
const KEYS_COMPARED_MAX: usize = 16;

impl<'s> Builder<'s> {
    fn new(text: &'s str) -> Self {
        Self {
            tree: Tree { text, nodes: Vec::new(), values: 0 },
            open: Vec::new(),
            anchors: HashMap::new(),
            size: Size::default(),
            documents: 0,
        }
    }

    fn on_event(
        &mut self,
        event: Event<'s>,
        range: (u32, u32),
        findings: &mut Vec<Finding>,
    ) -> Result<(), Finding> {
        if let Some(tag) = event.tag() {
            let message = format!("the tag {} is not supported", quoted(&tag.original()));
            findings.push(self.finding(
                range,
                message,
                "remove it; put a value that shall be a string into quotes",
            ));
        }
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    let message = "a second document starts here".to_owned();
                    return Err(self.finding(
                        range,
                        message,
                        "keep one document in the file and remove `---`",
                    ));
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                if self.awaits_key() {
                    return self.on_key(text, style, range);
                }
                let style = if style == ScalarStyle::Plain { Style::Plain } else { Style::Quoted };
                let size = Size { values: 1, bytes: text.len() as u64 };
                let id = self.add(Value::Scalar(Scalar { text, style }), range, size, findings)?;
                if anchor != 0 {
                    self.anchors.insert(anchor, Anchored { id, size, height: 0 });
                }
            }
            Event::SequenceStart(_, anchor, _) => {
                self.start(Value::List(Vec::new()), anchor, range, findings)?
            }
            Event::MappingStart(_, anchor, _) => {
                self.start(Value::Map(Vec::new()), anchor, range, findings)?
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(range),
            Event::Alias(anchor) => self.on_alias(anchor, range, findings)?,
            _ => {}
        }
        Ok(())
    }

    fn awaits_key(&self) -> bool {
        self.open
            .last()
            .is_some_and(|open| open.key.is_none() && matches!(self.tree.node(open.id).value, Value::Map(_)))
    }

    fn on_key(&mut self, text: Cow<'s, str>, style: ScalarStyle, range: (u32, u32)) -> Result<(), Finding> {
        if style == ScalarStyle::Plain && range.0 == range.1 {
            return Err(self.finding(range, "a key is missing".to_owned(), "write the key before the colon"));
        }
        if let Some(open) = self.open.last_mut() {
            open.key = Some((text, range));
        }
        Ok(())
    }

    fn start(
        &mut self,
        value: Value<'s>,
        anchor: usize,
        range: (u32, u32),
        findings: &mut Vec<Finding>,
    ) -> Result<(), Finding> {
        if self.awaits_key() {
            let message = "a key must be a plain word, not a list or a map".to_owned();
            return Err(self.finding(
                range,
                message,
                "if it is meant to be text, such as `${NAME}`, put it into quotes",
            ));
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(self.too_deep(range));
        }
        let before = self.size;
        let id = self.add(value, range, Size { values: 1, bytes: 0 }, findings)?;
        self.open.push(Open { id, anchor, before, height: 0, key: None, seen: HashSet::new() });
        Ok(())
    }

    fn end(&mut self, range: (u32, u32)) {
        let Some(open) = self.open.pop() else { return };
        let node = &mut self.tree.nodes[open.id.0 as usize];
        node.range.1 = range.1.max(node.range.0);
        let height = open.height + 1;
        if open.anchor != 0 {
            let values = self.size.values - open.before.values;
            let bytes = self.size.bytes - open.before.bytes;
            self.anchors.insert(open.anchor, Anchored { id: open.id, size: Size { values, bytes }, height });
        }
        if let Some(parent) = self.open.last_mut() {
            parent.height = parent.height.max(height);
        }
    }

    fn on_alias(
        &mut self,
        anchor: usize,
        range: (u32, u32),
        findings: &mut Vec<Finding>,
    ) -> Result<(), Finding> {
        if self.awaits_key() {
            return Err(self.finding(range, "an alias cannot be a key".to_owned(), "write the key itself"));
        }
        let Some(anchored) = self.anchors.get(&anchor).copied() else {
            let message = "the alias stands inside the value that it names".to_owned();
            return Err(self.finding(range, message, "write the value itself"));
        };
        if self.open.len() + anchored.height > DEPTH_MAX {
            return Err(self.too_deep(range));
        }
        self.count(anchored.size, range)?;
        if let Some(parent) = self.open.last_mut() {
            parent.height = parent.height.max(anchored.height);
        }
        self.attach(anchored.id, findings);
        Ok(())
    }

    fn add(
        &mut self,
        value: Value<'s>,
        range: (u32, u32),
        size: Size,
        findings: &mut Vec<Finding>,
    ) -> Result<NodeId, Finding> {
        self.count(size, range)?;
        let id = self.push(value, range);
        self.attach(id, findings);
        Ok(id)
    }

    fn push(&mut self, value: Value<'s>, range: (u32, u32)) -> NodeId {
        let id = NodeId(self.tree.nodes.len() as u32);
        let parent = self.open.last().map_or(Tree::ROOT, |open| open.id);
        self.tree.nodes.push(Node { parent, range, value });
        id
    }

    fn count(&mut self, size: Size, range: (u32, u32)) -> Result<(), Finding> {
        self.size.values = self.size.values.saturating_add(size.values);
        self.size.bytes = self.size.bytes.saturating_add(size.bytes);
        let written = self.tree.nodes.len() as u64;
        let (message, remedy) = if written >= VALUES_MAX {
            (format!("the file holds more than {VALUES_MAX} values"), "is it the right file?")
        } else if self.size.values - written > ALIASED_MAX || self.size.bytes > SCALAR_BYTES_MAX {
            ("the file grows too large by its aliases".to_owned(), "use fewer aliases of large values")
        } else {
            return Ok(());
        };
        Err(self.finding(range, message, remedy))
    }

    /// Makes a value a part of the collection that is open.
    fn attach(&mut self, id: NodeId, findings: &mut Vec<Finding>) {
        let Some(open) = self.open.last_mut() else { return };
        let entries = match &mut self.tree.nodes[open.id.0 as usize].value {
            Value::List(items) => return items.push(id),
            Value::Map(entries) => entries,
            Value::Scalar(_) => return,
        };
        let Some((key, key_range)) = open.key.take() else { return };
        if entries.len() == KEYS_COMPARED_MAX {
            open.seen = entries.iter().map(|entry| entry.key.clone()).collect();
        }
        let duplicate = if entries.len() < KEYS_COMPARED_MAX {
            entries.iter().any(|entry| entry.key == key)
        } else {
            !open.seen.insert(key.clone())
        };
        if !duplicate {
            return entries.push(Entry { key, key_range, value: id });
        }
        if findings.len() > ERRORS_MAX {
            return;
        }
        let first = entries.iter().find(|entry| entry.key == key).map_or(key_range, |entry| entry.key_range);
        let line = 1 + self.tree.text[..first.0 as usize].matches('\n').count();
        let message = format!("key {} stands here a second time", quoted(&key));
        let remedy = format!("it is already on line {line}: remove one");
        let mut steps = self.tree.steps(self.open.last().map_or(Tree::ROOT, |open| open.id));
        steps.push(Step::Key(key.into_owned()));
        let path = Path(&steps).to_string();
        findings.push(Finding { range: Some(key_range), path, value: None, message, remedy });
    }

    fn too_deep(&self, range: (u32, u32)) -> Finding {
        self.finding(range, nested_too_deep(), TOO_DEEP)
    }

    fn finding(&self, range: (u32, u32), message: String, remedy: &str) -> Finding {
        let path =
            self.open.last().map_or_else(String::new, |open| Path(&self.tree.steps(open.id)).to_string());
        Finding { range: Some(range), path, value: None, message, remedy: remedy.to_owned() }
    }
}

const TOO_DEEP: &str = "no key needs that much";

fn nested_too_deep() -> String {
    format!("collections are nested more than {DEPTH_MAX} deep")
}

fn unreadable(text: &str, error: &ScanError) -> Finding {
    let too_deep = matches!(error.kind(), ErrorKind::RecursionLimitExceeded);
    let mut at = error.marker().byte_offset().unwrap_or(0).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[line_start..].lines().next().unwrap_or_default();
    let remedy = if too_deep {
        TOO_DEEP
    } else if line[..line.len() - line.trim_start().len()].contains('\t') {
        "indent with spaces, not with tabs"
    } else if line.contains("${") {
        "put a value with `${…}` that stands between brackets or braces into quotes"
    } else {
        "compare the indentation, quotes and brackets here and in the lines above"
    };
    Finding {
        range: Some((at as u32, at as u32)),
        path: String::new(),
        value: None,
        message: if too_deep { nested_too_deep() } else { format!("this is no YAML: {}", error.info()) },
        remedy: remedy.to_owned(),
    }
}
