use super::{refused, request};
use crate::codec::{
    FIELDS_MAX, FieldId, FieldStorage, Form, Framing, Limits, Malformed, Method, Parsed, Version,
    may_hold_head, parse_request,
};

/// A request with `Host` and these lines.
fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: shop\r\n{lines}\r\n")
}

const BROWSER: &str = "GET /cart/items?page=2 HTTP/1.1\r\nHost: shop.example:8080\r\nUser-Agent: Mozilla/5.0 (X11)\r\n\
    Accept: text/html,*/*;q=0.8\r\nCookie: a=b; c=d\r\nx-Odd:\t caf\u{e9} \t \r\nConnection: keep-alive\r\n\r\nleft over";

#[test]
fn reads_a_browser_head() {
    request(BROWSER, |head| {
        assert_eq!(head.len, BROWSER.len() - "left over".len());
        assert_eq!((head.method, head.method_text), (Method::Get, "GET"));
        assert_eq!(head.version, Version::Http11);
        assert_eq!((head.target.form, head.target.scheme, head.target.authority), (Form::Origin, None, None));
        assert_eq!((head.target.path, head.target.query), ("/cart/items", Some("page=2")));
        assert_eq!(head.target.path_and_query, "/cart/items?page=2");
        assert_eq!(head.host, "shop.example:8080");
        assert_eq!(head.framing, Framing::None);
        assert!(head.persists() && head.connection.keep_alive && !head.connection.others);
        assert!(!head.expect_continue && head.upgrade.is_none());
        let ids: Vec<_> = head.fields.iter().map(|field| field.id).collect();
        assert_eq!(
            ids,
            [
                FieldId::Host,
                FieldId::Other,
                FieldId::Other,
                FieldId::Cookie,
                FieldId::Other,
                FieldId::Connection
            ]
        );
        assert_eq!(head.fields[4].name, b"x-Odd");
        assert_eq!(head.fields[4].value, "caf\u{e9}".as_bytes());
        assert_eq!(head.fields[4].line, "x-Odd:\t caf\u{e9} \t \r\n".as_bytes());
    });
}

#[test]
fn every_prefix_of_a_head_is_partial() {
    let head = request(BROWSER, |head| head.len);
    for end in 0..head {
        let parsed = parse_request(&BROWSER.as_bytes()[..end], &mut FieldStorage::new(), &Limits::default())
            .map(|p| p == Parsed::Partial);
        assert_eq!(parsed, Ok(true), "{end} bytes");
        assert!(!may_hold_head(&BROWSER.as_bytes()[..end], end.saturating_sub(1)));
    }
    assert!(may_hold_head(&BROWSER.as_bytes()[..head], head - 1));
}

