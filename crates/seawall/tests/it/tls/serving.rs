//! What clients get.

use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use testkit::tls::{Authority, Issued, Trust};
use testkit::{Reply, Upstream, request};

use super::{SHOP, shop, tls};
use crate::File;
use crate::gate::{Gate, refusal};

fn certificate(issued: &Issued) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&issued.cert).expect("a certificate")
}

#[test]
fn requests_over_tls_go_the_same_road() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let mut client = Trust::of(&authority, None).connect(seawall.addr(), SHOP).expect("a session");
    for _ in 0..3 {
        let response =
            client.request("GET / HTTP/1.1\r\nHost: shop.example\r\nX-Forwarded-Proto: http\r\n\r\n");
        assert_eq!((response.status, response.text().as_str()), (200, "here"));
    }
    let seen = &upstream.requests()[0].headers;
    assert_eq!(seen.get("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.get("x-forwarded-host"), Some(SHOP));
    assert_eq!(upstream.connections(), 1, "pooled as ever");
    assert_eq!(client.session().alpn_protocol(), None, "nothing was offered");
    drop(client);
    seawall.stop();
}

#[test]
fn a_client_gets_the_certificate_of_the_name_it_asks_for() {
    let authority = Authority::new("tests");
    let first = authority.server(&["first.example"]);
    let other = authority.server(&["a.example", "b.example"]);
    let wild = authority.server(&["*.wild.example"]);
    let exact = authority.server(&["exact.wild.example"]);
    let upstream = Upstream::constant("here");
    let trust = Trust::of(&authority, None);
    for unmatched in ["first", "refuse"] {
        let keys = tls(&[&first, &other, &wild, &exact], &format!("unmatched: {unmatched}"));
        let seawall = Gate::to(&[upstream.addr()]).listener(&keys).start();
        for (name, expected) in [
            ("first.example", &first),
            ("b.example", &other),
            ("B.Example", &other),
            ("x.wild.example", &wild),
            ("exact.wild.example", &exact),
        ] {
            let client = trust.connect(seawall.addr(), name).expect(name);
            assert_eq!(client.shown(), certificate(expected), "{name}");
        }
        // A wildcard stands for one label.
        for name in ["x.y.wild.example", "wild.example", "nobody.example"] {
            let error = trust.connect(seawall.addr(), name).expect_err(name).to_string();
            let expected = if unmatched == "first" { "not valid for name" } else { "alert" };
            assert!(error.contains(expected), "{name}, {unmatched}: {error}");
        }
        let failed = |reason: &str| {
            let labels = [format!("reason=\"{reason}\"")];
            seawall.metric("seawall_gateway_tls_handshakes_failed_total", &[&labels[0]]).unwrap_or(0.0)
        };
        if unmatched == "refuse" {
            assert_eq!(failed("unmatched"), 3.0);
        }
        seawall.stop();
    }
}

#[test]
fn sessions_are_resumed_whichever_worker_gets_them() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    for (keys, resumes) in [("", true), ("resumption: false", false)] {
        let seawall = Gate::to(&[upstream.addr()]).workers(2).listener(&tls(&[&issued], keys)).start();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let trust = Trust::speaking(&authority, None, &[version]);
            for number in 0..8 {
                let mut client = trust.connect(seawall.addr(), SHOP).expect("a session");
                // Tickets of TLS 1.3 come after the handshake.
                assert_eq!(client.get("/").status, 200);
                let resumed = client.session().handshake_kind() == Some(HandshakeKind::Resumed);
                assert_eq!(resumed, resumes && number > 0, "{version:?}, connection {number}");
            }
        }
        let resumed = seawall.metric("seawall_gateway_tls_handshakes_total", &["kind=\"resumed\""]);
        assert_eq!(resumed, Some(if resumes { 14.0 } else { 0.0 }));
        seawall.stop();
    }
}

