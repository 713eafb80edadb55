//! The codec beside hyper: whatever the codec accepts, hyper must read as the same messages with the same bodies.
//!
//! The other way round the codec may refuse what hyper accepts, but only for the reasons in [`STRICTER_REQUESTS`] and
//! [`STRICTER_RESPONSES`]. Messages are built from sound and unsound pieces and then damaged.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use gateway::codec::{
    Body, FieldStorage, Framing, Limits, Malformed, Method, Parsed, Version, parse_request, parse_response,
};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A difference that is allowed: what the codec refuses, what hyper does instead, and a message that shows it.
struct Stricter {
    reason: Malformed,
    hyper: &'static str,
    example: &'static str,
}

const fn stricter(reason: Malformed, hyper: &'static str, example: &'static str) -> Stricter {
    Stricter { reason, hyper, example }
}

/// What the codec refuses in a request and hyper does not always refuse.
const STRICTER_REQUESTS: &[Stricter] = &[
    stricter(Malformed::BareLf, "ends head lines at LF alone", "GET / HTTP/1.1\nHost: a\n\n"),
    stricter(
        Malformed::RequestLine,
        "skips many empty lines before it",
        "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    stricter(Malformed::Connect, "serves CONNECT", "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"),
    stricter(
        Malformed::Target,
        "accepts `GET *`, bare hosts, other schemes, braces",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    stricter(Malformed::Fragment, "cuts fragments off", "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n"),
    stricter(Malformed::Userinfo, "accepts user information", "GET http://u@h/ HTTP/1.1\r\nHost: h\r\n\r\n"),
    stricter(Malformed::Host, "does not look at Host", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
    stricter(Malformed::HostMissing, "does not look at Host", "GET / HTTP/1.1\r\n\r\n"),
    stricter(
        Malformed::HostDuplicate,
        "does not look at Host",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ),
    stricter(
        Malformed::Length,
        "accepts leading zeros",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 01\r\n\r\nx",
    ),
    stricter(
        Malformed::LengthDuplicate,
        "accepts equal lengths",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ),
    stricter(
        Malformed::LengthWithCoding,
        "lets the coding win",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::Coding,
        "accepts lists that end in `chunked`",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::CodingDuplicate,
        "looks at the last of several fields",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::Connection,
        "ignores odd options",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: a b\r\n\r\n",
    ),
    stricter(
        Malformed::Expect,
        "ignores odd expectations",
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: luck\r\n\r\n",
    ),
    stricter(
        Malformed::UpgradeDuplicate,
        "does not look at Upgrade",
        "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: b\r\nUpgrade: c\r\n\r\n",
    ),
    stricter(
        Malformed::UpgradeWithBody,
        "does not look at Upgrade",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: b\r\nContent-Length: 1\r\n\r\nx",
    ),
    stricter(
        Malformed::ChunkExtension,
        "skips extensions",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::ChunkSize,
        "accepts any number of leading zeros",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\nx\r\n0\r\n\r\n",
    ),
];

/// What the codec refuses in a response and hyper does not always refuse.
const STRICTER_RESPONSES: &[Stricter] = &[
    stricter(Malformed::BareLf, "ends head lines at LF alone", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
    stricter(
        Malformed::Version,
        "skips empty lines before it",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ),
    stricter(Malformed::Status, "accepts statuses up to 999", "HTTP/1.1 600 x\r\nContent-Length: 0\r\n\r\n"),
    stricter(Malformed::Length, "accepts leading zeros", "HTTP/1.1 200 OK\r\nContent-Length: 01\r\n\r\nx"),
    stricter(
        Malformed::LengthDuplicate,
        "accepts equal lengths",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ),
    stricter(
        Malformed::LengthWithCoding,
        "lets the coding win",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::LengthUnexpected,
        "ignores the length where there is no body",
        "HTTP/1.1 204 x\r\nContent-Length: 1\r\n\r\n",
    ),
    stricter(
        Malformed::Coding,
        "reads until the connection closes",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
    ),
    stricter(
        Malformed::CodingDuplicate,
        "looks at the last of several fields",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::CodingUnexpected,
        "ignores the coding where there is no body",
        "HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    stricter(
        Malformed::Connection,
        "ignores odd options",
        "HTTP/1.1 200 OK\r\nConnection: a b\r\nContent-Length: 0\r\n\r\n",
    ),
    stricter(
        Malformed::ChunkExtension,
        "skips extensions",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n",
    ),
    stricter(
        Malformed::ChunkSize,
        "accepts any number of leading zeros",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000001\r\nx\r\n0\r\n\r\n",
    ),
];

/// One message as a reader saw it. `body` is `None` when it was cut short or damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    start: String,
    fields: usize,
    body: Option<Vec<u8>>,
}

/// The messages seen on a connection, and why reading them stopped, if because of a refusal.
#[derive(Debug)]
struct Reading {
    seen: Vec<Seen>,
    refused: Option<Malformed>,
}

/// Reads a body from the beginning of `rest` and returns it with what is left.
fn body_of(framing: Framing, rest: &[u8]) -> Result<(Option<Vec<u8>>, &[u8]), Malformed> {
    let mut body = Body::new(framing, &Limits::default());
    let mut data = Vec::new();
    let advance = body.advance_data(rest, |run| data.extend_from_slice(run))?;
    Ok((body.may_close().then_some(data), &rest[advance.consumed..]))
}

fn version(version: Version) -> &'static str {
    version.as_str()
}

fn codec_reads_requests(mut stream: &[u8]) -> Reading {
    let mut reading = Reading { seen: Vec::new(), refused: None };
    loop {
        let mut storage = FieldStorage::new();
        let head = match parse_request(stream, &mut storage, &Limits::default()) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => return reading,
            Err(malformed) => return Reading { refused: Some(malformed), ..reading },
        };
        let target = match head.target.authority {
            // hyper's form of an absolute target, whose OPTIONS without a path it gives as `/`.
            Some(authority) => {
                let path =
                    head.target.path_and_query.replace('*', if head.target.path == "*" { "/" } else { "*" });
                format!(
                    "{:?}://{authority}{path}",
                    head.target.scheme.expect("an absolute target has a scheme")
                )
                .replacen("Http", "http", 1)
            }
            None => head.target.path_and_query.to_owned(),
        };
        let start = format!("{} {target} {}", head.method_text, version(head.version));
        let (fields, persists) = (head.fields.len(), head.persists());
        let (body, rest) = match body_of(head.framing, &stream[head.len..]) {
            Ok(read) => read,
            Err(malformed) => {
                reading.seen.push(Seen { start, fields, body: None });
                return Reading { refused: Some(malformed), ..reading };
            }
        };
        let whole = body.is_some();
        reading.seen.push(Seen { start, fields, body });
        if !whole || !persists {
            return reading;
        }
        stream = rest;
    }
}

async fn hyper_reads_requests(stream: &[u8]) -> Vec<Seen> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let seen = Rc::clone(&seen);
        async move {
            let start = format!("{} {} {:?}", request.method(), request.uri(), request.version());
            let fields = request.headers().len();
            let body = request.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
            seen.borrow_mut().push(Seen { start, fields, body });
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let serve = async {
        let io = TokioIo::new(server);
        // An error is a refusal, which shows in what was not seen.
        let _ = hyper::server::conn::http1::Builder::new()
            .max_headers(128)
            .half_close(true)
            .serve_connection(io, service)
            .await;
    };
    let drive = async {
        // The server may hang up before it has read everything.
        let _ = client.write_all(stream).await;
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    tokio::join!(serve, drive);
    seen.take()
}

fn codec_reads_response(mut stream: &[u8], to: Method) -> (Option<Seen>, Option<Malformed>, bool) {
    loop {
        let mut storage = FieldStorage::new();
        let head = match parse_response(stream, &mut storage, &Limits::default(), to) {
            Ok(Parsed::Complete(head)) => head,
            Ok(Parsed::Partial) => return (None, None, false),
            Err(malformed) => return (None, Some(malformed), false),
        };
        let rest = &stream[head.len..];
        if head.is_interim() {
            stream = rest;
            continue;
        }
        let start = format!("{} {}", version(head.version), head.status);
        let fields = head.fields.len();
        let (body, refused) = match body_of(head.framing, rest) {
            Ok((body, _)) => (body, None),
            Err(malformed) => (None, Some(malformed)),
        };
        return (Some(Seen { start, fields, body }), refused, head.status == 101);
    }
}

async fn hyper_reads_response(stream: &[u8], to: Method) -> Option<Seen> {
    let (client, mut server) = tokio::io::duplex(64 * 1024);
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_headers(128)
        .handshake(TokioIo::new(client))
        .await
        .expect("a handshake over HTTP/1.1 sends nothing");
    let method = if to == Method::Head { hyper::Method::HEAD } else { hyper::Method::GET };
    let request = hyper::Request::builder()
        .method(method)
        .uri("/")
        .header("host", "a")
        .body(Empty::<Bytes>::new())
        .expect("the request is sound");
    let ask = async {
        let response = sender.send_request(request).await.ok()?;
        let start = format!("{:?} {}", response.version(), response.status().as_u16());
        let fields = response.headers().len();
        let body = response.into_body().collect().await.ok().map(|body| body.to_bytes().to_vec());
        // The connection ends only when nobody can ask any more.
        drop(sender);
        Some(Seen { start, fields, body })
    };
    let drive = async {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            server.read_buf(&mut request).await.expect("a duplex does not fail");
        }
        // The client may hang up before it has read everything.
        let _ = server.write_all(stream).await;
        let _ = server.shutdown().await;
    };
    let (seen, _, ()) = tokio::join!(ask, connection, drive);
    seen
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers").block_on(future)
}

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

const REQUEST_LINES: &[&str] = &[
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

const STATUS_LINES: &[&str] = &[
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

fn stream(starts: &'static [&'static str], most: usize) -> impl Strategy<Value = Vec<u8>> {
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

/// Whether the list of allowed differences has this reason.
fn allowed(list: &[Stricter], reason: Malformed) -> bool {
    list.iter().any(|stricter| stricter.reason == reason)
}

#[test]
fn every_allowed_difference_is_one() {
    for Stricter { reason, hyper, example } in STRICTER_REQUESTS {
        assert_eq!(codec_reads_requests(example.as_bytes()).refused, Some(*reason), "{example:?}");
        let theirs = block_on(hyper_reads_requests(example.as_bytes()));
        assert!(theirs.len() == 1 && theirs[0].body.is_some(), "hyper no longer {hyper}: {theirs:?}");
    }
    for Stricter { reason, hyper, example } in STRICTER_RESPONSES {
        assert_eq!(codec_reads_response(example.as_bytes(), Method::Get).1, Some(*reason), "{example:?}");
        let theirs = block_on(hyper_reads_response(example.as_bytes(), Method::Get));
        assert!(theirs.is_some_and(|theirs| theirs.body.is_some()), "hyper no longer {hyper}: {example:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn hyper_reads_the_same_requests(stream in stream(REQUEST_LINES, 3)) {
        let ours = codec_reads_requests(&stream);
        let theirs = block_on(hyper_reads_requests(&stream));
        prop_assert!(ours.seen.len() <= theirs.len(), "hyper refuses what the codec accepts\n{:?}\n{theirs:?}", ours);
        for (at, (ours_seen, theirs_seen)) in ours.seen.iter().zip(&theirs).enumerate() {
            let refused_here = ours.refused.is_some() && at + 1 == ours.seen.len() && ours_seen.body.is_none();
            if refused_here {
                prop_assert_eq!((&ours_seen.start, ours_seen.fields), (&theirs_seen.start, theirs_seen.fields));
            } else {
                prop_assert_eq!(ours_seen, theirs_seen);
            }
        }
        let accepts_more = theirs.len() > ours.seen.len()
            || ours.seen.last().zip(theirs.last()).is_some_and(|(ours, theirs)| ours.body.is_none() && theirs.body.is_some());
        if accepts_more {
            let reason = ours.refused;
            prop_assert!(reason.is_some_and(|reason| allowed(STRICTER_REQUESTS, reason)), "hyper accepts more: {:?}\n{theirs:?}", ours);
        }
    }

    #[test]
    fn hyper_reads_the_same_response(stream in stream(STATUS_LINES, 1), to in select(&[Method::Get, Method::Head])) {
        let (ours, refused, switched) = codec_reads_response(&stream, to);
        // hyper without upgrades has no notion of what follows a switch.
        prop_assume!(!switched);
        let theirs = block_on(hyper_reads_response(&stream, to));
        if let Some(reason) = refused {
            let both_refuse = theirs.as_ref().is_none_or(|theirs| theirs.body.is_none());
            prop_assert!(both_refuse || allowed(STRICTER_RESPONSES, reason), "hyper accepts what is refused for {reason}: {theirs:?}");
        } else {
            prop_assert_eq!(ours, theirs);
        }
    }
}
