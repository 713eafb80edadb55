//! The PROXY protocol, versions 1 and 2: who a connection is really from, said by a proxy in front, and said to endpoints.
//!
//! Source: "The PROXY protocol", HAProxy, <https://www.haproxy.org/download/2.6/doc/proxy-protocol.txt>.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::ProxyVersion;

/// Longest header that is read. One of version 1 has at most 107 bytes; one of version 2 usually fewer than 600, extensions
/// included.
pub const HEADER_MAX: usize = 4 * 1024;

/// Longest header of version 1, its CRLF included.
const V1_MAX: usize = 107;
const V1_BEGIN: &[u8] = b"PROXY ";
const V2_BEGIN: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family, length.
const V2_FIXED: usize = 16;

/// Both ends of a client's connection, as the first proxy saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// They may become a header.
    Partial,
    /// They are none, whatever follows.
    Absent,
    /// A header of `len` bytes.
    Complete {
        /// Its length.
        len: usize,
        /// Whose connection it is; `None` when it is the proxy's own, such as a health check, or not of TCP.
        ends: Option<Ends>,
    },
}

/// A header that breaks a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHeader;

/// Reads the header at the beginning of `bytes`. Extensions (TLVs) are skipped.
///
/// A verdict on some bytes is the verdict on all that begin with them.
///
/// # Errors
/// It begins like one and cannot become one.
pub fn parse_header(bytes: &[u8]) -> Result<Header, BadHeader> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(byte, wanted)| byte == wanted);
    if begins(V2_BEGIN) {
        return if bytes.len() < V2_FIXED { fixed(bytes) } else { version_2(bytes) };
    }
    if !begins(V1_BEGIN) {
        return Ok(Header::Absent);
    }
    let line = &bytes[..bytes.len().min(V1_MAX)];
    match memchr::memchr(b'\n', line) {
        None if line.len() < V1_MAX => Ok(Header::Partial),
        None => Err(BadHeader),
        Some(end) => {
            let text = line[..end].strip_suffix(b"\r").ok_or(BadHeader)?;
            let text = std::str::from_utf8(text).map_err(|_| BadHeader)?;
            Ok(Header::Complete { len: end + 1, ends: version_1(text)? })
        }
    }
}

/// Judges version, command and family as soon as they are there.
fn fixed(bytes: &[u8]) -> Result<Header, BadHeader> {
    let sound = bytes.get(12).is_none_or(|command| matches!(command, 0x20 | 0x21))
        && bytes.get(13).is_none_or(|family| matches!(family, 0x00 | 0x11 | 0x21 | 0x31));
    if sound { Ok(Header::Partial) } else { Err(BadHeader) }
}

fn version_2(bytes: &[u8]) -> Result<Header, BadHeader> {
    fixed(bytes)?;
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    let (local, family) = (bytes[12] == 0x20, bytes[13]);
    let addresses = match family {
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => 0,
    };
    if V2_FIXED + length > HEADER_MAX || (!local && length < addresses) {
        return Err(BadHeader);
    }
    let Some(body) = bytes.get(V2_FIXED..V2_FIXED + length) else { return Ok(Header::Partial) };
    let ends = match family {
        _ if local => None,
        0x11 => {
            let ip =
                |at: usize| IpAddr::from(Ipv4Addr::new(body[at], body[at + 1], body[at + 2], body[at + 3]));
            Some(ends(ip(0), ip(4), &body[8..12]))
        }
        0x21 => {
            let ip = |at: usize| {
                let mut octets = [0; 16];
                octets.copy_from_slice(&body[at..at + 16]);
                IpAddr::from(Ipv6Addr::from(octets))
            };
            Some(ends(ip(0), ip(16), &body[32..36]))
        }
        // Not addresses of the Internet: those of the connection itself are all there is.
        _ => None,
    };
    Ok(Header::Complete { len: V2_FIXED + length, ends })
}

