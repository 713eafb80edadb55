//! HTTP/1.1 as both sides see it: connections, methods, versions, targets.

use std::net::{SocketAddr, TcpListener};

use testkit::upstream::Recorded;
use testkit::{Client, Reply, Upstream, get};

use crate::gate::{Gate, Manual, before, plain, posting};

#[test]
fn connections_are_kept_on_both_sides() {
    let upstream = Upstream::constant("tea");
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for _ in 0..10 {
        assert_eq!(client.get("/").text(), "tea");
    }
    for _ in 0..5 {
        assert_eq!(get(gate.addr(), "/").text(), "tea");
    }
    assert_eq!((upstream.request_count(), upstream.connections()), (15, 1));
    assert_eq!(gate.metric("seawall_gateway_upstream_reuses_total", &[]), Some(14.0));
    assert_eq!(gate.metric("seawall_gateway_upstream_connects_total", &["result=\"success\""]), Some(1.0));
}

#[test]
fn an_answer_that_announces_close_is_not_reused() {
    let upstream = Upstream::start(|_| Reply::ok("tea").header("Connection", "close").then_close());
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!(response.text(), "tea");
        assert!(!response.headers.has("connection"), "the client's connection is another one: {response:?}");
    }
    assert_eq!(upstream.connections(), 3);
}

#[test]
fn the_client_decides_about_its_own_connection() {
    let upstream = Upstream::constant("tea");
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let response = client.request(plain("GET", "/", "Connection: close\r\n"));
    assert!(response.headers.lists("connection", "close"));
    assert!(client.is_closed_by_server());
    assert_eq!(get(gate.addr(), "/").text(), "tea");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::start(|request| {
        let body = String::from_utf8_lossy(request.body()).into_owned();
        Reply::ok(format!("{} {} {body}", request.method, request.target))
    });
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let mut together = plain("GET", "/1", "");
    together += &posting("POST", "/2", "sugar");
    together +=
        "POST /3 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nmil\r\n1\r\nk\r\n0\r\n\r\n";
    together += &plain("DELETE", "/4", "");
    client.send(together);
    let answers: Vec<_> = (0..4).map(|_| client.response().text()).collect();
    assert_eq!(answers, ["GET /1 ", "POST /2 sugar", "POST /3 milk", "DELETE /4 "]);
}

#[test]
fn more_requests_sent_ahead_than_are_read_ahead_are_all_answered() {
    let upstream = Upstream::start(|request| Reply::ok(request.target));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let padding = format!("X-Padding: {}\r\n", "p".repeat(1000));
    let all: String = (0..60).map(|number| plain("GET", &format!("/{number}"), &padding)).collect();
    client.send(all);
    for number in 0..60 {
        assert_eq!(client.response().text(), format!("/{number}"));
    }
}

#[test]
fn a_head_in_single_bytes_is_still_a_head() {
    let upstream = Upstream::start(|request| Reply::ok(request.target));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for byte in plain("GET", "/slowly", "X-Some: thing\r\n").bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response().text(), "/slowly");
}

