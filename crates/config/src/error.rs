use std::fmt;

use serde::{Serialize, Serializer};

use crate::source::{Lines, Position, Source};

/// Errors listed for one text; of further ones it is only said that they may be there.
pub const ERRORS_MAX: usize = 500;

/// Something wrong with a configuration, said so that its author can put it right without reading anything else.
///
/// Values that came from the environment or from a secret's file never stand in it: they are shown as `${NAME}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Error {
    /// The file.
    pub file: String,
    /// Where it is; absent when it concerns the file as a whole.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// The key it concerns, as `services.cart.endpoints[1]`; empty when it concerns the file as a whole.
    pub path: String,
    /// The offending value, shortened; absent when the offence is that there is none.
    pub value: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    #[serde(skip)]
    snippet: String,
}

/// Everything wrong with one text, in its order. Never empty.
///
/// `Display` is for people: each error like a compiler's, with the line it points at. `Serialize` is for machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Errors {
    errors: Vec<Error>,
    more: bool,
}

/// An error before it is resolved against the text.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// Bytes of the text that it points at.
    pub(crate) range: Option<(u32, u32)>,
    pub(crate) path: String,
    pub(crate) value: Option<String>,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

impl Finding {
    /// A finding about the file as a whole.
    pub(crate) fn of_file(message: String, remedy: &str) -> Self {
        Self { range: None, path: String::new(), value: None, message, remedy: remedy.to_owned() }
    }
}

impl Errors {
    /// Errors of a text; `more` when the search for them was given up early.
    pub(crate) fn new(source: &Source, mut findings: Vec<Finding>, more: bool) -> Self {
        findings.sort_by_key(|finding| finding.range);
        let more = more || findings.len() > ERRORS_MAX;
        findings.truncate(ERRORS_MAX);
        let lines = source.lines();
        let errors = findings.into_iter().map(|finding| Error {
            file: source.name().to_owned(),
            position: finding.range.map(|(start, _)| lines.position(start)),
            snippet: finding.range.map_or_else(String::new, |range| snippet(&lines, range)),
            path: finding.path,
            value: finding.value,
            message: finding.message,
            remedy: finding.remedy,
        });
        Self { errors: errors.collect(), more }
    }

    /// The errors, in the order of the text.
    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.errors.iter()
    }

    /// How many there are, up to [`ERRORS_MAX`].
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.errors.len()
    }

    /// Whether there may be more than are listed.
    #[must_use]
    pub fn more(&self) -> bool {
        self.more
    }
}

impl IntoIterator for Errors {
    type Item = Error;
    type IntoIter = std::vec::IntoIter<Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.into_iter()
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.errors.iter()
    }
}

impl std::error::Error for Error {}
impl std::error::Error for Errors {}

/// One error, without the line that it points at.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(Position { line, column }) = self.position {
            write!(f, ":{line}:{column}")?;
        }
        write!(f, ": {}", self.message)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, "; {}", self.remedy) }
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{error}")?;
            f.write_str(&error.snippet)?;
        }
        match (self.errors.len(), self.more) {
            (1, false) => f.write_str("1 error"),
            (count, false) => write!(f, "{count} errors"),
            (count, true) => write!(f, "{count} shown, there may be more errors"),
        }
    }
}

impl Serialize for Errors {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Document<'a> {
            errors: &'a [Error],
            more: bool,
        }
        Document { errors: &self.errors, more: self.more }.serialize(serializer)
    }
}

/// Characters of a line that are shown.
const LINE_SHOWN: usize = 100;
/// Characters shown before the place in a line that is too long to show whole.
const BEFORE_SHOWN: usize = 40;

/// The line that a range starts on, and carets below the range.
fn snippet(lines: &Lines<'_>, (start, end): (u32, u32)) -> String {
    let Position { line: number, column } = lines.position(start);
    let (line, line_start) = lines.line(number);
    let column = (column as usize - 1).min(line.chars().count());
    let first = if line.chars().count() <= LINE_SHOWN { 0 } else { column.saturating_sub(BEFORE_SHOWN) };
    let shown: String = line.chars().skip(first).take(LINE_SHOWN).map(printable).collect();
    let bytes = (end as usize).saturating_sub(line_start).min(line.len());
    let marked =
        line.char_indices().filter(|(at, _)| (start as usize - line_start..bytes).contains(at)).count();
    let marked = marked.min(LINE_SHOWN.saturating_sub(column - first)).max(1);
    let (indent, carets) = (" ".repeat(column - first), "^".repeat(marked));
    format!("{number:>5} | {}\n      | {indent}{carets}\n", shown.trim_end())
}

/// One column for each character, and nothing that a terminal would obey.
fn printable(character: char) -> char {
    match character {
        '\t' => ' ',
        control if control.is_control() => '\u{fffd}',
        other => other,
    }
}
