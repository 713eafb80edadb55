//! What must hold for any bytes whatever that come from outside.
//!
//! Each function takes arbitrary bytes and panics when a promise is broken. The fuzz targets in `fuzz_targets` feed them
//! with what libFuzzer thinks of; the test replays `corpus` and damages it a little, with fixed seeds. To fuzz:
//! `cargo +nightly fuzz run --features libfuzzer request_head`.

mod config;
mod dns;
mod tcp;

pub use config::config;
pub use dns::dns_question;
pub use tcp::{client_hello, proxy_header};

use std::fmt::Debug;

use gateway::codec::{
    Advance, Body, Field, FieldId, FieldStorage, Framing, Limits, Malformed, Method, Parsed, RequestHead,
    Version, may_hold_head, parse_request, parse_response, write_field, write_last_chunk, write_status_line,
};

/// Small enough that short inputs reach every limit.
const LIMITS: Limits = Limits { head_bytes: 1024, fields_max: 12, trailer_bytes: 64 };

/// A request head: verdicts are final, accepted parts are sound, and writing them again means the same.
///
/// # Panics
/// When the codec breaks one of these promises.
pub fn request_head(data: &[u8]) {
    verdicts_are_final(data, |prefix| said(parse_request(prefix, &mut FieldStorage::new(), &LIMITS)));

    let mut storage = FieldStorage::new();
    let Ok(Parsed::Complete(head)) = parse_request(data, &mut storage, &LIMITS) else { return };
    head_is_sound(data, head.len, head.fields);
    assert!(head.target.path.starts_with('/') || head.target.path == "*");
    assert!(head.target.path_and_query.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!head.host.is_empty() || head.version == Version::Http10);
    assert!(!head.host.contains(['@', ',', '/', ' ']));
    assert!(head.framing != Framing::UntilClose);
    assert!(head.upgrade.is_none() || matches!(head.framing, Framing::None | Framing::Length(0)));

    let again = rewritten(request_line(&head).as_bytes(), head.fields);
    let mut storage = FieldStorage::new();
    let second = match parse_request(&again, &mut storage, &Limits::default()) {
        Ok(Parsed::Complete(second)) => second,
        other => panic!("written again it is {other:?}"),
    };
    assert_eq!(second.len, again.len());
    assert_eq!(
        (head.method, head.method_text, head.target, head.version, head.host),
        (second.method, second.method_text, second.target, second.version, second.host)
    );
    assert_eq!(
        (head.framing, head.connection, head.upgrade, head.expect_continue),
        (second.framing, second.connection, second.upgrade, second.expect_continue)
    );
    assert_same_fields(head.fields, second.fields);
}

/// A response head to GET and to HEAD: as [`request_head`].
///
/// # Panics
/// When the codec breaks one of these promises.
pub fn response_head(data: &[u8]) {
    for to in [Method::Get, Method::Head] {
        verdicts_are_final(data, |prefix| {
            said(parse_response(prefix, &mut FieldStorage::new(), &LIMITS, to))
        });

        let mut storage = FieldStorage::new();
        let Ok(Parsed::Complete(head)) = parse_response(data, &mut storage, &LIMITS, to) else { continue };
        head_is_sound(data, head.len, head.fields);
        assert!((100..600).contains(&head.status));
        assert!(to != Method::Head || head.framing == Framing::None);
        assert!(!head.persists() || head.framing != Framing::UntilClose);

        let mut line = Vec::new();
        write_status_line(head.version, head.status, &mut line);
        let again = rewritten(&line, head.fields);
        let mut storage = FieldStorage::new();
        let second = match parse_response(&again, &mut storage, &Limits::default(), to) {
            Ok(Parsed::Complete(second)) => second,
            other => panic!("written again it is {other:?}"),
        };
        assert_eq!(
            (head.status, head.version, head.framing, head.connection, head.upgrade),
            (second.status, second.version, second.framing, second.connection, second.upgrade)
        );
        assert_same_fields(head.fields, second.fields);
    }
}

/// A chunked body, cut into pieces as its first byte says: cuts change nothing, and what is sent on is the same body.
///
/// # Panics
/// When the codec breaks one of these promises.
pub fn chunked(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else { return };
    let whole = pass(stream, usize::MAX);
    let cut = pass(stream, usize::from(cut % 16) + 1);
    let (whole, cut) = match (whole, cut) {
        (Ok(whole), Ok(cut)) => (whole, cut),
        (whole, cut) => {
            assert_eq!(whole.err(), cut.err());
            return;
        }
    };
    assert_eq!((&whole.data, whole.consumed, whole.done), (&cut.data, cut.consumed, cut.done));
    assert_eq!(whole.trailers, cut.trailers);
    if !whole.done {
        return;
    }
    for passage in [whole, cut] {
        let again = pass(&passage.sent, usize::MAX).expect("what is sent on is sound");
        assert!(again.done && again.consumed == passage.sent.len());
        assert_eq!((again.data, again.trailers), (passage.data, passage.trailers));
        assert_eq!(again.sent, passage.sent, "a canonical end stays as it is");
    }
}

