use super::{refused, request};
use crate::codec::{FieldStorage, Form, Limits, Malformed, Scheme, parse_request};

fn line(method: &str, target: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: shop\r\n\r\n")
}

#[test]
fn splits_targets() {
    request(&line("GET", "/a/b;c?d=e?f"), |head| {
        assert_eq!((head.target.path, head.target.query), ("/a/b;c", Some("d=e?f")));
    });
    request(&line("GET", "/?"), |head| assert_eq!((head.target.path, head.target.query), ("/", Some(""))));
    request(&line("GET", "HTTPS://[::1]:1/a|b?c`d"), |head| {
        assert_eq!((head.target.form, head.target.scheme), (Form::Absolute, Some(Scheme::Https)));
        assert_eq!((head.target.authority, head.host), (Some("[::1]:1"), "[::1]:1"));
        assert_eq!(head.target.path_and_query, "/a|b?c`d");
    });
    request(&line("GET", "http://a"), |head| assert_eq!(head.target.path_and_query, "/"));
}

#[test]
fn only_options_may_ask_for_the_server_itself() {
    request(&line("OPTIONS", "*"), |head| {
        assert_eq!((head.target.form, head.target.path_and_query), (Form::Asterisk, "*"));
    });
    request(&line("OPTIONS", "http://a"), |head| assert_eq!(head.target.path_and_query, "*"));
    assert_eq!(refused(&line("GET", "*")), Malformed::Target);
    assert_eq!(refused(&line("OPTIONS", "*x")), Malformed::Target);
}

#[test]
fn refuses_bytes_that_no_target_holds() {
    for byte in (0..=0x20).chain(0x7f..=0xff).chain(*b"\"<>#") {
        let mut bytes = line("GET", "/aXb").into_bytes();
        bytes[6] = byte;
        let mut storage = FieldStorage::new();
        assert!(parse_request(&bytes, &mut storage, &Limits::default()).is_err(), "{byte:#x}");
    }
    assert_eq!(refused(&line("GET", "/a#b")), Malformed::Fragment);
    assert_eq!(refused(&line("GET", "/a`b")), Malformed::Target);
}

#[test]
fn refuses_user_information_and_other_authorities() {
    assert_eq!(refused(&line("GET", "http://me:secret@shop/")), Malformed::Userinfo);
    assert_eq!(refused(&line("GET", "http://shop@/")), Malformed::Userinfo);
    for target in ["http:///a", "http://", "http://a:b/", "http://a%2fb/", "http://[::1/"] {
        assert_eq!(refused(&line("GET", target)), Malformed::Host, "{target}");
    }
}

#[test]
fn refuses_targets_in_no_known_form() {
    for target in [
        "",
        "a",
        "shop:80",
        "ftp://shop/",
        "file:///etc/passwd",
        "http:/a",
        "http:a",
        "http://a?b",
        "?a",
        "%2fa",
    ] {
        assert_eq!(refused(&line("GET", target)), Malformed::Target, "{target:?}");
    }
}
