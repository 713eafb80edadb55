//! TLS towards endpoints, with nginx at the other end.

use std::net::SocketAddr;

use testkit::tls::{Authority, Issued};
use testkit::{Nginx, Reply, Upstream, free_port, get, request};

use super::{SHOP, show};
use crate::gate::{Gate, NUMB};

/// An nginx that says what it saw of a session.
fn nginx(addr: SocketAddr, issued: &Issued, more: &str) -> Nginx {
    let (cert, key) = (show(&issued.cert), show(&issued.key));
    let server = format!(
        "server {{ listen {addr} ssl; ssl_certificate {cert}; ssl_certificate_key {key};\n\
         ssl_protocols TLSv1.2 TLSv1.3; {more}\n\
         location / {{ return 200 \"$ssl_server_name|$ssl_protocol|$ssl_session_reused|$ssl_client_verify|$connection\"; }} }}"
    );
    Nginx::start(addr, &server).expect("nginx is installed by `cargo xtask test`")
}

/// Keys of a service that asks for TLS.
fn secured(keys: &str) -> String {
    format!("{NUMB}, retry: {{attempts_max: 1}}, tls: {{{keys}}}")
}

#[test]
fn endpoints_are_verified_and_told_the_name_that_is_asked_for() {
    let (authority, addr) = (Authority::new("tests"), free_port());
    let issued = authority.server(&[SHOP, "127.0.0.1"]);
    let _nginx = nginx(addr, &issued, "");
    let keys = format!("ca: '{}', server_name: {SHOP}", show(&authority.file()));
    let seawall = Gate::with("web", &[addr], &secured(&keys)).start();
    let answers: Vec<String> = (0..3).map(|_| get(seawall.addr(), "/").text()).collect();
    for answer in &answers {
        assert!(answer.starts_with("shop.example|TLSv1.3|.|NONE|"), "{answers:?}");
        assert_eq!(answer, &answers[0], "one connection, kept in the pool");
    }
    let handshakes = seawall.metric("seawall_gateway_upstream_tls_handshakes_total", &["service=\"web\""]);
    assert_eq!(handshakes, Some(1.0));
    seawall.stop();

    // Without a name it is the address that must be proven, and none is asked for.
    let keys = format!("ca: '{}'", show(&authority.file()));
    let seawall = Gate::with("web", &[addr], &secured(&keys)).start();
    assert!(get(seawall.addr(), "/").text().starts_with("|TLSv1.3|"));
    seawall.stop();
}

#[test]
fn an_endpoint_that_is_not_who_it_should_be_gets_nothing() {
    let (authority, strangers, addr) = (Authority::new("tests"), Authority::new("strangers"), free_port());
    let issued = authority.server(&[SHOP]);
    let _nginx = nginx(addr, &issued, "");
    let expired_at = free_port();
    let _expired = nginx(expired_at, &authority.expired(&[SHOP]), "");
    let plain_at = free_port();
    let _plain = Nginx::start(plain_at, &format!("server {{ listen {plain_at}; return 200 plain; }}"));
    let silent = Upstream::constant("plain");
    let (ours, theirs) = (show(&authority.file()), show(&strangers.file()));
    for (at, keys, reason) in [
        (addr, format!("ca: '{theirs}', server_name: {SHOP}"), "authority"),
        (addr, format!("ca: system, server_name: {SHOP}"), "authority"),
        (addr, format!("ca: '{ours}', server_name: other.example"), "name"),
        (addr, format!("ca: '{ours}'"), "name"),
        (expired_at, format!("ca: '{ours}', server_name: {SHOP}"), "expired"),
        (plain_at, format!("ca: '{ours}', server_name: {SHOP}"), "malformed"),
    ] {
        let seawall = Gate::with("web", &[at], &secured(&keys)).start();
        let response = get(seawall.addr(), "/");
        assert_eq!(
            (response.status, response.header("seawall-reason")),
            (502, Some("connect_failed")),
            "{keys}"
        );
        assert_eq!(response.text(), format!("connect_failed: tls_{reason}\n"), "{keys}");
        let label = format!("reason=\"{reason}\"");
        let failed = seawall.metric("seawall_gateway_upstream_tls_handshakes_failed_total", &[&label]);
        assert_eq!(failed, Some(1.0), "{keys}");
        seawall.wait_for_line("an endpoint cannot be reached over TLS");
        seawall.stop();
    }
    let keys = format!("ca: '{ours}', server_name: {SHOP}");
    let seawall = Gate::with("web", &[silent.addr()], &secured(&keys)).start();
    assert_eq!(get(seawall.addr(), "/").status, 502);
    assert!(silent.requests().is_empty(), "nothing was sent in the clear");
    seawall.stop();
    let seawall = Gate::with("web", &[addr], &secured("verify: false, server_name: x.example")).start();
    assert!(get(seawall.addr(), "/").text().starts_with("x.example|"));
    seawall.stop();
}

