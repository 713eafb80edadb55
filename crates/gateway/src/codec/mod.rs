//! The sans-IO, strict HTTP/1.1 codec: bytes in, heads and body boundaries out.
//!
//! It knows no socket, no clock and no lock, and allocates nothing on the plain path (only trailers do). Parsing is
//! one pass over the head, straight out of the caller's read buffer: every name and value borrows from it.
//!
//! **It refuses rather than guesses.** A message that two readers could frame differently is [`Malformed`], and the
//! caller answers and closes. So whatever is accepted here means the same to every reader of RFC 9112, and the
//! accepted lines may be sent on byte for byte. Where the specification lets a recipient repair a message (bare LF,
//! obs-fold, repeated equal lengths, chunk extensions), this codec does not; see [`Malformed`] for the whole list.
//!
//! Sources: RFC 9110, RFC 9112; the request smuggling classics.

mod body;
mod class;
mod cursor;
mod field;
mod malformed;
mod request;
mod response;
mod semantics;
mod target;
mod trailers;
mod write;

#[cfg(test)]
mod tests;

pub use body::{Advance, Body, Chunked};
pub use field::{FIELDS_MAX, Field, FieldId, FieldStorage};
pub use malformed::Malformed;
pub use request::{Method, RequestHead, parse_request};
pub use response::{ResponseHead, parse_response};
pub use semantics::{Connection, Framing};
pub use target::{Form, Scheme, Target};
pub use trailers::Trailers;
pub use write::{
    reason, write_chunk_size, write_decimal, write_field, write_hex, write_last_chunk, write_status_line,
};

/// How large a message's parts may be. Whatever exceeds them is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes of a head: start line, fields and the empty line.
    pub head_bytes: usize,
    /// Most fields of a head; never more than [`FIELDS_MAX`] whatever stands here.
    pub fields_max: usize,
    /// Most bytes of a chunked body's trailer section.
    pub trailer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 32 * 1024, fields_max: 100, trailer_bytes: 8 * 1024 }
    }
}

/// What came of parsing a prefix of a stream.
///
/// `Complete` and an error are final: more bytes never change them. `Partial` asks for more bytes; the next attempt
/// starts over from the first byte of the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The whole head was there.
    Complete(T),
    /// The head goes on beyond the bytes given.
    Partial,
}

/// The versions this codec speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// HTTP/1.0: no chunked bodies, connections close unless kept alive.
    Http10,
    /// HTTP/1.1.
    Http11,
}

impl Version {
    /// As written on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// Whether `bytes` may hold a whole head, given that the first `seen` bytes were already known not to.
///
/// A head ends at its first empty line, so only the new bytes (and three before them) are looked at: call this
/// before parsing a partial head again, so that a peer who sends byte by byte costs linear, not quadratic, work.
/// `true` promises nothing but that parsing is worth a try. Parse the first bytes of a message in any case, so that
/// what is not HTTP at all is refused at once, and parse whenever [`Limits::head_bytes`] are there, which ends it.
#[must_use]
pub fn may_hold_head(bytes: &[u8], seen: usize) -> bool {
    let from = seen.saturating_sub(3).min(bytes.len());
    memchr::memmem::find(&bytes[from..], b"\r\n\r\n").is_some()
}
