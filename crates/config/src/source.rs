use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use crate::error::{Errors, Finding};

/// Bytes of the largest file that is read.
pub const SOURCE_BYTES_MAX: usize = 64 << 20;

/// A configuration text and the name that messages call it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
}

/// A place in a text, as editors count: lines and columns from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Position {
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1, in characters.
    pub column: u32,
}

impl Source {
    /// A text that is already in memory. A byte order mark is removed.
    #[must_use]
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let mut text = text.into();
        if text.starts_with('\u{feff}') {
            text.drain(..'\u{feff}'.len_utf8());
        }
        Self { name: name.into(), text }
    }

    /// A text from bytes that somebody else read.
    ///
    /// # Errors
    /// One error, at the first byte that is not UTF-8.
    pub fn from_bytes(name: impl Into<String>, bytes: Vec<u8>) -> Result<Self, Errors> {
        let bad = match String::from_utf8(bytes) {
            Ok(text) => return Ok(Self::new(name, text)),
            Err(bad) => bad,
        };
        let valid = bad.utf8_error().valid_up_to();
        let byte = bad.as_bytes()[valid];
        let source = Self { name: name.into(), text: String::from_utf8_lossy(bad.as_bytes()).into_owned() };
        let finding = Finding {
            range: Some((valid as u32, valid as u32)),
            path: String::new(),
            value: Some(format!("{byte:#04x}")),
            message: format!("byte {byte:#04x} is not UTF-8"),
            remedy: "save the file as UTF-8".to_owned(),
        };
        Err(Errors::new(&source, vec![finding], false))
    }

    /// Reads a file of at most [`SOURCE_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// One error: the file cannot be read, is too large, or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Errors> {
        let name = path.display().to_string();
        let refuse = |message: String, remedy: &str| {
            let source = Self::new(name.clone(), "");
            Errors::new(&source, vec![Finding::of_file(message, remedy)], false)
        };
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(SOURCE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
            .map_err(|error| {
                refuse(
                    format!("cannot read the file: {error}"),
                    "give the path of a file that this user may read",
                )
            })?;
        if bytes.len() > SOURCE_BYTES_MAX {
            return Err(refuse(
                format!("the file is larger than {} MiB", SOURCE_BYTES_MAX >> 20),
                "is it the right file?",
            ));
        }
        Self::from_bytes(name, bytes)
    }

    /// What messages call the text.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where its lines start.
    pub(crate) fn lines(&self) -> Lines<'_> {
        let newlines = self.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0).chain(newlines.map(|(at, _)| at + 1)).collect();
        Lines { text: &self.text, starts }
    }
}

/// The lines of a text, found once so that many errors cost no more than one.
pub(crate) struct Lines<'s> {
    text: &'s str,
    starts: Vec<usize>,
}

impl<'s> Lines<'s> {
    /// The place of a byte; of the end for a byte behind it.
    pub(crate) fn position(&self, offset: u32) -> Position {
        let offset = (offset as usize).min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= offset);
        let before = &self.text.as_bytes()[self.starts[line - 1]..offset];
        // Continuation bytes are not characters of their own.
        let column = 1 + before.iter().filter(|byte| **byte & 0xc0 != 0x80).count();
        Position { line: line as u32, column: column as u32 }
    }

    /// The text of a line, without its end, and the byte where it starts.
    pub(crate) fn line(&self, number: u32) -> (&'s str, usize) {
        let number = number as usize;
        let start = self.starts[number - 1];
        let end = self.starts.get(number).copied().unwrap_or(self.text.len());
        (self.text[start..end].trim_end_matches(['\r', '\n']), start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_from_one() {
        let source = Source::new("x", "\u{feff}a\r\nüb: c\n");
        assert_eq!(source.lines().position(0), Position { line: 1, column: 1 });
        let c = source.text().find('c').unwrap() as u32;
        assert_eq!(source.lines().position(c), Position { line: 2, column: 5 });
        assert_eq!(source.lines().position(9_999).line, 3);
        assert_eq!(source.lines().line(1), ("a", 0));
    }
}
