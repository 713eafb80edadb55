//! The server name of a TLS ClientHello, read without ending TLS. No I/O: bytes in, a verdict out.
//!
//! Only the structure that leads to the name is looked at, and that strictly: whatever does not add up is refused, so that this
//! gateway and the endpoint behind it cannot read two names in one message.

use std::borrow::Cow;

use crate::router::pattern::is_host_name;

/// Bytes of a ClientHello, record headers included, that are waited for. What browsers send with post-quantum keys stays
/// below 2 KiB; one with a large session ticket below 8 KiB.
pub const HELLO_MAX: usize = 16 * 1024;

/// A record's header: type, version, length.
const RECORD_HEADER: usize = 5;
/// Bytes of one record's content (RFC 8446, 5.1).
const RECORD_MAX: usize = 16 * 1024;
/// The record type of handshakes.
const HANDSHAKE: u8 = 22;
/// The handshake type of a ClientHello.
const CLIENT_HELLO: u8 = 1;
/// The extension that names the server (RFC 6066, 3).
const SERVER_NAME: u16 = 0;

/// A fatal alert, `unrecognized_name`: what a client is told whose name leads nowhere.
pub(super) const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A whole ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The name of the server that the client wants, in lower case; `None` when it names none.
    pub server_name: Option<String>,
}

/// Why bytes are no ClientHello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHello {
    /// No TLS record of a handshake.
    NotTls,
    /// A handshake that begins with something else.
    NotAHello,
    /// Its lengths do not add up.
    Lengths,
    /// It is longer than [`HELLO_MAX`].
    TooLong,
    /// The extension that names the server says nothing usable, or stands there twice.
    Name,
}

impl BadHello {
    /// Its name in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::NotAHello => "not_a_client_hello",
            Self::Lengths => "lengths",
            Self::TooLong => "too_long",
            Self::Name => "server_name",
        }
    }
}

/// Reads the ClientHello at the beginning of `bytes`; `None` when more bytes are needed. What follows it is not looked at.
///
/// A verdict on some bytes is the verdict on all that begin with them.
///
/// # Errors
/// [`BadHello`] when no bytes that follow could make it one.
pub fn parse_client_hello(bytes: &[u8]) -> Result<Option<ClientHello>, BadHello> {
    let Some(message) = handshake(bytes)? else { return Ok(None) };
    let server_name = server_name(&message)?;
    Ok(Some(ClientHello { server_name }))
}

/// The body of the first handshake message, put together from its records.
fn handshake(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, BadHello> {
    let bytes = &bytes[..bytes.len().min(HELLO_MAX)];
    let mut at = 0;
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    loop {
        let rest = &bytes[at..];
        if rest.first().is_some_and(|kind| *kind != HANDSHAKE) || rest.get(1).is_some_and(|major| *major != 3)
        {
            return Err(BadHello::NotTls);
        }
        let Some(&[_, _, _, high, low]) = rest.first_chunk::<RECORD_HEADER>() else { return partial(bytes) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if length == 0 || length > RECORD_MAX {
            return Err(BadHello::NotTls);
        }
        let begun = &rest[RECORD_HEADER..];
        let content = &begun[..length.min(begun.len())];
        match &mut message {
            Cow::Borrowed([]) => message = Cow::Borrowed(content),
            longer => longer.to_mut().extend_from_slice(content),
        }
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(BadHello::NotAHello);
        }
        if let Some(&[_, a, b, c]) = message.first_chunk::<4>() {
            let stated = u32::from_be_bytes([0, a, b, c]) as usize;
            if stated > HELLO_MAX {
                return Err(BadHello::TooLong);
            }
            if message.len() >= 4 + stated {
                return Ok(Some(match message {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[4..4 + stated]),
                    Cow::Owned(message) => Cow::Owned(message[4..4 + stated].to_vec()),
                }));
            }
        }
        if begun.len() < length {
            return partial(bytes);
        }
        at += RECORD_HEADER + length;
    }
}

/// More is needed, unless too much has come already: tiny records could otherwise stretch a message without end.
fn partial<T>(bytes: &[u8]) -> Result<Option<T>, BadHello> {
    if bytes.len() < HELLO_MAX { Ok(None) } else { Err(BadHello::TooLong) }
}

/// The bytes of a message that are left to read.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn take(&mut self, count: usize) -> Result<&'b [u8], BadHello> {
        let (taken, left) = self.0.split_at_checked(count).ok_or(BadHello::Lengths)?;
        self.0 = left;
        Ok(taken)
    }

    /// A number of `width` bytes.
    fn number(&mut self, width: usize) -> Result<usize, BadHello> {
        Ok(self.take(width)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What follows its own length of `width` bytes.
    fn vector(&mut self, width: usize) -> Result<&'b [u8], BadHello> {
        let length = self.number(width)?;
        self.take(length)
    }
}

/// The name in the body of a ClientHello (RFC 8446, 4.1.2).
fn server_name(body: &[u8]) -> Result<Option<String>, BadHello> {
    let mut body = Reader(body);
    body.take(2 + 32)?; // version and random
    if body.vector(1)?.len() > 32 {
        return Err(BadHello::Lengths); // session id
    }
    let suites = body.vector(2)?;
    if suites.is_empty() || suites.len() % 2 != 0 || body.vector(1)?.is_empty() {
        return Err(BadHello::Lengths); // cipher suites and compression methods
    }
    if body.0.is_empty() {
        return Ok(None); // before extensions were invented
    }
    let mut extensions = Reader(body.vector(2)?);
    if !body.0.is_empty() {
        return Err(BadHello::Lengths);
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let content = extensions.vector(2)?;
        if kind == usize::from(SERVER_NAME) && found.replace(host_name(content)?).is_some() {
            return Err(BadHello::Name);
        }
    }
    Ok(found)
}

