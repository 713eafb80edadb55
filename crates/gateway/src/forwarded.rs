//! Who the client is, and what the next hop is told about it.
//!
//! What an untrusted peer says about others is dropped: it is the client. What a trusted peer says is believed from the
//! right, because each hop appends the address that it saw itself: the client is the right-most address that is not
//! itself a trusted hop. Left of it anybody may have written anything.
//!
//! One list is believed: `X-Forwarded-For`, or `Forwarded` (RFC 7239) where there is none. A hop that extends the one
//! hands the other on as the client wrote it, so the other is dropped. `X-Forwarded-For`, `-Proto` and `-Host` always go
//! on, `Forwarded` only where it was the list that was believed. Trusted networks must therefore hold only proxies that
//! append to, or replace, the list that they send.

use std::io::Write;
use std::net::IpAddr;

use crate::codec::{Field, FieldId, write_decimal};
use crate::config::IpNet;

/// Most hops that are followed; the client of a longer chain is the last hop that was.
pub const HOPS_MAX: usize = 32;

/// How a client reaches this gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Http => b"http",
            Self::Https => b"https",
        }
    }
}

/// The client's address: the peer's, or the one that trusted hops report.
///
/// Never one that an untrusted party could choose: the walk from the right ends at the first address outside
/// `networks`, and at anything that is no address (`unknown`, obfuscated names, junk), where the hop that reported it
/// counts as the client. IPv4 addresses mapped into IPv6 come out as IPv4.
#[must_use]
pub fn client_address(peer: IpAddr, trusted: bool, networks: &[IpNet], fields: &[Field<'_>]) -> IpAddr {
    let peer = peer.to_canonical();
    if !trusted {
        return peer;
    }
    match believed(fields) {
        Some(FieldId::XForwardedFor) => {
            let hops = lines(fields, FieldId::XForwardedFor).rev();
            walk(peer, networks, hops.flat_map(|line| line.rsplit(|byte| *byte == b',')).map(address))
        }
        Some(_) => {
            let hops = lines(fields, FieldId::Forwarded).rev().map(Elements::of);
            // A damaged line is one hop that is no address.
            walk(peer, networks, hops.flat_map(Elements::right_to_left).map(|element| element.and_then(node)))
        }
        None => peer,
    }
}

/// Writes the lines that tell the next hop who the client is and what it asked for. Existing ones of the same names must
/// not be sent on beside them.
///
/// Whatever stands in `fields`, each line is one line.
pub fn write(
    peer: IpAddr,
    scheme: Scheme,
    trusted: bool,
    host: &str,
    fields: &[Field<'_>],
    out: &mut Vec<u8>,
) {
    let peer = peer.to_canonical();
    let believed = if trusted { believed(fields) } else { None };
    let stated = Stated::by(trusted, believed, fields);
    out.extend_from_slice(b"x-forwarded-for: ");
    match believed {
        Some(FieldId::XForwardedFor) => append_lines(fields, FieldId::XForwardedFor, out),
        Some(_) => {
            let hops = lines(fields, FieldId::Forwarded).flat_map(|line| Elements::of(line).left_to_right());
            for hop in hops {
                match hop.and_then(node) {
                    Some(ip) => write_address(ip, out),
                    None => out.extend_from_slice(b"unknown"),
                }
                out.extend_from_slice(b", ");
            }
        }
        None => {}
    }
    write_address(peer, out);
    out.extend_from_slice(b"\r\nx-forwarded-proto: ");
    out.extend_from_slice(stated.proto.unwrap_or(scheme.name()));
    out.extend_from_slice(b"\r\n");
    if let Some(host) = stated.host.or_else(|| authority(host.as_bytes())) {
        out.extend_from_slice(b"x-forwarded-host: ");
        out.extend_from_slice(host);
        out.extend_from_slice(b"\r\n");
    }
    if believed == Some(FieldId::Forwarded) {
        out.extend_from_slice(b"forwarded: ");
        append_lines(fields, FieldId::Forwarded, out);
        write_element(peer, scheme, host, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// The list that a trusted peer's word is taken from.
fn believed(fields: &[Field<'_>]) -> Option<FieldId> {
    let mut forwarded = None;
    for field in fields {
        match field.id {
            FieldId::XForwardedFor => return Some(FieldId::XForwardedFor),
            FieldId::Forwarded => forwarded = Some(FieldId::Forwarded),
            _ => {}
        }
    }
    forwarded
}

fn lines<'f, 'b>(fields: &'f [Field<'b>], id: FieldId) -> impl DoubleEndedIterator<Item = &'b [u8]> + 'f {
    fields.iter().filter(move |field| field.id == id).map(|field| field.value)
}

fn walk(peer: IpAddr, networks: &[IpNet], hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
    let mut client = peer;
    for hop in hops.take(HOPS_MAX) {
        let Some(ip) = hop else { break };
        client = ip;
        if !networks.iter().any(|network| network.contains(ip)) {
            break;
        }
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let (ip, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (ip, rest) = bracketed.split_once(']')?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) };
            (IpAddr::V6(ip.parse().ok()?), port)
        }
        None => {
            let (ip, port) = text.split_once(':')?;
            (IpAddr::V4(ip.parse().ok()?), Some(port))
        }
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    port.is_none_or(is_port).then(|| ip.to_canonical())
}

/// The right-most elements of one `Forwarded` line, up to [`HOPS_MAX`].
struct Elements<'b> {
    /// A ring: the newest overwrites the oldest.
    elements: [&'b [u8]; HOPS_MAX],
    count: usize,
    /// A quoted text never ends. Nobody can tell who began it, so nothing on the line is believed.
    damaged: bool,
}

impl<'b> Elements<'b> {
    fn of(line: &'b [u8]) -> Self {
        let mut found = Self { elements: [&[]; HOPS_MAX], count: 0, damaged: false };
        let mut scan = Quoted::default();
        for element in line.split(|byte| scan.is_separator(*byte, b',')) {
            found.elements[found.count % HOPS_MAX] = element;
            found.count += 1;
        }
        found.damaged = scan.inside;
        found
    }

    fn left_to_right(self) -> impl DoubleEndedIterator<Item = Option<&'b [u8]>> {
        let first = if self.damaged { self.count - 1 } else { self.count.saturating_sub(HOPS_MAX) };
        (first..self.count).map(move |at| (!self.damaged).then(|| self.elements[at % HOPS_MAX]))
    }

    fn right_to_left(self) -> impl Iterator<Item = Option<&'b [u8]>> {
        self.left_to_right().rev()
    }
}

/// Follows quoted texts (RFC 9110, 5.6.4).
#[derive(Default)]
struct Quoted {
    inside: bool,
    escaped: bool,
}

impl Quoted {
    fn is_separator(&mut self, byte: u8, separator: u8) -> bool {
        if self.escaped {
            self.escaped = false;
            return false;
        }
        match byte {
            b'"' => self.inside = !self.inside,
            b'\\' => self.escaped = self.inside,
            _ => return !self.inside && byte == separator,
        }
        false
    }
}

/// The address in the `for` of an element.
fn node(element: &[u8]) -> Option<IpAddr> {
    address(parameter(element, b"for")?)
}

/// A parameter of an element, without quotes. `None` too when any part of the element is not `name=value`, or the
/// parameter comes twice: nobody knows then what it means.
fn parameter<'b>(element: &'b [u8], name: &[u8]) -> Option<&'b [u8]> {
    let mut found = None;
    let mut scan = Quoted::default();
    for pair in element.split(|byte| scan.is_separator(*byte, b';')) {
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let (key, value) = pair.split_at(pair.iter().position(|byte| *byte == b'=')?);
        let value = &value[1..];
        let value = match value.strip_prefix(b"\"") {
            Some(value) => value.strip_suffix(b"\"")?,
            None => value,
        };
        if value.iter().any(|byte| matches!(byte, b'"' | b'\\')) {
            return None;
        }
        if key.eq_ignore_ascii_case(name) && found.replace(value).is_some() {
            return None;
        }
    }
    found
}

