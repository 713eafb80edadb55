use crate::codec::{Advance, Body, Chunked, Framing, Limits, Malformed};

fn chunked(limit: usize) -> Body {
    Body::new(Framing::Chunked, &Limits { trailer_bytes: limit, ..Limits::default() })
}

/// Feeds all at once.
fn feed(input: &str) -> (Body, Result<Advance, Malformed>) {
    let mut body = chunked(1024);
    let advance = body.advance(input.as_bytes());
    (body, advance)
}

fn refused(input: &str) -> Malformed {
    match feed(input).1 {
        Err(malformed) => malformed,
        Ok(advance) => panic!("{input:?} was not refused: {advance:?}"),
    }
}

#[test]
fn a_body_of_stated_length_ends_there() {
    let mut body = Body::new(Framing::Length(5), &Limits::default());
    assert_eq!(body.advance(b"abc"), Ok(Advance { consumed: 3, forward: 3, done: false }));
    assert!(!body.may_close());
    assert_eq!(body.advance(b"deGET /"), Ok(Advance { consumed: 2, forward: 2, done: true }));
    assert_eq!(body.advance(b"GET /"), Ok(Advance { consumed: 0, forward: 0, done: true }));
    assert!(Body::new(Framing::Length(0), &Limits::default()).finished());
}

#[test]
fn no_body_takes_nothing_and_one_until_close_takes_all() {
    assert_eq!(Body::None.advance(b"GET"), Ok(Advance { consumed: 0, forward: 0, done: true }));
    let mut body = Body::new(Framing::UntilClose, &Limits::default());
    assert_eq!(body.advance(b"abc"), Ok(Advance { consumed: 3, forward: 3, done: false }));
    assert!(body.may_close() && !body.finished());
}

#[test]
fn chunks_pass_through_and_their_end_is_withheld() {
    let (body, advance) = feed("3\r\nabc\r\n0A\r\n0123456789\r\n0\r\n\r\nGET");
    assert_eq!(advance, Ok(Advance { consumed: 29, forward: 24, done: true }));
    assert!(body.finished() && body.trailers().is_empty());
}

#[test]
fn zeros_that_may_be_the_last_chunk_are_withheld() {
    let mut body = chunked(0);
    assert_eq!(body.advance(b"1\r\na\r\n00"), Ok(Advance { consumed: 8, forward: 6, done: false }));
    assert!(!body.may_close());
    assert_eq!(body.advance(b"02\r\nab\r\n0"), Ok(Advance { consumed: 9, forward: 8, done: false }));
    assert_eq!(body.advance(b"\r\n\r\n"), Ok(Advance { consumed: 4, forward: 0, done: true }));
}

#[test]
fn data_comes_without_its_framing() {
    let mut data = Vec::new();
    let advance =
        chunked(0).advance_data(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", |run| data.extend_from_slice(run));
    assert!(advance.is_ok_and(|advance| advance.done));
    assert_eq!(data, b"abcde");
}

#[test]
fn refuses_chunk_extensions() {
    for input in ["3;a=b\r\nabc\r\n", "3 \r\nabc\r\n", "3\t;\r\n", "0;\r\n\r\n", "3 ;a\r\n"] {
        assert_eq!(refused(input), Malformed::ChunkExtension, "{input:?}");
    }
}

#[test]
fn refuses_sizes_that_are_not_plain_hexadecimal() {
    for input in [
        "\r\n",
        "g\r\n",
        "-1\r\n",
        "+1\r\n",
        " 1\r\n",
        "0x1\r\n",
        "1_0\r\n",
        ";\r\n",
        "10000000000000000\r\n",
        "00000000000000001\r\n",
    ] {
        assert_eq!(refused(input), Malformed::ChunkSize, "{input:?}");
    }
    assert!(feed("ffffffffffffffff\r\nabc").1.is_ok_and(|advance| advance.forward == 21));
}

#[test]
fn refuses_bare_line_ends_in_chunk_framing() {
    assert_eq!(refused("3\nabc\r\n"), Malformed::BareLf);
    assert_eq!(refused("3\rabc\r\n"), Malformed::BareCr);
    assert_eq!(refused("3\r\rabc\r\n"), Malformed::BareCr);
    assert_eq!(refused("3\r\nabc\n"), Malformed::ChunkEnd);
    assert_eq!(refused("3\r\nabc\r0"), Malformed::ChunkEnd);
    assert_eq!(refused("3\r\nabcd\r\n"), Malformed::ChunkEnd);
    assert_eq!(refused("0\n\n"), Malformed::BareLf);
    assert_eq!(refused("0\r\n\n"), Malformed::BareLf);
    assert_eq!(refused("0\r\n\rX"), Malformed::BareCr);
}

#[test]
fn keeps_harmless_trailers_and_drops_the_others() {
    let (body, advance) = feed(
        "0\r\nGrpc-Status:\t0 \r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: a\r\nAuthorization: b\r\nETag: \"x\"\r\n\
         Connection: close\r\nTE: x\r\nTrailer: y\r\nSet-Cookie: z\r\nIf-Match: *\r\nX-Forwarded-For: 1\r\nseawall-retry: no\r\n\
         endpoint-load-metrics: TEXT\r\n\r\n",
    );
    assert!(advance.is_ok_and(|advance| advance.done && advance.forward == 0));
    let kept: Vec<_> =
        body.trailers().iter().map(|field| (field.name.to_vec(), field.value.to_vec())).collect();
    let expected = [("Grpc-Status", "0"), ("ETag", "\"x\""), ("endpoint-load-metrics", "TEXT")];
    assert_eq!(kept, expected.map(|(name, value)| (name.into(), value.into())));
}

#[test]
fn refuses_malformed_trailers() {
    assert_eq!(refused("0\r\nA : b\r\n\r\n"), Malformed::SpaceBeforeColon);
    assert_eq!(refused("0\r\nA: b\n\r\n"), Malformed::BareLf);
    assert_eq!(refused("0\r\nA: b\rc\r\n\r\n"), Malformed::BareCr);
    assert_eq!(refused("0\r\nA: b\r\n c\r\n\r\n"), Malformed::ObsFold);
    assert_eq!(refused("0\r\nA: \0\r\n\r\n"), Malformed::ControlInValue);
    assert_eq!(refused("0\r\nGET / HTTP/1.1\r\n"), Malformed::SpaceBeforeColon);
    assert_eq!(refused("0\r\n: b\r\n\r\n"), Malformed::NameEmpty);
}

#[test]
fn refuses_trailers_beyond_their_limit_even_when_dropped() {
    let section = "A: b\r\nHost: c\r\n";
    let input = format!("0\r\n{section}\r\n");
    assert!(chunked(section.len()).advance(input.as_bytes()).is_ok_and(|advance| advance.done));
    assert_eq!(chunked(section.len() - 1).advance(input.as_bytes()), Err(Malformed::TrailersTooLarge));
    assert_eq!(chunked(8).advance(b"0\r\nendless line"), Err(Malformed::TrailersTooLarge));
}

#[test]
fn the_state_of_a_body_is_small() {
    assert!(size_of::<Chunked>() <= 32 && size_of::<Body>() <= 32);
}
