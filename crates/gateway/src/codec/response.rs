//! Response heads.

use super::class::value_end;
use super::cursor::{Cursor, Stop};
use super::semantics::Facts;
use super::{Connection, Field, FieldStorage, Framing, Limits, Malformed, Method, Parsed, Version};

/// A response's head, all of it borrowed from the read buffer and the field storage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResponseHead<'b, 's> {
    /// Bytes of the head; the body begins there.
    pub len: usize,
    /// From 100 to 599.
    pub status: u16,
    /// Reason phrase, empty when there is none or it is not ASCII. Means nothing.
    pub reason: &'b str,
    /// Version of the response.
    pub version: Version,
    /// All fields in order.
    pub fields: &'s [Field<'b>],
    /// How the body is delimited. `None` where status or method forbid a body, whatever `Content-Length` says.
    pub framing: Framing,
    /// What `Connection` asks for.
    pub connection: Connection,
    /// Protocol that a 101 switches to, if it names one as it must: `Upgrade`, and `Connection` naming that.
    pub upgrade: Option<&'b [u8]>,
}

impl ResponseHead<'_, '_> {
    /// Whether another response to the same request follows: 1xx but for 101, which ends HTTP here.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }

    /// Whether the connection can carry another request once this response has ended.
    #[must_use]
    pub const fn persists(&self) -> bool {
        self.connection.persists(self.version)
            && self.status != 101
            && !matches!(self.framing, Framing::UntilClose)
    }
}

/// Parses the response head at the beginning of `bytes`, the answer to a request of method `to`.
///
/// What `storage` held is forgotten.
///
/// # Errors
/// [`Malformed`] when the head cannot become a sound one, whatever follows: close the upstream connection and answer
/// 502.
#[inline]
pub fn parse_response<'b, 's>(
    bytes: &'b [u8],
    storage: &'s mut FieldStorage<'b>,
    limits: &Limits,
    to: Method,
) -> Result<Parsed<ResponseHead<'b, 's>>, Malformed> {
    let mut cursor = Cursor { bytes: &bytes[..bytes.len().min(limits.head_bytes)], at: 0 };
    match response(&mut cursor, storage, limits, to) {
        Ok(head) => Ok(Parsed::Complete(head)),
        Err(Stop::Malformed(malformed)) => Err(malformed),
        Err(Stop::Partial) if bytes.len() < limits.head_bytes => Ok(Parsed::Partial),
        Err(Stop::Partial) => Err(Malformed::HeadTooLarge),
    }
}

fn response<'b, 's>(
    cursor: &mut Cursor<'b>,
    storage: &'s mut FieldStorage<'b>,
    limits: &Limits,
    to: Method,
) -> Result<ResponseHead<'b, 's>, Stop> {
    let version = cursor.version()?;
    cursor.space(Malformed::StatusLine)?;
    let status = status(cursor)?;
    let reason = match cursor.peek()? {
        b' ' => {
            cursor.at += 1;
            cursor.take_to(value_end(cursor.bytes, cursor.at))
        }
        _ => b"",
    };
    cursor.line_end(Malformed::StatusLine)?;

    storage.fields.clear();
    let facts = Facts::read(cursor, storage, limits)?;
    let framing = framing(&facts, version, status, to)?;
    Ok(ResponseHead {
        len: cursor.at,
        status,
        reason: str::from_utf8(reason).ok().filter(|reason| reason.is_ascii()).unwrap_or(""),
        version,
        fields: &storage.fields,
        framing,
        connection: facts.connection,
        upgrade: if status == 101 { facts.upgrade(version)? } else { None },
    })
}

fn status(cursor: &mut Cursor<'_>) -> Result<u16, Stop> {
    let Some(digits) = cursor.bytes.get(cursor.at..cursor.at + 3) else { return Err(Stop::Partial) };
    let [b'1'..=b'5', b'0'..=b'9', b'0'..=b'9'] = digits else { return Err(Malformed::Status.into()) };
    cursor.at += 3;
    Ok(digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

/// RFC 9112, 6.3, but for what it lets a recipient repair.
fn framing(facts: &Facts<'_>, version: Version, status: u16, to: Method) -> Result<Framing, Malformed> {
    let stated = facts.framing(version)?;
    let success = (200..300).contains(&status);
    match (status, stated) {
        // Such a response has no body, so one that states a body was made by a confused sender.
        (100..=199 | 204, Some(Framing::Chunked)) => Err(Malformed::CodingUnexpected),
        (100..=199 | 204, Some(Framing::Length(1..))) => Err(Malformed::LengthUnexpected),
        (100..=199 | 204 | 304, _) => Ok(Framing::None),
        // These state the body that another method would have got.
        _ if to == Method::Head || (to == Method::Connect && success) => Ok(Framing::None),
        (_, stated) => Ok(stated.unwrap_or(Framing::UntilClose)),
    }
}
