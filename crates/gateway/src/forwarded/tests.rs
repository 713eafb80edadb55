use proptest::prelude::*;

use super::*;

fn field<'b>(name: &'b str, value: &'b [u8]) -> Field<'b> {
    Field { id: FieldId::of(name.as_bytes()), name: name.as_bytes(), value, line: b"" }
}

fn fields<'b>(lines: &[(&'b str, &'b str)]) -> Vec<Field<'b>> {
    lines.iter().map(|(name, value)| field(name, value.as_bytes())).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn networks() -> Vec<IpNet> {
    ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).into()
}

fn client(peer: &str, lines: &[(&str, &str)]) -> String {
    let trusted = networks().iter().any(|network| network.contains(ip(peer)));
    client_address(ip(peer), trusted, &networks(), &fields(lines)).to_string()
}

fn written(peer: &str, lines: &[(&str, &str)]) -> String {
    let trusted = networks().iter().any(|network| network.contains(ip(peer)));
    let mut out = Vec::new();
    write(ip(peer), Scheme::Http, trusted, "shop.example:80", &fields(lines), &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn the_client_is_the_right_most_untrusted_hop() {
    let xff = |peer: &str, value: &str| client(peer, &[("x-forwarded-for", value)]);
    assert_eq!(xff("10.0.0.1", "6.6.6.6, 192.0.2.7, 10.0.0.2"), "192.0.2.7");
    assert_eq!(xff("10.0.0.1", "10.0.0.3,10.0.0.2"), "10.0.0.3");
    assert_eq!(xff("192.0.2.9", "6.6.6.6"), "192.0.2.9");
    assert_eq!(xff("::ffff:10.0.0.1", "::ffff:192.0.2.7"), "192.0.2.7");
    assert_eq!(xff("fd00::1", "[2001:db8::1]:4711"), "2001:db8::1");
    assert_eq!(xff("10.0.0.1", "192.0.2.7:4711"), "192.0.2.7");
    assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
    let two =
        [("X-Forwarded-For", "6.6.6.6"), ("x-forwarded-for", "192.0.2.7"), ("x-forwarded-for", "10.0.0.2")];
    assert_eq!(client("10.0.0.1", &two), "192.0.2.7");
}

#[test]
fn junk_ends_the_walk_at_the_hop_that_reported_it() {
    for junk in [
        "unknown",
        "",
        "_hidden",
        "1.2.3",
        "1.2.3.4:x",
        "1.2.3.4:99999",
        "[::1",
        "[::1]x",
        "1.2.3.4 5",
        "é",
        "1.2.3.4:+1",
    ] {
        let line = format!("6.6.6.6, {junk}, 10.0.0.2");
        assert_eq!(client("10.0.0.1", &[("x-forwarded-for", &line)]), "10.0.0.2", "{junk}");
    }
    for junk in [
        "for=unknown",
        "",
        "for=_x",
        "by=1.2.3.4",
        "for=1.2.3.4;for=5.6.7.8",
        "for",
        "for=\"1.2.3.4\"x",
        "for=\"\\1.2.3.4\"",
    ] {
        let line = format!("for=6.6.6.6, {junk}, for=10.0.0.2");
        assert_eq!(client("10.0.0.1", &[("forwarded", &line)]), "10.0.0.2", "{junk}");
    }
}

#[test]
fn forwarded_is_read_where_there_is_no_x_forwarded_for() {
    let line = "for=6.6.6.6;by=\",;\", For=\"[2001:db8::1]:4711\";proto=https ,for=10.0.0.2";
    assert_eq!(client("10.0.0.1", &[("forwarded", line)]), "2001:db8::1");
    assert_eq!(
        client("10.0.0.1", &[("forwarded", "for=6.6.6.6"), ("x-forwarded-for", "192.0.2.7")]),
        "192.0.2.7"
    );
}

#[test]
fn a_quote_that_never_ends_takes_the_line_with_it() {
    assert_eq!(client("10.0.0.1", &[("forwarded", "for=6.6.6.6, for=\", for=192.0.2.7")]), "10.0.0.1");
    assert_eq!(client("10.0.0.1", &[("forwarded", "for=\", for=\"[2001:db8::1]\"")]), "10.0.0.1");
}

#[test]
fn long_chains_are_bounded() {
    for count in [HOPS_MAX - 1, HOPS_MAX, HOPS_MAX + 1, 5_000] {
        let line = vec!["10.0.0.9"; count].join(",");
        assert_eq!(
            client("10.0.0.1", &[("x-forwarded-for", &format!("6.6.6.6,{line}"))]),
            if count < HOPS_MAX { "6.6.6.6" } else { "10.0.0.9" }
        );
        let line = vec!["for=10.0.0.9"; count].join(",");
        assert_eq!(
            client("10.0.0.1", &[("forwarded", &format!("for=6.6.6.6,{line}"))]),
            if count < HOPS_MAX { "6.6.6.6" } else { "10.0.0.9" }
        );
    }
}

#[test]
fn untrusted_words_are_replaced_and_trusted_ones_extended() {
    let lies = [
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil"),
        ("forwarded", "for=6.6.6.6"),
    ];
    let own = "x-forwarded-proto: http\r\nx-forwarded-host: shop.example:80\r\n";
    assert_eq!(written("192.0.2.9", &lies), format!("x-forwarded-for: 192.0.2.9\r\n{own}"));
    assert_eq!(written("::ffff:192.0.2.9", &lies), format!("x-forwarded-for: 192.0.2.9\r\n{own}"));
    assert_eq!(written("2001:db8::9", &lies), format!("x-forwarded-for: 2001:db8::9\r\n{own}"));
    assert_eq!(written("10.0.0.1", &[]), format!("x-forwarded-for: 10.0.0.1\r\n{own}"));
    let words = [
        ("x-forwarded-for", "6.6.6.6, 192.0.2.7"),
        ("x-forwarded-for", "10.0.0.2"),
        ("x-forwarded-proto", "gopher, HTTPS"),
        ("x-forwarded-host", "evil, www.example"),
        ("forwarded", "for=6.6.6.6"),
    ];
    assert_eq!(
        written("10.0.0.1", &words),
        "x-forwarded-for: 6.6.6.6, 192.0.2.7, 10.0.0.2, 10.0.0.1\r\nx-forwarded-proto: https\r\nx-forwarded-host: www.example\r\n"
    );
    assert_eq!(
        written(
            "fd00::1",
            &[("forwarded", "for=_x, for=\"[2001:db8::1]\";proto=https;host=\"www.example\"")]
        ),
        "x-forwarded-for: unknown, 2001:db8::1, fd00::1\r\nx-forwarded-proto: https\r\nx-forwarded-host: www.example\r\n\
         forwarded: for=_x, for=\"[2001:db8::1]\";proto=https;host=\"www.example\", for=\"[fd00::1]\";host=\"shop.example:80\";proto=http\r\n"
    );
}

/// What an untrusted client may write: addresses of its choice, quotes, separators.
fn lies() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "6.6.6.6",
        "for=6.6.6.6",
        "for=\"",
        "\"",
        "\\",
        ",",
        ";",
        " ",
        "10.0.0.5",
        "for=10.0.0.5",
        "unknown",
        "=",
        "[",
        "]",
        "é",
    ]);
    prop::collection::vec(piece, 0..10).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_client_is_never_chosen_by_an_untrusted_party(
        before in prop::collection::vec(lies(), 0..3),
        same_line in lies(),
        proxies in prop::collection::vec(1..200u8, 1..6),
        v6 in any::<bool>(),
        rfc7239 in any::<bool>(),
    ) {
        let real = if v6 { "2001:db8::7" } else { "192.0.2.7" };
        // Each proxy appends whom it saw; the last one is the peer.
        let proxies: Vec<_> = proxies.iter().map(|last| format!("10.1.0.{last}")).collect();
        let (peer, between) = proxies.split_last().unwrap();
        let mut line = same_line;
        for (at, hop) in std::iter::once(real).chain(between.iter().map(String::as_str)).enumerate() {
            let comma = if at == 0 && line.is_empty() { "" } else { ", " };
            line += &match (rfc7239, hop.contains(':')) {
                (true, true) => format!("{comma}for=\"[{hop}]:80\""),
                (true, false) => format!("{comma}for={hop}"),
                (false, _) => format!("{comma}{hop}"),
            };
        }
        let name = if rfc7239 { "forwarded" } else { "x-forwarded-for" };
        let mut lines: Vec<_> = before.iter().map(|line| (name, line.as_str())).collect();
        lines.push((name, &line));
        let client = client(peer, &lines);
        if rfc7239 {
            // A quote left open by the client makes the line unreadable; then it is the peer.
            prop_assert!(client == real || client == *peer, "{} of {}", client, line);
        } else {
            prop_assert_eq!(client, real);
        }
    }

    #[test]
    fn no_line_is_injected(
        values in prop::collection::vec((0..5usize, prop::collection::vec(any::<u8>(), 0..12)), 0..6),
        host in "\\PC{0,8}",
        trusted in any::<bool>(),
    ) {
        let names = ["forwarded", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-other"];
        let fields: Vec<_> = values.iter().map(|(name, value)| field(names[*name], value)).collect();
        let mut out = Vec::new();
        write(ip("10.0.0.1"), Scheme::Http, trusted, &host, &fields, &mut out);
        let text = out.strip_suffix(b"\r\n").unwrap();
        let expected = ["x-forwarded-for: ", "x-forwarded-proto: ", "x-forwarded-host: ", "forwarded: "];
        let mut next = 0;
        for line in text.split(|byte| *byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            prop_assert!(!line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t'));
            let at = expected.iter().position(|name| line.starts_with(name.as_bytes())).unwrap();
            prop_assert!(at >= next);
            next = at + 1;
        }
    }
}