fn ends(source: IpAddr, destination: IpAddr, ports: &[u8]) -> Ends {
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Ends { source: SocketAddr::new(source, port(0)), destination: SocketAddr::new(destination, port(2)) }
}

fn version_1(line: &str) -> Result<Option<Ends>, BadHeader> {
    let mut words = line.split(' ');
    words.next(); // PROXY
    let family = words.next().ok_or(BadHeader)?;
    if family == "UNKNOWN" {
        return Ok(None); // what follows is to be ignored
    }
    let mut word = || words.next().ok_or(BadHeader);
    let (source, destination) = match family {
        "TCP4" => (IpAddr::V4(parsed(word()?)?), IpAddr::V4(parsed(word()?)?)),
        "TCP6" => (IpAddr::V6(parsed(word()?)?), IpAddr::V6(parsed(word()?)?)),
        _ => return Err(BadHeader),
    };
    let ports = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(BadHeader);
    }
    Ok(Some(Ends {
        source: SocketAddr::new(source, ports.0),
        destination: SocketAddr::new(destination, ports.1),
    }))
}

fn parsed<T: std::str::FromStr>(word: &str) -> Result<T, BadHeader> {
    word.parse().map_err(|_| BadHeader)
}

fn port(word: &str) -> Result<u16, BadHeader> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    if digits { parsed(word) } else { Err(BadHeader) }
}