#[test]
fn tolerates_one_empty_line_before_a_request_and_no_second() {
    let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(request(text, |head| head.len), text.len());
    assert_eq!(refused("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Malformed::RequestLine);
    assert_eq!(refused("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Malformed::BareLf);
    assert_eq!(refused("\rGET / HTTP/1.1\r\nHost: a\r\n\r\n"), Malformed::BareCr);
}

#[test]
fn refuses_a_sloppy_request_line() {
    for line in [
        " GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "G(T / HTTP/1.1",
        "G\u{c9}T / HTTP/1.1",
        "GET /",
        "GET / HTTP/1.1 ",
    ] {
        let malformed = refused(&format!("{line}\r\nHost: a\r\n\r\n"));
        assert!(matches!(malformed, Malformed::RequestLine | Malformed::Target), "{line:?}: {malformed}");
        assert_eq!(malformed.status(), 400);
    }
    assert_eq!(refused("GET /  HTTP/1.1\r\nHost: a\r\n\r\n"), Malformed::Version);
    assert_eq!(refused("GET / http/1.1\r\nHost: a\r\n\r\n"), Malformed::Version);
}

#[test]
fn refuses_versions_it_does_not_speak() {
    assert_eq!(refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Malformed::VersionUnsupported);
    assert_eq!(refused("GET / HTTP/1.2\r\nHost: a\r\n\r\n"), Malformed::VersionUnsupported);
    assert_eq!(refused("GET / HTTP/0.9\r\nHost: a\r\n\r\n"), Malformed::VersionUnsupported);
    assert_eq!(Malformed::VersionUnsupported.status(), 505);
}

#[test]
fn refuses_connect() {
    assert_eq!(refused("CONNECT shop:443 HTTP/1.1\r\nHost: shop\r\n\r\n"), Malformed::Connect);
    assert_eq!(Malformed::Connect.status(), 501);
}

#[test]
fn refuses_bare_lf_anywhere_in_a_head() {
    let sound = "GET / HTTP/1.1\r\nHost: a\r\nAccept: b\r\n\r\n";
    for (at, _) in sound.match_indices("\r\n") {
        let mut text = sound.to_owned();
        text.remove(at);
        assert_eq!(refused(&text), Malformed::BareLf, "{text:?}");
    }
    assert_eq!(refused(&with("A: b\nC: d\r\n")), Malformed::BareLf);
}

#[test]
fn refuses_bare_cr_anywhere_in_a_head() {
    assert_eq!(refused(&with("A: b\rC: d\r\n")), Malformed::BareCr);
    assert_eq!(refused(&with("A: b\r\r\n")), Malformed::BareCr);
    assert_eq!(refused("GET / HTTP/1.1\rHost: a\r\n\r\n"), Malformed::BareCr);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\n\rX"), Malformed::BareCr);
}

#[test]
fn refuses_control_bytes_in_values() {
    for control in (0..0x20_u8).chain([0x7f]).filter(|b| !b"\t\r\n".contains(b)) {
        assert_eq!(refused(&with(&format!("A: b{}c\r\n", char::from(control)))), Malformed::ControlInValue);
    }
}

#[test]
fn refuses_folded_lines() {
    assert_eq!(refused(&with("A: b\r\n c\r\n")), Malformed::ObsFold);
    assert_eq!(refused(&with("A: b\r\n\tc: d\r\n")), Malformed::ObsFold);
    assert_eq!(refused("GET / HTTP/1.1\r\n Host: a\r\n\r\n"), Malformed::ObsFold);
}

#[test]
fn refuses_bad_field_names() {
    assert_eq!(refused(&with("Content-Length : 3\r\n")), Malformed::SpaceBeforeColon);
    assert_eq!(refused(&with("Transfer-Encoding\t: chunked\r\n")), Malformed::SpaceBeforeColon);
    assert_eq!(refused(&with(": value\r\n")), Malformed::NameEmpty);
    for line in ["no colon", "b(d: x", "caf\u{e9}: x", "\0: x", "nocolon"] {
        let malformed = refused(&with(&format!("{line}\r\n")));
        assert!(matches!(malformed, Malformed::Name | Malformed::SpaceBeforeColon), "{line:?}: {malformed}");
    }
}

#[test]
fn refuses_missing_duplicate_and_invalid_hosts() {
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Malformed::HostMissing);
    assert_eq!(refused("GET http://a/ HTTP/1.1\r\n\r\n"), Malformed::HostMissing);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"), Malformed::HostDuplicate);
    assert_eq!(refused("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n"), Malformed::HostDuplicate);
    for host in [
        "",
        "a b",
        "a,b",
        "a/b",
        "a:b",
        "a:65536",
        "a:",
        ":80",
        "[::1",
        "[::g]",
        "[::1]80",
        "a%41",
        "a:1:2",
        "caf\u{e9}",
        "a?b",
        "a#b",
    ] {
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Malformed::Host, "{host:?}");
    }
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: me@a\r\n\r\n"), Malformed::Userinfo);
    for host in ["a", "a:80", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "my_app-1.shop.example."] {
        assert_eq!(
            request(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), |head| head.host.to_owned()),
            host
        );
    }
    assert_eq!(
        request("GET / HTTP/1.0\r\n\r\n", |head| (head.host.to_owned(), head.persists())),
        (String::new(), false)
    );
}

#[test]
fn the_target_wins_over_a_differing_host() {
    request("GET http://shop.example:81/a?b HTTP/1.1\r\nHost: other\r\n\r\n", |head| {
        assert_eq!(head.host, "shop.example:81");
        assert_eq!(head.target.form, Form::Absolute);
        assert_eq!(head.target.path_and_query, "/a?b");
    });
    assert_eq!(refused("GET http://shop/ HTTP/1.1\r\nHost: a b\r\n\r\n"), Malformed::Host);
}

#[test]
fn refuses_length_together_with_coding() {
    assert_eq!(
        refused(&with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")),
        Malformed::LengthWithCoding
    );
    assert_eq!(
        refused(&with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n")),
        Malformed::LengthWithCoding
    );
    assert_eq!(
        refused(&with("Transfer-Encoding: chunked\r\ncontent-length: 0\r\n")),
        Malformed::LengthWithCoding
    );
}

#[test]
fn refuses_lengths_that_two_readers_could_read_in_two_ways() {
    for length in [
        "",
        "+3",
        "-3",
        "03",
        "00",
        "0x3",
        "3a",
        "3,3",
        "3, 4",
        "3 3",
        "1e3",
        "3.0",
        "\u{0663}",
        "9223372036854775808",
        "1000000000000000000",
        "18446744073709551616",
    ] {
        assert_eq!(refused(&with(&format!("Content-Length: {length}\r\n"))), Malformed::Length, "{length:?}");
    }
    assert_eq!(refused(&with("Content-Length: 3\r\nContent-Length: 3\r\n")), Malformed::LengthDuplicate);
    for length in [0, 1, 10, 999_999_999_999_999_999] {
        assert_eq!(
            request(&with(&format!("content-length:\t{length} \r\n")), |head| head.framing),
            Framing::Length(length)
        );
    }
}

#[test]
fn refuses_codings_other_than_exactly_chunked() {
    for coding in [
        "",
        "xchunked",
        "gzip, chunked",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "identity",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\u{b}",
    ] {
        let malformed = refused(&with(&format!("Transfer-Encoding: {coding}\r\n")));
        assert!(
            matches!(malformed, Malformed::Coding | Malformed::ControlInValue),
            "{coding:?}: {malformed}"
        );
    }
    assert_eq!(Malformed::Coding.status(), 501);
    assert_eq!(
        refused(&with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
        Malformed::CodingDuplicate
    );
    assert_eq!(
        refused(&with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")),
        Malformed::CodingDuplicate
    );
    assert_eq!(request(&with("tRANSFER-eNCODING: cHUNKED\r\n"), |head| head.framing), Framing::Chunked);
}

#[test]
fn refuses_a_coding_in_http_1_0() {
    assert_eq!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Malformed::CodingUnexpected);
}

#[test]
fn refuses_other_expectations_and_ignores_them_without_a_body() {
    assert_eq!(refused(&with("Expect: 200-ok\r\n")), Malformed::Expect);
    assert_eq!(refused(&with("Expect: 100-continue\r\nExpect: 100-continue\r\n")), Malformed::Expect);
    assert_eq!(Malformed::Expect.status(), 417);
    assert!(request(&with("Expect: 100-Continue\r\nContent-Length: 3\r\n"), |head| head.expect_continue));
    assert!(!request(&with("Expect: 100-continue\r\n"), |head| head.expect_continue));
    assert!(!request("POST / HTTP/1.0\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", |head| head
        .expect_continue));
}

#[test]
fn refuses_an_upgrade_with_a_body() {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    assert_eq!(request(&with(upgrade), |head| head.upgrade.map(<[u8]>::to_vec)), Some(b"websocket".to_vec()));
    assert_eq!(refused(&with(&format!("{upgrade}Content-Length: 3\r\n"))), Malformed::UpgradeWithBody);
    assert_eq!(
        refused(&with(&format!("{upgrade}Transfer-Encoding: chunked\r\n"))),
        Malformed::UpgradeWithBody
    );
    assert_eq!(refused(&with(&format!("{upgrade}Upgrade: h2c\r\n"))), Malformed::UpgradeDuplicate);
}

#[test]
fn ignores_an_upgrade_that_connection_does_not_name() {
    assert_eq!(
        request(&with("Upgrade: h2c\r\nContent-Length: 3\r\n"), |head| head.upgrade.map(<[u8]>::to_vec)),
        None
    );
    let old = "GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(request(old, |head| head.upgrade.map(<[u8]>::to_vec)), None);
}

#[test]
fn connection_options_decide_persistence_and_list_fields() {
    assert!(!request(&with("Connection: foo, Close\r\n"), |head| head.persists()));
    assert!(!request(&with("Connection: close, keep-alive\r\n"), |head| head.persists()));
    assert!(request("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", |head| head.persists()));
    assert_eq!(refused(&with("Connection: a b\r\n")), Malformed::Connection);
    let text = with(
        "X-Secret: 1\r\nConnection: ,x-secret , X-Forwarded-For,close\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: other\r\nOTHER: 2\r\n",
    );
    request(&text, |head| {
        let ids: Vec<_> = head.fields.iter().map(|field| field.id).collect();
        use FieldId::*;
        assert_eq!(ids, [Host, Listed, Connection, XForwardedFor, Connection, Listed]);
        assert!(head.connection.close && head.connection.others);
    });
}

#[test]
fn refuses_what_exceeds_the_limits_at_the_limit() {
    let limits = Limits { head_bytes: 64, fields_max: 3, ..Limits::default() };
    let verdict = |text: &str| {
        parse_request(text.as_bytes(), &mut FieldStorage::new(), &limits)
            .map(|parsed| parsed != Parsed::Partial)
    };
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(60));
    assert_eq!(verdict(&long[..63]), Ok(false));
    assert_eq!(verdict(&long[..64]), Err(Malformed::TargetTooLong));
    assert_eq!(verdict(&long), Err(Malformed::TargetTooLong));
    let fits = format!("GET / HTTP/1.1\r\nHost: a\r\nA: {}\r\n\r\n", "b".repeat(32));
    assert_eq!(fits.len(), 64);
    assert_eq!(verdict(&fits), Ok(true));
    assert_eq!(verdict(&fits.replace("A: ", "AA: ")), Err(Malformed::HeadTooLarge));
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nA:\r\n\r\n"), Ok(true));
    assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nA:\r\nA:\r\n\r\n"), Err(Malformed::FieldsTooMany));
    assert_eq!((Malformed::TargetTooLong.status(), Malformed::HeadTooLarge.status()), (414, 431));
}

#[test]
fn names_of_refusals_are_unique_labels() {
    let mut names: Vec<_> = Malformed::ALL.iter().map(|malformed| malformed.name()).collect();
    assert!(
        names
            .iter()
            .all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
    );
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Malformed::ALL.len());
    assert!(
        Malformed::ALL.iter().all(|malformed| [400, 414, 417, 431, 501, 505].contains(&malformed.status()))
    );
}

#[test]
fn the_most_fields_allowed_stay_off_the_heap() {
    let text = with(&"A: b\r\n".repeat(FIELDS_MAX - 1));
    let limits = Limits { fields_max: usize::MAX, ..Limits::default() };
    let mut storage = FieldStorage::new();
    let parsed = parse_request(text.as_bytes(), &mut storage, &limits);
    assert!(matches!(parsed, Ok(Parsed::Complete(head)) if head.fields.len() == FIELDS_MAX));
    assert!(!storage.fields.spilled());
    let text = with(&"A: b\r\n".repeat(FIELDS_MAX));
    assert_eq!(
        parse_request(text.as_bytes(), &mut FieldStorage::new(), &limits).err(),
        Some(Malformed::FieldsTooMany)
    );
}
