//! Promises about every message, checked on messages built from sound and unsound pieces.

use proptest::prelude::*;
use proptest::sample::select;

use crate::codec::{
    Advance, Body, FieldStorage, Framing, Limits, Malformed, Method, Parsed, RequestHead, parse_request,
    parse_response, write_field, write_last_chunk,
};

const LIMITS: Limits = Limits { head_bytes: 300, fields_max: 6, trailer_bytes: 40 };

const LINES: &[&str] = &[
    "Host: a\r\n",
    "Host: shop:80\r\n",
    "Content-Length: 3\r\n",
    "Content-Length: 03\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Connection: close, x-y\r\n",
    "Connection: upgrade\r\n",
    "Upgrade: websocket\r\n",
    "X-Y:  z \r\n",
    "A: b\n",
    "A:\r\n",
    " fold\r\n",
    "Expect: 100-continue\r\n",
    "A : b\r\n",
    "Long: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n",
    "\r\n",
];

fn message(starts: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let text = (select(starts), prop::collection::vec(select(LINES), 0..9))
        .prop_map(|(start, lines)| format!("{start}{}\r\nbody", lines.concat()).into_bytes());
    let mutations = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2);
    (text, mutations).prop_map(|(mut bytes, mutations)| {
        for (at, byte) in mutations {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes
    })
}

fn request_message() -> impl Strategy<Value = Vec<u8>> {
    message(&[
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\r\n",
        "\r\nPOST http://h:1/p?q HTTP/1.1\r\nHost: b\r\n",
        "OPTIONS * HTTP/1.0\r\n",
        "OPTIONS http://x HTTP/1.1\r\nHost: x\r\n",
        "CONNECT a:1 HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n",
    ])
}

fn response_message() -> impl Strategy<Value = Vec<u8>> {
    message(&[
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200\r\n",
        "HTTP/1.1 204 x\r\n",
        "HTTP/1.1 101 y\r\n",
        "HTTP/1.1 600 z\r\n",
    ])
}

/// What a parser says of a prefix, as text: `None` asks for more.
fn said<T: std::fmt::Debug>(parsed: Result<Parsed<T>, Malformed>) -> Option<String> {
    match parsed {
        Ok(Parsed::Partial) => None,
        verdict => Some(format!("{verdict:?}")),
    }
}

/// Checks that a verdict, once given, never changes with more bytes.
fn is_final(whole: &[u8], say: impl Fn(&[u8]) -> Option<String>) -> Result<(), TestCaseError> {
    let last = say(whole);
    for end in 0..whole.len() {
        let early = say(&whole[..end]);
        prop_assert!(early.is_none() || early == last, "at {end}: {early:?}, at last: {last:?}");
    }
    Ok(())
}