#[test]
fn answers_to_head_state_a_length_and_have_no_body() {
    let upstream = Upstream::start(|request| match request.path() {
        "/chunked" => Reply::ok("x").chunked(),
        _ => Reply::status(200).announce_length(1234),
    });
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send(plain("HEAD", "/", ""));
    let response = client.response_to_head();
    assert_eq!((response.status, response.header("content-length")), (200, Some("1234")));
    client.send(plain("HEAD", "/chunked", ""));
    assert_eq!(client.response_to_head().status, 200);
    assert_eq!(client.get("/chunked").text(), "x");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn answers_without_body_leave_both_connections_usable() {
    let upstream = Upstream::start(|request| match request.path() {
        "/204" => Reply::status(204),
        "/304" => Reply::status(304).header("ETag", "\"a\"").announce_length(99),
        _ => Reply::status(200),
    });
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.get("/204").status, 204);
    let unchanged = client.get("/304");
    assert_eq!((unchanged.status, unchanged.header("content-length")), (304, Some("99")));
    assert_eq!(unchanged.header("etag"), Some("\"a\""));
    let empty = client.get("/200");
    assert_eq!((empty.status, empty.header("content-length")), (200, Some("0")));
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let upstream = Upstream::start(|_| Reply::ok("one ").chunk("two").chunked());
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let response = client.request("GET / HTTP/1.0\r\n\r\n");
    assert!(!response.headers.has("transfer-encoding"), "{response:?}");
    assert_eq!(response.text(), "one two");
    assert!(client.is_closed_by_server());
    let mut client = Client::connect(gate.addr());
    let response = client.request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(response.headers.lists("connection", "close"), "the end is where it closes: {response:?}");
    assert_eq!(response.text(), "one two");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_client_of_http_1_0_may_keep_its_connection_where_a_length_is_known() {
    let upstream = Upstream::constant("tea");
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for _ in 0..3 {
        let response = client.request("GET / HTTP/1.0\r\nHost: test\r\nConnection: keep-alive\r\n\r\n");
        assert!(response.headers.lists("connection", "keep-alive"), "{response:?}");
        assert_eq!(response.text(), "tea");
    }
    assert_eq!(client.request("GET / HTTP/1.0\r\nHost: test\r\n\r\n").text(), "tea");
    assert!(client.is_closed_by_server());
}

#[test]
fn a_cut_answer_does_not_look_whole_to_a_client_of_http_1_0() {
    let upstream = Upstream::start(|_| Reply::ok("one ").chunk("two").chunked().cut_after(60));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send("GET / HTTP/1.0\r\n\r\n");
    client.head().expect("a head");
    // Without a length and without chunks only a reset can say that there should have been more.
    let end = loop {
        match client.some() {
            Ok(bytes) if bytes.is_empty() => break None,
            Ok(_) => {}
            Err(error) => break Some(error.kind()),
        }
    };
    assert_eq!(end, Some(std::io::ErrorKind::ConnectionReset));
}

#[test]
fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let upstream = Upstream::start(|_| Reply::ok("all of it").until_close());
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let response = client.get("/");
    assert_eq!(response.text(), "all of it");
    assert!(response.headers.lists("connection", "close"));
    assert_eq!(get(gate.addr(), "/").text(), "all of it");
    assert_eq!(upstream.connections(), 2);
}

#[test]
fn an_absolute_target_names_the_host() {
    let upstream = Upstream::constant("tea");
    let gate = before(&upstream);
    let request = "GET http://shop.example:81/cart?x=1 HTTP/1.1\r\nHost: elsewhere\r\n\r\n";
    assert_eq!(Client::connect(gate.addr()).request(request).status, 200);
    let seen = &upstream.requests()[0];
    assert_eq!((seen.target.as_str(), seen.headers.get("host")), ("/cart?x=1", Some("shop.example:81")));
    assert_eq!(seen.headers.all("host").count(), 1);
}

#[test]
fn options_of_the_whole_server_is_passed_on() {
    let upstream = Upstream::constant("");
    let gate = before(&upstream);
    let response = Client::connect(gate.addr()).request(plain("OPTIONS", "*", ""));
    assert_eq!((response.status, upstream.requests()[0].target.as_str()), (200, "*"));
}

#[test]
fn unknown_methods_and_statuses_are_passed_on() {
    let upstream = Upstream::start(|_| Reply::status(599).header("X-Odd", "\u{e9}"));
    let gate = Gate::with("web", &[upstream.addr()], "retry: {attempts_max: 1}").start();
    let response = Client::connect(gate.addr()).request(plain("BREW", "/pot", ""));
    assert_eq!(response.status, 599);
    assert_eq!(response.header("x-odd"), Some("\u{e9}"));
    assert_eq!(upstream.requests()[0].method, "BREW");
}

#[test]
fn a_client_that_leaves_cancels_its_upstream_request() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    drop(client);
    assert!(seen.is_closed_by_server());
    gate.wait_for_metric("seawall_gateway_requests_total", &["outcome=\"cancelled\""], |count| count == 1.0);
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(0.0));
}

#[test]
fn a_client_that_resets_cancels_its_upstream_request() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    client.reset();
    assert!(seen.is_closed_by_server());
}

#[test]
fn a_client_that_closes_its_half_counts_as_gone() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    client.finish_sending();
    assert!(seen.is_closed_by_server());
    assert!(client.is_closed_by_server());
}