/// What the trusted peer says that the client asked for.
#[derive(Default)]
struct Stated<'b> {
    proto: Option<&'b [u8]>,
    host: Option<&'b [u8]>,
}

impl<'b> Stated<'b> {
    /// The last word is the peer's own; what stands before may be anybody's.
    fn by(trusted: bool, believed: Option<FieldId>, fields: &[Field<'b>]) -> Self {
        if !trusted {
            return Self::default();
        }
        let (proto, host) = if believed == Some(FieldId::Forwarded) {
            let last = lines(fields, FieldId::Forwarded).next_back();
            let last = last.and_then(|line| Elements::of(line).right_to_left().next().flatten());
            let stated = |name| last.and_then(|element| parameter(element, name));
            (stated(b"proto"), stated(b"host"))
        } else {
            let stated =
                |id| lines(fields, id).next_back().and_then(|line| line.rsplit(|byte| *byte == b',').next());
            (stated(FieldId::XForwardedProto), stated(FieldId::XForwardedHost))
        };
        let scheme = |text: &'b [u8]| {
            let known: [&'static [u8]; 2] = [b"http", b"https"];
            known.into_iter().find(|known| text.trim_ascii().eq_ignore_ascii_case(known))
        };
        Self { proto: proto.and_then(scheme), host: host.and_then(|host| authority(host.trim_ascii())) }
    }
}

/// A host with or without port that can stand in any field.
fn authority(text: &[u8]) -> Option<&[u8]> {
    let fits = |byte: &u8| byte.is_ascii_alphanumeric() || b".-_~:[]".contains(byte);
    (!text.is_empty() && text.iter().all(fits)).then_some(text)
}

/// The host in `authority`, without port, if it can stand in any field.
pub(crate) fn host_of(text: &str) -> Option<&str> {
    authority(text.as_bytes())?;
    let end = match text.starts_with('[') {
        true => text.find(']')? + 1,
        false => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(end);
    (!host.is_empty() && (rest.is_empty() || rest.starts_with(':'))).then_some(host)
}

/// Writes the lines of a list as one, each followed by a comma. A line with control bytes is no line, and left out.
fn append_lines(fields: &[Field<'_>], id: FieldId, out: &mut Vec<u8>) {
    for line in lines(fields, id) {
        let line = line.trim_ascii();
        if !line.is_empty() && !line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            out.extend_from_slice(line);
            out.extend_from_slice(b", ");
        }
    }
}

/// `for=192.0.2.1;host="shop.example";proto=http`
fn write_element(peer: IpAddr, scheme: Scheme, host: &str, out: &mut Vec<u8>) {
    match peer {
        IpAddr::V4(_) => {
            out.extend_from_slice(b"for=");
            write_address(peer, out);
        }
        IpAddr::V6(_) => {
            out.extend_from_slice(b"for=\"[");
            write_address(peer, out);
            out.extend_from_slice(b"]\"");
        }
    }
    if let Some(host) = authority(host.as_bytes()) {
        out.extend_from_slice(b";host=\"");
        out.extend_from_slice(host);
        out.push(b'"');
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(scheme.name());
}

fn write_address(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            write_decimal(a.into(), out);
            for octet in [b, c, d] {
                out.push(b'.');
                write_decimal(octet.into(), out);
            }
        }
        // Writing into memory cannot fail.
        IpAddr::V6(ip) => _ = write!(out, "{ip}"),
    }
}

#[cfg(test)]
mod tests;
