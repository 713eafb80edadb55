//! A place in a head being parsed, and the one way a line and a field are read from it.

use super::class::{token_end, trim_end, value_end};
use super::field::{Field, FieldId};
use super::{Malformed, Version};

/// Why parsing stopped short of a head.
pub(super) enum Stop {
    /// The bytes ran out where more are allowed.
    Partial,
    Malformed(Malformed),
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

pub(super) struct Cursor<'b> {
    pub(super) bytes: &'b [u8],
    pub(super) at: usize,
}

impl<'b> Cursor<'b> {
    #[inline]
    pub(super) fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::Partial)
    }

    /// Takes everything up to `end`.
    #[inline]
    pub(super) fn take_to(&mut self, end: usize) -> &'b [u8] {
        let taken = &self.bytes[self.at..end];
        self.at = end;
        taken
    }

    /// Takes the one space that divides a start line; any other byte is `otherwise`.
    #[inline]
    pub(super) fn space(&mut self, otherwise: Malformed) -> Result<(), Stop> {
        match self.peek()? {
            b' ' => {
                self.at += 1;
                Ok(())
            }
            b'\n' => Err(Malformed::BareLf.into()),
            _ => Err(otherwise.into()),
        }
    }

    /// Takes CR LF; a lone one of them, or any other byte, is refused.
    #[inline]
    pub(super) fn line_end(&mut self, otherwise: Malformed) -> Result<(), Stop> {
        match self.peek()? {
            b'\r' => {}
            b'\n' => return Err(Malformed::BareLf.into()),
            _ => return Err(otherwise.into()),
        }
        match self.bytes.get(self.at + 1) {
            Some(b'\n') => {
                self.at += 2;
                Ok(())
            }
            Some(_) => Err(Malformed::BareCr.into()),
            None => Err(Stop::Partial),
        }
    }

    /// Takes `HTTP/1.0` or `HTTP/1.1`.
    pub(super) fn version(&mut self) -> Result<Version, Stop> {
        let Some(text) = self.bytes.get(self.at..self.at + 8) else { return Err(Stop::Partial) };
        let version = match text {
            b"HTTP/1.1" => Version::Http11,
            b"HTTP/1.0" => Version::Http10,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Malformed::VersionUnsupported.into());
            }
            _ => return Err(Malformed::Version.into()),
        };
        self.at += 8;
        Ok(version)
    }

    /// Takes one whole field line.
    #[inline]
    pub(super) fn field(&mut self) -> Result<Field<'b>, Stop> {
        let start = self.at;
        let colon = token_end(self.bytes, start);
        match self.bytes.get(colon) {
            Some(b':') if colon > start => {}
            Some(&byte) => return Err(not_a_name(byte, colon > start).into()),
            None => return Err(Stop::Partial),
        }
        let mut value_start = colon + 1;
        while let Some(b' ' | b'\t') = self.bytes.get(value_start) {
            value_start += 1;
        }
        self.at = value_end(self.bytes, value_start);
        let value_end = self.at;
        self.line_end(Malformed::ControlInValue)?;
        let name = &self.bytes[start..colon];
        Ok(Field {
            id: FieldId::of(name),
            name,
            value: trim_end(&self.bytes[value_start..value_end]),
            line: &self.bytes[start..self.at],
        })
    }
}

/// What is wrong with a field line whose name stops at `byte`, and whether there was any name before it.
#[cold]
fn not_a_name(byte: u8, named: bool) -> Malformed {
    match byte {
        b' ' | b'\t' if named => Malformed::SpaceBeforeColon,
        b' ' | b'\t' => Malformed::ObsFold,
        b':' => Malformed::NameEmpty,
        b'\n' => Malformed::BareLf,
        _ => Malformed::Name,
    }
}
