use super::{refused_response, response};
use crate::codec::{Framing, Limits, Malformed, Method, Parsed, Version, parse_response};

fn framing(head: &str, to: Method) -> Framing {
    response(head, to, |head| head.framing)
}

#[test]
fn reads_a_plain_head() {
    let text = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nServer: x\r\n\r\nabc";
    response(text, Method::Get, |head| {
        assert_eq!((head.len, head.status, head.reason), (text.len() - 3, 404, "Not Found"));
        assert_eq!((head.version, head.framing, head.fields.len()), (Version::Http11, Framing::Length(3), 2));
        assert!(head.persists() && !head.is_interim());
    });
}

#[test]
fn tolerates_a_missing_reason_and_hides_one_that_is_not_ascii() {
    let length = "Content-Length: 0\r\n\r\n";
    for line in ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200 caf\u{e9}"] {
        assert_eq!(response(&format!("{line}\r\n{length}"), Method::Get, |head| head.reason.to_owned()), "");
    }
}

#[test]
fn refuses_a_sloppy_status_line() {
    let with = |line: &str| refused_response(&format!("{line}\r\nContent-Length: 0\r\n\r\n"), Method::Get);
    assert_eq!(with("\r\nHTTP/1.1 200 OK"), Malformed::Version);
    assert_eq!(with("HTTP/1.1  200 OK"), Malformed::Status);
    assert_eq!(with("HTTP/1.1\t200 OK"), Malformed::StatusLine);
    assert_eq!(with("HTTP/1.1 2000 OK"), Malformed::StatusLine);
    assert_eq!(with("HTTP/1.1 200\tOK"), Malformed::StatusLine);
    assert_eq!(with("HTTP/1.1 200 O\0K"), Malformed::StatusLine);
    assert_eq!(with("HTTP/1.1 200 OK\rX"), Malformed::BareCr);
    assert_eq!(with("HTTP/2.0 200 OK"), Malformed::VersionUnsupported);
    for status in ["099", "600", "999", "20", "2x0", "+20", "000"] {
        assert_eq!(with(&format!("HTTP/1.1 {status} OK")), Malformed::Status, "{status:?}");
    }
    assert_eq!(refused_response("HTTP/1.1 200 OK\nContent-Length: 0\n\n", Method::Get), Malformed::BareLf);
}

#[test]
fn some_responses_have_no_body_whatever_their_length_says() {
    for status in [100, 101, 103, 199, 204, 304] {
        assert_eq!(framing(&format!("HTTP/1.1 {status} x\r\n\r\n"), Method::Get), Framing::None);
        assert_eq!(
            framing(&format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n"), Method::Get),
            Framing::None
        );
    }
    assert_eq!(framing("HTTP/1.1 304 x\r\nContent-Length: 10\r\n\r\n", Method::Get), Framing::None);
    assert_eq!(framing("HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get), Framing::None);
    for fields in ["", "Content-Length: 10\r\n", "Transfer-Encoding: chunked\r\n"] {
        assert_eq!(framing(&format!("HTTP/1.1 200 x\r\n{fields}\r\n"), Method::Head), Framing::None);
        assert_eq!(framing(&format!("HTTP/1.1 200 x\r\n{fields}\r\n"), Method::Connect), Framing::None);
    }
    assert_eq!(framing("HTTP/1.1 407 x\r\nContent-Length: 10\r\n\r\n", Method::Connect), Framing::Length(10));
}

#[test]
fn refuses_a_stated_body_where_there_can_be_none() {
    for status in [100, 101, 199, 204] {
        let with =
            |field: &str| refused_response(&format!("HTTP/1.1 {status} x\r\n{field}\r\n\r\n"), Method::Get);
        assert_eq!(with("Transfer-Encoding: chunked"), Malformed::CodingUnexpected);
        assert_eq!(with("Content-Length: 1"), Malformed::LengthUnexpected);
    }
}

#[test]
fn a_response_without_stated_length_ends_with_its_connection() {
    response("HTTP/1.1 200 OK\r\n\r\n", Method::Get, |head| {
        assert_eq!(head.framing, Framing::UntilClose);
        assert!(!head.persists());
    });
}

#[test]
fn refuses_ambiguous_framing_even_where_there_is_no_body() {
    for to in [Method::Get, Method::Head] {
        let with = |fields: &str| refused_response(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), to);
        assert_eq!(with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), Malformed::LengthWithCoding);
        assert_eq!(with("Content-Length: 3\r\nContent-Length: 3\r\n"), Malformed::LengthDuplicate);
        assert_eq!(with("Content-Length: 3, 3\r\n"), Malformed::Length);
        assert_eq!(with("Transfer-Encoding: gzip\r\n"), Malformed::Coding);
        assert_eq!(with("Transfer-Encoding: gzip, chunked\r\n"), Malformed::Coding);
        assert_eq!(with("A : b\r\n"), Malformed::SpaceBeforeColon);
        assert_eq!(with("A: b\r\n c\r\n"), Malformed::ObsFold);
    }
    let old = "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(refused_response(old, Method::Get), Malformed::CodingUnexpected);
}

#[test]
fn interim_responses_and_switches_are_told_apart() {
    assert!(
        response("HTTP/1.1 100 Continue\r\n\r\n", Method::Post, |head| head.is_interim() && head.persists())
    );
    response(
        "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x00",
        Method::Get,
        |head| {
            assert!(!head.is_interim() && !head.persists());
            assert_eq!(head.upgrade, Some(&b"websocket"[..]));
        },
    );
}

#[test]
fn an_old_response_persists_only_when_it_says_so() {
    let persists = |fields: &str| {
        response(&format!("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n{fields}\r\n"), Method::Get, |head| {
            head.persists()
        })
    };
    assert!(!persists(""));
    assert!(persists("Connection: keep-alive\r\n"));
    assert!(!persists("Connection: keep-alive, close\r\n"));
}

#[test]
fn refuses_a_head_that_never_ends() {
    let limits = Limits { head_bytes: 32, ..Limits::default() };
    let text = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(40));
    let verdict = |end: usize| {
        parse_response(&text.as_bytes()[..end], &mut Default::default(), &limits, Method::Get)
            .map(|parsed| parsed == Parsed::Partial)
    };
    assert_eq!(verdict(31), Ok(true));
    assert_eq!(verdict(32), Err(Malformed::HeadTooLarge));
    assert_eq!(verdict(text.len()), Err(Malformed::HeadTooLarge));
}

#[test]
fn fields_of_requests_mean_nothing_in_a_response() {
    let text = "HTTP/1.1 426 x\r\nContent-Length: 0\r\nHost: a\r\nHost: b c\r\nExpect: luck\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n";
    response(text, Method::Get, |head| assert_eq!((head.framing, head.upgrade), (Framing::Length(0), None)));
    let switch = "HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n";
    assert_eq!(refused_response(switch, Method::Get), Malformed::UpgradeDuplicate);
}