/// The only name in the extension: there is one type of name, and one name of each type (RFC 6066, 3).
fn host_name(content: &[u8]) -> Result<String, BadHello> {
    let mut content = Reader(content);
    let mut list = Reader(content.vector(2)?);
    if list.number(1)? != 0 {
        return Err(BadHello::Name);
    }
    let name = list.vector(2)?;
    if !content.0.is_empty() || !list.0.is_empty() {
        return Err(BadHello::Name);
    }
    let name = std::str::from_utf8(name).map_err(|_| BadHello::Name)?;
    if !is_host_name(name) {
        return Err(BadHello::Name);
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector(width: usize, content: &[u8]) -> Vec<u8> {
        [&content.len().to_be_bytes()[8 - width..], content].concat()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector(2, content)].concat()
    }

    fn naming(name: &str) -> Vec<u8> {
        extension(0, &vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat()))
    }

    fn message(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(vector(1, &[9; 32]));
        body.extend(vector(2, &[0x13, 1, 0x13, 2]));
        body.extend(vector(1, &[0]));
        body.extend(extensions.map(|extensions| vector(2, extensions)).unwrap_or_default());
        [&[1][..], &vector(3, &body)].concat()
    }

    /// The message in records of at most `size` bytes.
    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[22, 3, 1][..], &vector(2, part)].concat()).collect()
    }

    fn hello(extensions: &[u8]) -> Vec<u8> {
        records(&message(Some(extensions)), RECORD_MAX)
    }

    fn name(bytes: &[u8]) -> Result<Option<String>, BadHello> {
        parse_client_hello(bytes).map(|hello| hello.expect("it is whole").server_name)
    }

    #[test]
    fn finds_the_name_among_other_extensions() {
        let others = extension(0x2b, &[2, 3, 4]);
        let bytes = hello(&[&others[..], &naming("Shop.Example"), &others].concat());
        assert_eq!(name(&bytes), Ok(Some("shop.example".to_owned())));
        assert_eq!(name(&hello(&others)), Ok(None));
        assert_eq!(name(&hello(&[])), Ok(None));
        assert_eq!(name(&records(&message(None), RECORD_MAX)), Ok(None));
    }

    #[test]
    fn refuses_what_two_readers_could_read_differently() {
        let twice = [naming("a.example"), naming("b.example")].concat();
        let two_names = vector(2, &[&[0][..], &vector(2, b"a"), &[0], &vector(2, b"b")].concat());
        let other_type = vector(2, &[&[1][..], &vector(2, b"a")].concat());
        for bad in
            [twice, extension(0, &two_names), extension(0, &other_type), extension(0, &vector(2, &[0, 0, 0]))]
        {
            assert_eq!(name(&hello(&bad)), Err(BadHello::Name));
        }
        for bad in ["", "a\0.example", "a example", "a.example.", "é.example", "[::1]"] {
            assert_eq!(name(&hello(&naming(bad))), Err(BadHello::Name), "{bad:?}");
        }
        let mut trailing = message(Some(&naming("a.example")));
        trailing.push(0);
        let length = (trailing.len() - 4) as u32;
        trailing[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
        assert_eq!(name(&records(&trailing, RECORD_MAX)), Err(BadHello::Lengths));
    }

    #[test]
    fn refuses_what_is_no_tls_at_its_first_byte() {
        assert_eq!(parse_client_hello(b"G"), Err(BadHello::NotTls));
        assert_eq!(parse_client_hello(b"\x16\x02"), Err(BadHello::NotTls));
        assert_eq!(parse_client_hello(b"\x16\x03\x01\x00\x00"), Err(BadHello::NotTls));
        assert_eq!(parse_client_hello(b"\x16\x03\x01\x40\x01"), Err(BadHello::NotTls));
        assert_eq!(parse_client_hello(b"\x16\x03\x01\x00\x04\x02"), Err(BadHello::NotAHello));
        assert_eq!(parse_client_hello(b"\x16\x03\x01\x00\x04\x01\x01\x00\x00"), Err(BadHello::TooLong));
        assert_eq!(parse_client_hello(b""), Ok(None));
    }

    #[test]
    fn tiny_records_cannot_stretch_a_hello_without_end() {
        let padding = extension(21, &[0; 8000]);
        let bytes = records(&message(Some(&padding)), 1);
        assert_eq!(parse_client_hello(&bytes[..HELLO_MAX]), Err(BadHello::TooLong));
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(
            label in "[a-z0-9-]{1,20}",
            before in prop::collection::vec(any::<u8>(), 0..300),
            size in 1usize..400,
            follows in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let host = format!("{label}.example");
            let extensions = [extension(0x1234, &before), naming(&host)].concat();
            let mut bytes = records(&message(Some(&extensions)), size);
            let whole = bytes.len();
            for end in 0..whole {
                prop_assert_eq!(parse_client_hello(&bytes[..end]), Ok(None), "after {} of {}", end, whole);
            }
            bytes.extend(follows);
            prop_assert_eq!(name(&bytes), Ok(Some(host)));
        }

        #[test]
        fn verdicts_are_final_whatever_the_damage(
            at in 0usize..200, byte: u8, size in 1usize..400, cut in 0usize..200,
        ) {
            let mut bytes = records(&message(Some(&naming("shop.example"))), size);
            let at = at % bytes.len();
            bytes[at] = byte;
            let early = parse_client_hello(&bytes[..cut.min(bytes.len())]);
            if early != Ok(None) {
                prop_assert_eq!(parse_client_hello(&bytes), early);
            }
        }
    }
}
