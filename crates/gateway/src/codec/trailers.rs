//! Fields after a chunked body.

use super::cursor::{Cursor, Stop};
use super::{Field, FieldId, Malformed};

/// The trailer fields of one body that may be sent on.
///
/// Left out were those that a recipient could take for fields of the head and act on too late: framing, routing,
/// connection, credentials, content and caching fields (RFC 9110, 6.5.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trailers<'a> {
    lines: &'a [u8],
}

impl<'a> Trailers<'a> {
    /// All lines, each with its CRLF, without the empty line that ends them.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.lines
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.lines.is_empty()
    }

    /// The fields in order.
    pub fn iter(self) -> impl Iterator<Item = Field<'a>> {
        let mut cursor = Cursor { bytes: self.lines, at: 0 };
        std::iter::from_fn(move || cursor.field().ok())
    }
}

/// A trailer section being read: the lines to keep, then the line being read.
#[derive(Debug, Clone, Default)]
pub(super) struct Section {
    bytes: Vec<u8>,
    kept: usize,
}

impl Section {
    pub(super) fn push(&mut self, part: &[u8]) {
        self.bytes.extend_from_slice(part);
    }

    /// Checks the line just completed, and forgets it if it must not be sent on.
    pub(super) fn end_line(&mut self) -> Result<(), Malformed> {
        let mut cursor = Cursor { bytes: &self.bytes[self.kept..], at: 0 };
        match cursor.field() {
            Ok(field) if is_allowed(&field) => self.kept = self.bytes.len(),
            Ok(_) => self.bytes.truncate(self.kept),
            Err(Stop::Malformed(malformed)) => return Err(malformed),
            // Every scan stops at the line's LF at the latest.
            Err(Stop::Partial) => return Err(Malformed::Name),
        }
        Ok(())
    }

    pub(super) fn trailers(&self) -> Trailers<'_> {
        Trailers { lines: &self.bytes[..self.kept] }
    }
}

/// Whether a field may stand in a trailer section: unknown ones may, and the load report that is made for it.
fn is_allowed(field: &Field<'_>) -> bool {
    const FORBIDDEN: &[&str] = &[
        "accept-ranges",
        "age",
        "allow",
        "authentication-info",
        "authorization",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-location",
        "content-range",
        "expires",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authentication-info",
        "range",
        "strict-transport-security",
        "vary",
        "warning",
        "www-authenticate",
    ];
    match field.id {
        FieldId::EndpointLoadMetrics | FieldId::GrpcStatus => true,
        FieldId::Other => {
            !FORBIDDEN.iter().any(|name| field.name.eq_ignore_ascii_case(name.as_bytes()))
                && !field.name.get(..3).is_some_and(|prefix| prefix.eq_ignore_ascii_case(b"if-"))
        }
        _ => false,
    }
}