#[test]
fn endpoints_see_the_certificate_that_the_service_is_given() {
    let (authority, addr) = (Authority::new("tests"), free_port());
    let issued = authority.server(&[SHOP]);
    let demand = format!("ssl_client_certificate {}; ssl_verify_client on;", show(&authority.file()));
    let _nginx = nginx(addr, &issued, &demand);
    let client = authority.client("spiffe://shop.example/gateway");
    let ours = format!("ca: '{}', server_name: {SHOP}", show(&authority.file()));
    let with = format!(
        "{ours}, client_certificate: {{cert: '{}', key: '{}'}}",
        show(&client.cert),
        show(&client.key)
    );
    let seawall = Gate::with("web", &[addr], &secured(&with)).start();
    assert!(get(seawall.addr(), "/").text().contains("|SUCCESS|"));
    seawall.stop();
    let seawall = Gate::with("web", &[addr], &secured(&ours)).start();
    assert_eq!(get(seawall.addr(), "/").status, 400, "nginx says so over a good session");
    seawall.stop();
}

#[test]
fn health_is_asked_over_tls_too() {
    let (authority, addr) = (Authority::new("tests"), free_port());
    let issued = authority.server(&[SHOP]);
    let _nginx = nginx(addr, &issued, "");
    let unavailable = "seawall_gateway_endpoint_unavailable";
    let health = "health: {path: /, interval: 50ms, unhealthy_after: 1, healthy_after: 1}";
    let ours = show(&authority.file());
    for (name, well) in [(SHOP, true), ("other.example", false)] {
        let keys =
            format!("{health}, panic_below: 0, {}", secured(&format!("ca: '{ours}', server_name: {name}")));
        let seawall = Gate::with("web", &[addr], &keys).start();
        if well {
            let checked = "seawall_gateway_upstream_tls_handshakes_total";
            seawall.wait_for_metric(checked, &[], |checks| checks >= 3.0);
            assert_eq!(seawall.metric(unavailable, &["reason=\"unhealthy\""]).unwrap_or(0.0), 0.0);
        } else {
            seawall.wait_for_metric(unavailable, &["reason=\"unhealthy\""], |unhealthy| unhealthy == 1.0);
            assert_eq!(get(seawall.addr(), "/").status, 503);
        }
        seawall.stop();
    }
}

#[test]
fn large_bodies_go_to_endpoints_whole() {
    let (authority, addr) = (Authority::new("tests"), free_port());
    let issued = authority.server(&[SHOP]);
    let large = testkit::TempDir::new("large");
    let body: String = (0..400_000).map(|number| format!("{number:09}\n")).collect();
    large.write("body", &body);
    let counting = Upstream::start(|request| Reply::ok(request.body().len().to_string()));
    let files = format!(
        "location /files {{ alias {}; }} location /large {{ client_max_body_size 0; proxy_pass http://{}; }}",
        show(large.path()),
        counting.addr()
    );
    let _nginx = nginx(addr, &issued, &files);
    let keys = format!("ca: '{}', server_name: {SHOP}", show(&authority.file()));
    let seawall = Gate::with("web", &[addr], &secured(&keys)).start();
    let response = get(seawall.addr(), "/files/body");
    assert!(response.status == 200 && response.text() == body, "{} bytes came", response.body.len());
    let head = format!("POST /large HTTP/1.1\r\nHost: {SHOP}\r\nContent-Length: {}\r\n\r\n", body.len());
    let response = request(seawall.addr(), &format!("{head}{body}"));
    assert_eq!(response.text(), body.len().to_string());
    seawall.stop();
}

#[test]
fn a_service_turns_to_tls_by_a_reload_and_no_pooled_connection_is_taken_for_another() {
    let (authority, addr) = (Authority::new("tests"), free_port());
    let issued = authority.server(&[SHOP]);
    // On one port nginx answers a plain request with 400 and says why.
    let _nginx = nginx(addr, &issued, "");
    let plain = Gate::with("web", &[addr], NUMB);
    let seawall = plain.start();
    assert_eq!(get(seawall.addr(), "/").status, 400);
    let keys = format!("ca: '{}', server_name: {SHOP}", show(&authority.file()));
    for _ in 0..3 {
        seawall.reload(&Gate::with("web", &[addr], &secured(&keys)).yaml());
        assert_eq!(get(seawall.addr(), "/").status, 200);
        assert_eq!(get(seawall.addr(), "/").status, 200);
        seawall.reload(&plain.yaml());
        assert_eq!(get(seawall.addr(), "/").status, 400);
    }
    seawall.stop();
}