/// Writes the header that tells an endpoint whose connection it gets. No extensions.
pub fn write_header(version: ProxyVersion, ends: &Ends, out: &mut Vec<u8>) {
    // An IPv4 client of a socket that takes both is an IPv4 client. Where only one side is, both are written as IPv6.
    let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (canonical(ends.source), canonical(ends.destination));
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let narrow = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Some((source, destination)),
        _ => None,
    };
    let (from, to) = (source.port(), destination.port());
    match (version, narrow) {
        (ProxyVersion::V1, Some((source, destination))) => {
            let _ = write!(out, "PROXY TCP4 {source} {destination} {from} {to}\r\n");
        }
        (ProxyVersion::V1, None) => {
            let (source, destination) = (wide(source.ip()), wide(destination.ip()));
            let _ = write!(out, "PROXY TCP6 {source} {destination} {from} {to}\r\n");
        }
        (ProxyVersion::V2, narrow) => {
            out.extend_from_slice(V2_BEGIN);
            match narrow {
                Some((source, destination)) => {
                    out.extend_from_slice(&[0x21, 0x11, 0, 12]);
                    out.extend_from_slice(&source.octets());
                    out.extend_from_slice(&destination.octets());
                }
                None => {
                    out.extend_from_slice(&[0x21, 0x21, 0, 36]);
                    out.extend_from_slice(&wide(source.ip()).octets());
                    out.extend_from_slice(&wide(destination.ip()).octets());
                }
            }
            out.extend_from_slice(&from.to_be_bytes());
            out.extend_from_slice(&to.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(source: &str, destination: &str) -> Ends {
        Ends { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn complete(bytes: &[u8]) -> (usize, Option<Ends>) {
        match parse_header(bytes) {
            Ok(Header::Complete { len, ends }) => (len, ends),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reads_the_examples_of_the_specification() {
        let line = b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\nGET / HTTP/1.1\r\n";
        assert_eq!(complete(line), (56, Some(of("255.255.255.255:65535", "255.255.255.255:65535"))));
        assert_eq!(
            complete(b"PROXY TCP6 2001:db8::1 ::1 5 443\r\n").1,
            Some(of("[2001:db8::1]:5", "[::1]:443"))
        );
        assert_eq!(complete(b"PROXY UNKNOWN\r\n"), (15, None));
        assert_eq!(complete(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n").1, None);
    }

    #[test]
    fn version_2_skips_extensions_and_knows_a_proxys_own_connections() {
        let mut bytes = Vec::new();
        write_header(ProxyVersion::V2, &of("1.2.3.4:5", "6.7.8.9:10"), &mut bytes);
        bytes[15] += 4;
        bytes.extend([0x04, 0, 1, 0, b'x']);
        assert_eq!(complete(&bytes), (32, Some(of("1.2.3.4:5", "6.7.8.9:10"))));
        bytes[12] = 0x20;
        assert_eq!(complete(&bytes), (32, None));
        let mut local = V2_BEGIN.to_vec();
        local.extend([0x20, 0, 0, 0]);
        assert_eq!(complete(&local), (16, None));
        let mut unix = V2_BEGIN.to_vec();
        unix.extend([0x21, 0x31, 0, 216]);
        unix.extend([0; 216]);
        assert_eq!(complete(&unix), (232, None));
    }

    #[test]
    fn refuses_what_begins_like_a_header_and_is_none() {
        for bad in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY \r\n",
            "PROXY TCP4 1.2.3.4\0 5.6.7.8 1 2\r\n",
        ] {
            assert_eq!(parse_header(bad.as_bytes()), Err(BadHeader), "{bad:?}");
        }
        assert_eq!(parse_header(&[b"PROXY ".as_slice(), &[b'x'; 101]].concat()), Err(BadHeader));
        for (command, family, length) in
            [(0x11, 0x11, 12), (0x22, 0x11, 12), (0x21, 0x12, 12), (0x21, 0x11, 11)]
        {
            let mut bytes = V2_BEGIN.to_vec();
            bytes.extend([command, family, 0, length]);
            assert_eq!(parse_header(&bytes), Err(BadHeader), "{command:x} {family:x} {length}");
        }
        let mut long = V2_BEGIN.to_vec();
        long.extend([0x21, 0x11, 0xff, 0xff]);
        assert_eq!(parse_header(&long), Err(BadHeader));
    }

    #[test]
    fn other_first_bytes_are_no_header() {
        for other in
            ["GET / HTTP/1.1\r\n", "PROXX", "PRI * HTTP/2.0\r\n\r\n", "\x16\x03\x01", "\r\n\r\nx", "\r\nGET"]
        {
            assert_eq!(parse_header(other.as_bytes()), Ok(Header::Absent), "{other:?}");
        }
        assert_eq!(parse_header(b"PRO"), Ok(Header::Partial));
        assert_eq!(parse_header(b"\r\n"), Ok(Header::Partial));
        assert_eq!(parse_header(b""), Ok(Header::Partial));
    }

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        // Version 1 cannot tell a mapped address from the IPv4 one that it stands for.
        any::<SocketAddr>().prop_map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            source in addresses(), destination in addresses(), old: bool,
            follows in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let version = if old { ProxyVersion::V1 } else { ProxyVersion::V2 };
            let mut bytes = Vec::new();
            write_header(version, &Ends { source, destination }, &mut bytes);
            let len = bytes.len();
            prop_assert!(!old || len <= V1_MAX);
            for end in 0..len {
                prop_assert_eq!(parse_header(&bytes[..end]), Ok(Header::Partial));
            }
            bytes.extend(follows);
            let Ok(Header::Complete { len: read, ends: Some(ends) }) = parse_header(&bytes) else {
                return Err(TestCaseError::fail("it is whole"));
            };
            prop_assert_eq!(read, len);
            let same = |a: SocketAddr, b: SocketAddr| a.ip().to_canonical() == b.ip() && a.port() == b.port();
            prop_assert!(same(ends.source, source) && same(ends.destination, destination));
        }

        #[test]
        fn verdicts_are_final_whatever_the_bytes(
            v2: bool, mut rest in prop::collection::vec(any::<u8>(), 0..60), cut in 0usize..60,
        ) {
            let mut bytes = if v2 { V2_BEGIN.to_vec() } else { V1_BEGIN.to_vec() };
            if v2 && rest.len() > 2 {
                rest[0] = 0x20 | (rest[0] & 1);
            }
            bytes.extend(rest);
            let early = parse_header(&bytes[..cut.min(bytes.len())]);
            if early != Ok(Header::Partial) {
                prop_assert_eq!(parse_header(&bytes), early);
            }
        }
    }
}