/// A certificate: its names can stand in headers and logs, and a part of it is none.
///
/// # Panics
/// When the reader breaks one of these promises.
pub fn certificate(data: &[u8]) {
    let Some(names) = gateway::certificate_names(data) else { return };
    for name in &names {
        assert!(!name.is_empty() && name.trim() == &**name, "{name:?}");
        assert!(name.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name:?}");
    }
    for end in (0..data.len()).step_by(data.len() / 100 + 1) {
        if let Some(early) = gateway::certificate_names(&data[..end]) {
            // What follows the certificate is nobody's business.
            assert_eq!(early, names, "after {end} bytes");
        }
    }
}

/// What a parser says of a prefix, as text; `None` asks for more.
fn said<T: Debug>(parsed: Result<Parsed<T>, Malformed>) -> Option<String> {
    match parsed {
        Ok(Parsed::Partial) => None,
        verdict => Some(format!("{verdict:?}")),
    }
}

/// Every verdict on a prefix is the verdict on the whole. Long inputs are cut at about a hundred places only.
fn verdicts_are_final(data: &[u8], say: impl Fn(&[u8]) -> Option<String>) {
    let last = say(data);
    for end in (0..data.len()).step_by(data.len() / 100 + 1) {
        let early = say(&data[..end]);
        assert!(early.is_none() || early == last, "after {end} bytes {early:?}, after all {last:?}");
    }
}

fn head_is_sound(data: &[u8], len: usize, fields: &[Field<'_>]) {
    assert!(len <= data.len() && len <= LIMITS.head_bytes && fields.len() <= LIMITS.fields_max);
    assert!(data[..len].ends_with(b"\r\n\r\n"));
    assert!(may_hold_head(&data[..len], len - 1));
    for field in fields {
        assert!(
            !field.name.is_empty() && field.line.starts_with(field.name) && field.line.ends_with(b"\r\n")
        );
        let text = &field.line[..field.line.len() - 2];
        assert!(text.iter().all(|&byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)));
        assert!(!field.value.starts_with(b" ") && !field.value.ends_with(b"\t"));
        assert!(field.id == FieldId::Listed || field.id == FieldId::of(field.name));
    }
}

fn request_line(head: &RequestHead<'_, '_>) -> String {
    let target = match (head.target.scheme, head.target.authority) {
        // An absolute target without a path asks OPTIONS of the server itself.
        (Some(scheme), Some(authority)) if head.target.path == "*" => format!("{scheme:?}://{authority}"),
        (Some(scheme), Some(authority)) => format!("{scheme:?}://{authority}{}", head.target.path_and_query),
        _ => head.target.path_and_query.to_owned(),
    };
    format!("{} {target} {}\r\n", head.method_text, head.version.as_str())
}

fn rewritten(line: &[u8], fields: &[Field<'_>]) -> Vec<u8> {
    let mut out = line.to_vec();
    for field in fields {
        write_field(field.name, field.value, &mut out);
    }
    out.extend_from_slice(b"\r\n");
    out
}

fn assert_same_fields(first: &[Field<'_>], second: &[Field<'_>]) {
    let parts = |fields: &[Field<'_>]| -> Vec<_> {
        fields.iter().map(|field| (field.id, field.name.to_vec(), field.value.to_vec())).collect()
    };
    assert_eq!(parts(first), parts(second));
}

/// What passed of a chunked body.
#[derive(Debug)]
struct Passage {
    data: Vec<u8>,
    /// What was forwarded, with the end written anew if the body ended.
    sent: Vec<u8>,
    trailers: Vec<u8>,
    consumed: usize,
    done: bool,
}

fn pass(stream: &[u8], piece_max: usize) -> Result<Passage, Malformed> {
    let mut body = Body::new(Framing::Chunked, &LIMITS);
    let mut passage =
        Passage { data: Vec::new(), sent: Vec::new(), trailers: Vec::new(), consumed: 0, done: false };
    for piece in stream.chunks(piece_max) {
        let Advance { consumed, forward, done } =
            body.advance_data(piece, |run| passage.data.extend_from_slice(run))?;
        assert!(forward <= consumed && consumed <= piece.len());
        assert!(done || consumed == piece.len(), "a body that goes on takes everything");
        assert_eq!(done, body.finished());
        passage.sent.extend_from_slice(&piece[..forward]);
        passage.consumed += consumed;
        passage.done = done;
        if done {
            write_last_chunk(body.trailers(), &mut passage.sent);
            break;
        }
    }
    passage.trailers = body.trailers().as_bytes().to_vec();
    Ok(passage)
}