#[test]
fn a_client_that_leaves_in_mid_answer_cancels_the_rest() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    seen.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhal");
    client.head().expect("the head");
    client.exactly(3).expect("what has come");
    drop(client);
    assert!(seen.is_closed_by_server(), "the endpoint works for nobody");
}

#[test]
fn a_connection_has_as_many_requests_as_it_may() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("limits: {requests_per_connection: 2}").start();
    let mut client = Client::connect(gate.addr());
    assert!(!client.get("/").headers.has("connection"));
    assert!(client.get("/").headers.lists("connection", "close"));
    assert!(client.is_closed_by_server());
}

/// RFC 9110, 6.6.1: who answers itself and has a clock says when.
#[test]
fn answers_of_the_gateways_own_are_dated() {
    let upstream = Upstream::start(|_| Reply::ok("tea").header("Date", "Thu, 01 Jan 1970 00:00:00 GMT"));
    let gate = Gate::to(&[upstream.addr()])
        .route("match: {path: /tea}, service: web")
        .route("match: {path: /fixed}, answer: {status: 200, body: fixed}")
        .route("match: {path: /old}, redirect: {to: '/new'}")
        .listener("connections_max: 1")
        .start();
    let mut client = Client::connect(gate.addr());
    let mut answers: Vec<_> = ["/fixed", "/old", "/nowhere"].map(|path| client.get(path)).into();
    answers.push(Client::connect(gate.addr()).try_response().expect("turned away"));
    let passed_on = client.get("/tea");
    answers.push(client.request("GET / HTTP/1.1\r\nHost: test\r\nBad Name: x\r\n\r\n"));
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 308, 404, 503, 400]);
    for answer in &answers {
        let dates: Vec<_> = answer.headers.all("date").collect();
        assert!(matches!(dates[..], [date] if date.len() == 29 && date.ends_with(" GMT")), "{answer:?}");
        assert!(!dates[0].contains(" 1970 "), "{answer:?}");
    }
    let dates: Vec<_> = passed_on.headers.all("date").collect();
    assert_eq!(dates, ["Thu, 01 Jan 1970 00:00:00 GMT"], "the service's own");
}

#[test]
fn one_connection_too_many_is_turned_away() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("connections_max: 1").start();
    let mut first = Client::connect(gate.addr());
    assert_eq!(first.get("/").status, 200);
    let response = Client::connect(gate.addr()).try_response().expect("an answer");
    assert_eq!(crate::gate::refusal(&response), (503, "too_many_connections"));
    gate.wait_for_metric("seawall_gateway_connections_shed_total", &["reason=\"limit\""], |n| n == 1.0);
    assert_eq!(first.get("/").status, 200);
}

#[test]
fn both_sides_may_speak_ipv6() {
    let Ok(free) = TcpListener::bind("[::1]:0").and_then(|listener| listener.local_addr()) else {
        eprintln!("this machine has no IPv6");
        return;
    };
    let upstream = Upstream::start_at(SocketAddr::new(free.ip(), 0), |_| Reply::ok("tea"));
    let gate = Gate::to(&[upstream.addr()]).address("[::1]:0").start();
    assert!(gate.addr().is_ipv6() && gate.listeners().len() == 1);
    for _ in 0..2 {
        assert_eq!(get(gate.addr(), "/").text(), "tea");
    }
    let Recorded { headers, .. } = upstream.requests().pop().expect("a request");
    assert_eq!(headers.get("x-forwarded-for"), Some("::1"));
    let endpoint = format!("endpoint=\"{}\"", upstream.addr());
    gate.wait_for_metric("seawall_gateway_endpoint_requests_total", &[&endpoint], |count| count == 2.0);
    assert_eq!(upstream.connections(), 1, "kept like any other");
}

#[test]
fn a_service_may_have_endpoints_of_both_families() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no IPv6");
        return;
    }
    let six = Upstream::start_at("[::1]:0".parse().expect("an address"), |_| Reply::ok("6"));
    let four = Upstream::constant("4");
    let gate = Gate::with("web", &[six.addr(), four.addr()], "balance: round_robin").start();
    let mut texts: Vec<_> = (0..4).map(|_| get(gate.addr(), "/").text()).collect();
    texts.sort();
    assert_eq!(texts, ["4", "4", "6", "6"]);
}
