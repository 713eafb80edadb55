//! What the fields of a head say together about framing and the connection: the rules shared by both directions.

use super::class::{is_token, trim};
use super::cursor::{Cursor, Stop};
use super::{FIELDS_MAX, Field, FieldId, FieldStorage, Limits, Malformed, Version};

/// How a message's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body, and no bytes for one.
    None,
    /// Exactly so many bytes, stated by `Content-Length`; may be 0.
    Length(u64),
    /// Chunks up to one of size 0.
    Chunked,
    /// Everything until the connection closes; responses only.
    UntilClose,
}

/// What the `Connection` fields ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// `close`: wins over `keep_alive`.
    pub close: bool,
    /// `keep-alive`: of meaning in HTTP/1.0 only.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Some other option is listed. Fields of that name that nothing here knows have [`FieldId::Listed`].
    pub others: bool,
}

impl Connection {
    /// Whether the sender would keep the connection after this message, as far as `Connection` and version tell.
    #[must_use]
    pub const fn persists(self, version: Version) -> bool {
        !self.close && (matches!(version, Version::Http11) || self.keep_alive)
    }

    fn add(&mut self, value: &[u8]) -> Result<(), Malformed> {
        for option in options(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if option.eq_ignore_ascii_case(b"upgrade") {
                self.upgrade = true;
            } else if is_token(option) {
                self.others = true;
            } else {
                return Err(Malformed::Connection);
            }
        }
        Ok(())
    }
}

/// The members of a comma-separated list, without the empty ones.
fn options(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|option| !option.is_empty())
}

/// The value of a field that may stand in a head once. Whether a repetition matters is for the reader to say.
#[derive(Default)]
pub(super) struct Single<'b> {
    value: Option<&'b [u8]>,
    repeated: bool,
}

impl<'b> Single<'b> {
    fn add(&mut self, value: &'b [u8]) {
        self.repeated = self.value.replace(value).is_some();
    }

    /// The value, or `otherwise` if there are several, equal or not.
    pub(super) fn get(&self, otherwise: Malformed) -> Result<Option<&'b [u8]>, Malformed> {
        if self.repeated { Err(otherwise) } else { Ok(self.value) }
    }
}

/// What was learnt from the fields of one head.
#[derive(Default)]
pub(super) struct Facts<'b> {
    pub(super) host: Single<'b>,
    pub(super) expect: Single<'b>,
    pub(super) connection: Connection,
    upgrade: Single<'b>,
    length: Option<u64>,
    chunked: bool,
}

impl<'b> Facts<'b> {
    /// Reads all field lines and the empty line after them.
    #[inline]
    pub(super) fn read(
        cursor: &mut Cursor<'b>,
        storage: &mut FieldStorage<'b>,
        limits: &Limits,
    ) -> Result<Self, Stop> {
        let fields_max = limits.fields_max.min(FIELDS_MAX);
        let mut facts = Self::default();
        while cursor.peek()? != b'\r' {
            if storage.fields.len() == fields_max {
                return Err(Malformed::FieldsTooMany.into());
            }
            let field = cursor.field()?;
            facts.add(&field)?;
            storage.fields.push(field);
        }
        cursor.line_end(Malformed::Name)?;
        if facts.connection.others {
            mark_listed(&mut storage.fields);
        }
        Ok(facts)
    }

    #[inline]
    fn add(&mut self, field: &Field<'b>) -> Result<(), Malformed> {
        match field.id {
            FieldId::Host => self.host.add(field.value),
            FieldId::Expect => self.expect.add(field.value),
            FieldId::Upgrade => self.upgrade.add(field.value),
            FieldId::Connection => self.connection.add(field.value)?,
            FieldId::ContentLength if self.chunked => return Err(Malformed::LengthWithCoding),
            FieldId::ContentLength if self.length.is_some() => return Err(Malformed::LengthDuplicate),
            FieldId::ContentLength => self.length = Some(length(field.value)?),
            FieldId::TransferEncoding if self.length.is_some() => return Err(Malformed::LengthWithCoding),
            FieldId::TransferEncoding if self.chunked => return Err(Malformed::CodingDuplicate),
            FieldId::TransferEncoding if !field.value.eq_ignore_ascii_case(b"chunked") => {
                return Err(Malformed::Coding);
            }
            FieldId::TransferEncoding => self.chunked = true,
            _ => {}
        }
        Ok(())
    }

    /// How the fields alone delimit a body; `None` when they say nothing.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, Malformed> {
        match (self.chunked, self.length) {
            (true, _) if version == Version::Http10 => Err(Malformed::CodingUnexpected),
            (true, _) => Ok(Some(Framing::Chunked)),
            (false, Some(length)) => Ok(Some(Framing::Length(length))),
            (false, None) => Ok(None),
        }
    }

    /// The protocols offered or chosen, where the connection may switch at all.
    pub(super) fn upgrade(&self, version: Version) -> Result<Option<&'b [u8]>, Malformed> {
        let upgrade = self.upgrade.get(Malformed::UpgradeDuplicate)?;
        Ok(upgrade.filter(|_| self.connection.upgrade && version == Version::Http11))
    }
}

/// A `Content-Length`: digits only, no leading zero, at most 18 of them so that no reader overflows.
fn length(value: &[u8]) -> Result<u64, Malformed> {
    let sound = match value {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.len() < 18 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !sound {
        return Err(Malformed::Length);
    }
    Ok(value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Gives every otherwise unknown field that a `Connection` names the id [`FieldId::Listed`].
#[cold]
fn mark_listed(fields: &mut [Field<'_>]) {
    for at in 0..fields.len() {
        if fields[at].id != FieldId::Connection {
            continue;
        }
        for option in options(fields[at].value) {
            for field in fields.iter_mut() {
                if field.id == FieldId::Other && field.name.eq_ignore_ascii_case(option) {
                    field.id = FieldId::Listed;
                }
            }
        }
    }
}