#[test]
fn large_bodies_arrive_whole_in_both_directions() {
    const SIZE: usize = 5 * 1024 * 1024 + 17;
    let (authority, issued) = shop();
    let upstream = Upstream::start(|request| Reply::ok(request.body()).then_close());
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let body: Vec<u8> = (0..SIZE).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let head = format!("POST / HTTP/1.1\r\nHost: {SHOP}\r\nContent-Length: {SIZE}\r\n\r\n");
    let mut client = Trust::of(&authority, None).connect(seawall.addr(), SHOP).expect("a session");
    let response = client.request([head.as_bytes(), &body].concat());
    assert_eq!(response.status, 200);
    assert!(response.body == body, "another body of {} bytes came back", response.body.len());
    seawall.stop();
}

#[test]
fn a_session_ends_with_a_word_and_a_cut_answer_without_one() {
    let (authority, issued) = shop();
    let upstream = Upstream::start(|request| match request.path() {
        "/cut" => Reply::ok("half").until_close().then_reset(),
        _ => Reply::ok("whole"),
    });
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let trust = Trust::of(&authority, None);
    let mut client = trust.connect(seawall.addr(), SHOP).expect("a session");
    let response = client.request("GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(response.text(), "whole");
    assert_eq!(client.some().expect("a session that ends as it should"), b"");
    let mut client = trust.connect(seawall.addr(), SHOP).expect("a session");
    client.try_request("GET /cut HTTP/1.1\r\nHost: test\r\n\r\n").expect_err("an answer that was cut");
    seawall.stop();
}

#[test]
fn a_plain_listener_may_send_everybody_to_tls() {
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener("https_redirect: {port: 8443}").start();
    let ask = |lines: &str| request(seawall.addr(), &format!("GET /a/b?c=%20d HTTP/1.1\r\n{lines}\r\n"));
    let response = ask("Host: shop.example:8080\r\n");
    assert_eq!(refusal(&response), (308, "https_only"));
    assert_eq!(response.header("location"), Some("https://shop.example:8443/a/b?c=%20d"));
    let response = ask("Host: [fd00::1]:8080\r\n");
    assert_eq!(response.header("location"), Some("https://[fd00::1]:8443/a/b?c=%20d"));
    assert_eq!(upstream.request_count(), 0);
    seawall.stop();
}

/// What `seawall check` says of a listener with these certificates.
fn complaint(keys: &str) -> String {
    let file = File::new(&format!(
        "listeners:\n  - address: '127.0.0.1:0'\n    {keys}\nservices:\n  web: {{endpoints: ['127.0.0.1:1']}}\n"
    ));
    let output = crate::run(&["check", file.path()]);
    let said = crate::text(&output.stderr) + &crate::text(&output.stdout);
    assert!(!output.status.success() || said.contains("expired"), "{said}");
    said
}

#[test]
fn wrong_files_are_refused_with_place_and_remedy_and_nothing_of_their_content() {
    let (authority, issued) = shop();
    let other = authority.server(&["other.example"]);
    let mixed = Issued { cert: issued.cert.clone(), key: other.key.clone() };
    let swapped = Issued { cert: issued.key.clone(), key: issued.cert.clone() };
    let absent = Issued { cert: "/nonexistent/shop.pem".into(), key: issued.key.clone() };
    for (wrong, place, expected) in [
        (&mixed, ":3:", "is not that of the certificate in"),
        (&swapped, ":3:", "holds no certificate but PRIVATE KEY"),
        (&swapped, ":3:", "holds no private key but CERTIFICATE"),
        (&absent, ":3:", "cannot read /nonexistent/shop.pem"),
    ] {
        let said = complaint(&tls(&[wrong], ""));
        assert!(said.contains(expected) && said.contains(place), "{said}");
        let key = std::fs::read_to_string(&other.key).expect("a key");
        let secret = key.lines().nth(1).expect("a key of some lines");
        assert!(!said.contains(secret), "{said}");
    }
    let expired = authority.expired(&[SHOP]);
    let said = complaint(&tls(&[&expired], ""));
    assert!(said.contains("expired at "), "{said}");
    let said = complaint(&tls(&[&issued], "client_auth: required"));
    assert!(said.contains("nobody vouches for clients"), "{said}");
}
