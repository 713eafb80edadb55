//! Messages built from sound and unsound pieces, then damaged.

use proptest::prelude::*;
use proptest::sample::{Index, select};

const LINES: &[&str] = &[
    "Host: a\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 0\r\n",
    "content-length: 03\r\n",
    "Content-Length: +3\r\n",
    "Content-Length: 3, 3\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Transfer-Encoding: gzip, chunked\r\n",
    "Transfer-Encoding: chunked, gzip\r\n",
    "Transfer-Encoding: xchunked\r\n",
    "Transfer-Encoding:\tchunked \r\n",
    "Transfer-Encoding : chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, x\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Expect: 100-continue\r\n",
    "X: y\r\n",
    "X: a\r\n b\r\n",
    "X: y\n",
    "X:\r\n",
    "X: \u{e9}\r\n",
    ": x\r\n",
];

const SOUND_LINES: &[&str] = &[
    "Connection: keep-alive\r\n",
    "Connection: close\r\n",
    "Expect: 100-continue\r\n",
    "X: y\r\n",
    "X:\t\u{e9} \r\n",
    "X:\r\n",
    "Accept-Encoding: gzip\r\n",
];

/// Framing fields with a body that fits them.
const SOUND_BODIES: &[(&str, &str)] = &[
    ("", ""),
    ("Content-Length: 0\r\n", ""),
    ("Content-Length: 12\r\n", "GET / \r\n\r\n0\r"),
    ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: Chunked\r\n", "3\r\nabc\r\n00A\r\n0\r\n\r\nGET /\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "2\r\n\r\n\r\n0\r\nA: b\r\nHost: c\r\n\r\n"),
];

const BODIES: &[&str] = &[
    "",
    "abc",
    "abc",
    "3\r\nabc\r\n0\r\n\r\n",
    "3\r\nabc\r\n02\r\nde\r\n0\r\nA: b\r\n\r\n",
    "0\r\n\r\n",
    "3;x=y\r\nabc\r\n0\r\n\r\n",
    "3\nabc\r\n0\r\n\r\n",
    "3\r\nabcd\r\n0\r\n\r\n",
    "3\r\nabc\r\n",
    "ffffffffffffffff\r\nabc",
    "10000000000000003\r\nabc\r\n0\r\n\r\n",
    "0\r\nContent-Length: 3\r\n\r\n",
    "\r\n",
];

pub(super) const REQUEST_LINES: &[&str] = &[
    "GET / HTTP/1.1\r\n",
    "POST /a?b=c HTTP/1.1\r\n",
    "HEAD http://h:80/p?q HTTP/1.1\r\n",
    "OPTIONS * HTTP/1.1\r\n",
    "POST /a HTTP/1.0\r\n",
    "OPTIONS http://h HTTP/1.1\r\n",
    "\r\nPUT / HTTP/1.1\r\n",
    "GET /a b HTTP/1.1\r\n",
    "GET  / HTTP/1.1\r\n",
    "PRI * HTTP/2.0\r\n",
    "GET http://u@h/ HTTP/1.1\r\n",
];

pub(super) const STATUS_LINES: &[&str] = &[
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.1 404\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 304 Not Modified\r\n",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n",
    "HTTP/1.1 600 x\r\n",
    "HTTP/2.0 200 OK\r\n",
];

/// One message, sound in three of four cases; the others are thrown together.
fn message(starts: &'static [&'static str]) -> impl Strategy<Value = String> {
    let host = if starts[0].starts_with("HTTP") { "" } else { "Host: a\r\n" };
    let sound = (
        select(&starts[..4]),
        prop::collection::vec(select(SOUND_LINES), 0..4),
        select(SOUND_BODIES),
        any::<bool>(),
    )
        .prop_map(move |(start, lines, (framing, body), framing_first)| {
            let (before, after) = if framing_first { (framing, "") } else { ("", framing) };
            format!("{start}{host}{before}{}{after}\r\n{body}", lines.concat())
        });
    let unsound = (select(starts), prop::collection::vec(select(LINES), 0..4), select(BODIES))
        .prop_map(move |(start, lines, body)| format!("{start}{host}{}\r\n{body}", lines.concat()));
    prop_oneof![3 => sound, 1 => unsound]
}

#[derive(Debug, Clone)]
enum Damage {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let byte = prop_oneof![any::<u8>(), select(b"\r\n\t :;,0aF\0%@#*/".as_slice())].boxed();
    prop_oneof![
        (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Damage::Replace(at, byte)),
        (any::<Index>(), byte).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        any::<Index>().prop_map(Damage::Remove),
        any::<Index>().prop_map(Damage::Cut),
    ]
}

pub(super) fn stream(starts: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
    (prop::collection::vec(message(starts), 1..=most), prop::collection::vec(damage(), 0..3)).prop_map(
        |(messages, damages)| {
            let mut bytes = messages.concat().into_bytes();
            for damage in damages {
                if bytes.is_empty() {
                    break;
                }
                match damage {
                    Damage::Replace(at, byte) => {
                        let at = at.index(bytes.len());
                        bytes[at] = byte;
                    }
                    Damage::Insert(at, byte) => bytes.insert(at.index(bytes.len()), byte),
                    Damage::Remove(at) => {
                        bytes.remove(at.index(bytes.len()));
                    }
                    Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
                }
            }
            bytes
        },
    )
}
