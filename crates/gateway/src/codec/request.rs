//! Request heads.

use super::class::{target_end, token_end};
use super::cursor::{Cursor, Stop};
use super::semantics::Facts;
use super::target::authority;
use super::{Connection, Field, FieldStorage, Form, Framing, Limits, Malformed, Parsed, Target, Version};

/// Request methods that something in the gateway depends on. Methods are case-sensitive: `get` is `Other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`: its response has no body whatever its fields say.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `OPTIONS`.
    Options,
    /// `TRACE`.
    Trace,
    /// `PATCH`.
    Patch,
    /// `CONNECT`: never in an accepted request.
    Connect,
    /// Any other token.
    Other,
}

impl Method {
    /// The method of this name.
    #[inline]
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"GET" => Self::Get,
            b"HEAD" => Self::Head,
            b"POST" => Self::Post,
            b"PUT" => Self::Put,
            b"DELETE" => Self::Delete,
            b"OPTIONS" => Self::Options,
            b"TRACE" => Self::Trace,
            b"PATCH" => Self::Patch,
            b"CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }

    /// Whether doing it twice intends the same as doing it once (RFC 9110, 9.2.2). `Other` is not assumed to be.
    #[must_use]
    pub const fn is_idempotent(self) -> bool {
        matches!(self, Self::Get | Self::Head | Self::Put | Self::Delete | Self::Options | Self::Trace)
    }
}

/// A request's head, all of it borrowed from the read buffer and the field storage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestHead<'b, 's> {
    /// Bytes of the head; the body begins there.
    pub len: usize,
    /// Which method.
    pub method: Method,
    /// The method as received.
    pub method_text: &'b str,
    /// What is asked for.
    pub target: Target<'b>,
    /// Version of the request.
    pub version: Version,
    /// All fields in order.
    pub fields: &'s [Field<'b>],
    /// Host and port asked for, case as received: from an absolute target, which wins over a differing `Host` (RFC
    /// 9112, 3.2.2), else from `Host`; empty for HTTP/1.0 without one. Whoever sends the request on must write
    /// `Host` from here rather than copy the field, so that no later reader sees another.
    pub host: &'b str,
    /// How the body is delimited; never `UntilClose`.
    pub framing: Framing,
    /// What `Connection` asks for.
    pub connection: Connection,
    /// Protocols to switch to, if the client may and asks to; the request then has no body.
    pub upgrade: Option<&'b [u8]>,
    /// The client waits for `100 Continue` before it sends its body. Not set without a body, nor in HTTP/1.0.
    pub expect_continue: bool,
}

impl RequestHead<'_, '_> {
    /// Whether the client would send another request on this connection.
    #[must_use]
    pub const fn persists(&self) -> bool {
        self.connection.persists(self.version)
    }
}

/// Parses the request head at the beginning of `bytes`.
///
/// One empty line before it is skipped and counted in [`RequestHead::len`] (RFC 9112, 2.2). What `storage` held is
/// forgotten.
///
/// # Errors
/// [`Malformed`] when the head cannot become a sound one, whatever follows: answer its status and close.
#[inline]
pub fn parse_request<'b, 's>(
    bytes: &'b [u8],
    storage: &'s mut FieldStorage<'b>,
    limits: &Limits,
) -> Result<Parsed<RequestHead<'b, 's>>, Malformed> {
    // Bytes beyond the limit are never looked at, so that the verdict does not depend on how many have arrived.
    let mut cursor = Cursor { bytes: &bytes[..bytes.len().min(limits.head_bytes)], at: 0 };
    let mut line_read = false;
    match request(&mut cursor, storage, limits, &mut line_read) {
        Ok(head) => Ok(Parsed::Complete(head)),
        Err(Stop::Malformed(malformed)) => Err(malformed),
        Err(Stop::Partial) if bytes.len() < limits.head_bytes => Ok(Parsed::Partial),
        Err(Stop::Partial) if line_read => Err(Malformed::HeadTooLarge),
        Err(Stop::Partial) => Err(Malformed::TargetTooLong),
    }
}

fn request<'b, 's>(
    cursor: &mut Cursor<'b>,
    storage: &'s mut FieldStorage<'b>,
    limits: &Limits,
    line_read: &mut bool,
) -> Result<RequestHead<'b, 's>, Stop> {
    if cursor.peek()? == b'\r' {
        cursor.line_end(Malformed::RequestLine)?;
    }
    let method_text = text(cursor.take_to(token_end(cursor.bytes, cursor.at)))?;
    cursor.space(Malformed::RequestLine)?;
    let method = Method::of(method_text.as_bytes());
    if method_text.is_empty() {
        return Err(Malformed::RequestLine.into());
    }
    if method == Method::Connect {
        return Err(Malformed::Connect.into());
    }
    let target = text(cursor.take_to(target_end(cursor.bytes, cursor.at)))?;
    match cursor.peek()? {
        b' ' => cursor.at += 1,
        b'\n' => return Err(Malformed::BareLf.into()),
        b'\r' => return Err(Malformed::RequestLine.into()),
        b'#' => return Err(Malformed::Fragment.into()),
        _ => return Err(Malformed::Target.into()),
    }
    let target = Target::parse(target, method == Method::Options)?;
    let version = cursor.version()?;
    cursor.line_end(Malformed::RequestLine)?;
    // Only now, so that HTTP/2's `PRI * HTTP/2.0` is answered by its version.
    if target.form == Form::Asterisk && method != Method::Options {
        return Err(Malformed::Target.into());
    }
    *line_read = true;

    storage.fields.clear();
    let facts = Facts::read(cursor, storage, limits)?;
    let host = match facts.host.get(Malformed::HostDuplicate)? {
        Some(host) => authority(host)?,
        None if version == Version::Http11 => return Err(Malformed::HostMissing.into()),
        None => "",
    };
    let framing = facts.framing(version)?.unwrap_or(Framing::None);
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));
    let expect = facts.expect.get(Malformed::Expect)?;
    if expect.is_some_and(|value| !value.eq_ignore_ascii_case(b"100-continue")) {
        return Err(Malformed::Expect.into());
    }
    let upgrade = facts.upgrade(version)?;
    if upgrade.is_some() && has_body {
        return Err(Malformed::UpgradeWithBody.into());
    }
    Ok(RequestHead {
        len: cursor.at,
        method,
        method_text,
        target,
        version,
        fields: &storage.fields,
        host: target.authority.unwrap_or(host),
        framing,
        connection: facts.connection,
        upgrade,
        expect_continue: expect.is_some() && has_body && version == Version::Http11,
    })
}

/// Bytes that a scan has found to be ASCII.
#[inline]
fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    str::from_utf8(bytes).map_err(|_| Malformed::RequestLine)
}