fn rewrite(start: &str, fields: &[crate::codec::Field<'_>]) -> Vec<u8> {
    let mut out = start.as_bytes().to_vec();
    for field in fields {
        write_field(field.name, field.value, &mut out);
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn request_line(head: &RequestHead<'_, '_>) -> String {
    let target = match (head.target.scheme, head.target.authority) {
        (Some(scheme), Some(authority)) => {
            format!("{scheme:?}://{authority}{}", head.target.path_and_query.trim_start_matches('*'))
        }
        _ => head.target.path_and_query.to_owned(),
    };
    format!("{} {target} {}\r\n", head.method_text, head.version.as_str())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_verdict_on_a_request_is_final(bytes in request_message()) {
        is_final(&bytes, |prefix| said(parse_request(prefix, &mut FieldStorage::new(), &LIMITS)))?;
    }

    #[test]
    fn a_verdict_on_a_response_is_final(bytes in response_message(), to in select(&[Method::Get, Method::Head])) {
        is_final(&bytes, |prefix| said(parse_response(prefix, &mut FieldStorage::new(), &LIMITS, to)))?;
    }

    #[test]
    fn an_accepted_request_written_again_means_the_same(bytes in request_message()) {
        let mut storage = FieldStorage::new();
        let Ok(Parsed::Complete(head)) = parse_request(&bytes, &mut storage, &LIMITS) else { return Ok(()) };
        let again = rewrite(&request_line(&head), head.fields);
        let mut storage = FieldStorage::new();
        let Ok(Parsed::Complete(second)) = parse_request(&again, &mut storage, &Limits::default()) else {
            return Err(TestCaseError::fail(format!("refused {again:?}")));
        };
        prop_assert_eq!(second.len, again.len());
        prop_assert_eq!(
            (head.method_text, head.target, head.version, head.host, head.framing, head.connection, head.upgrade, head.expect_continue),
            (second.method_text, second.target, second.version, second.host, second.framing, second.connection, second.upgrade, second.expect_continue)
        );
        prop_assert!(head.fields.iter().map(|f| (f.id, f.name, f.value)).eq(second.fields.iter().map(|f| (f.id, f.name, f.value))));
    }

    #[test]
    fn an_accepted_response_written_again_means_the_same(bytes in response_message()) {
        let mut storage = FieldStorage::new();
        let Ok(Parsed::Complete(head)) = parse_response(&bytes, &mut storage, &LIMITS, Method::Get) else { return Ok(()) };
        let again = rewrite(&format!("{} {} {}\r\n", head.version.as_str(), head.status, head.reason), head.fields);
        let mut storage = FieldStorage::new();
        let Ok(Parsed::Complete(second)) = parse_response(&again, &mut storage, &Limits::default(), Method::Get) else {
            return Err(TestCaseError::fail(format!("refused {again:?}")));
        };
        prop_assert_eq!((head.status, head.framing, head.connection, head.upgrade), (second.status, second.framing, second.connection, second.upgrade));
        prop_assert!(head.fields.iter().map(|f| (f.id, f.name, f.value)).eq(second.fields.iter().map(|f| (f.id, f.name, f.value))));
    }
}

const CHUNKS: &[&str] = &[
    "3\r\nabc\r\n",
    "1\r\nx\r\n",
    "0002\r\n\r\n\r\n",
    "a\r\n0123456789\r\n",
    "0\r\n",
    "0\r\n\r\n",
    "000\r\n",
    "Grpc-Status: 0\r\n",
    "Host: a\r\n",
    "\r\n",
    "3;x\r\nabc\r\n",
    "ffffffffffffffff1",
    "A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n",
];

/// All that a body says of a stream cut into pieces of these lengths.
#[derive(Debug, Default, PartialEq)]
struct Passage {
    data: Vec<u8>,
    forwarded: Vec<u8>,
    trailers: Vec<u8>,
    consumed: usize,
    refused: Option<Malformed>,
    done: bool,
}

fn pass(stream: &[u8], cuts: &[usize]) -> Passage {
    let mut body = Body::new(Framing::Chunked, &LIMITS);
    let mut passage = Passage::default();
    let mut rest = stream;
    let mut cuts = cuts.iter().cycle();
    while !rest.is_empty() && !passage.done {
        let piece = &rest[..rest.len().min(cuts.next().map_or(rest.len(), |cut| cut + 1))];
        match body.advance_data(piece, |run| passage.data.extend_from_slice(run)) {
            Ok(Advance { consumed, forward, done }) => {
                assert!(forward <= consumed && consumed <= piece.len());
                assert!(done || consumed == piece.len(), "a body that goes on takes all");
                passage.forwarded.extend_from_slice(&piece[..forward]);
                passage.consumed += consumed;
                passage.done = done;
                rest = &rest[consumed..];
            }
            Err(malformed) => {
                // What came with the offending byte counts for nothing, so leave out what depends on the cut.
                return Passage { refused: Some(malformed), ..Passage::default() };
            }
        }
    }
    passage.trailers = body.trailers().as_bytes().to_vec();
    passage
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn cutting_a_chunked_body_anywhere_changes_nothing(pieces in prop::collection::vec(select(CHUNKS), 0..8), cuts in prop::collection::vec(0..12usize, 1..6)) {
        let stream = pieces.concat();
        let whole = pass(stream.as_bytes(), &[]);
        let mut cut = pass(stream.as_bytes(), &cuts);
        // Zeros before a size may be left out where a cut hides what they lead to.
        if cut.forwarded.len() < whole.forwarded.len() {
            cut.forwarded.clone_from(&whole.forwarded);
        }
        prop_assert_eq!(&cut, &whole);
    }

    #[test]
    fn what_is_forwarded_and_ended_anew_is_the_same_body(pieces in prop::collection::vec(select(CHUNKS), 0..8), cuts in prop::collection::vec(0..12usize, 1..6)) {
        let stream = pieces.concat() + "0\r\n\r\nnext";
        let first = pass(stream.as_bytes(), &cuts);
        if !first.done {
            return Ok(());
        }
        let mut body = Body::new(Framing::Chunked, &LIMITS);
        let mut sent = first.forwarded.clone();
        body.advance(stream.as_bytes()).expect("it was accepted before");
        write_last_chunk(body.trailers(), &mut sent);
        let second = pass(&sent, &[]);
        prop_assert_eq!((second.done, second.consumed), (true, sent.len()));
        prop_assert_eq!((second.data, second.trailers), (first.data, first.trailers));
    }
}
