//! Bodies both ways: framing, back-pressure, trailers, invitations, early answers, tunnels.

use std::thread;

use testkit::{Client, Gate as Door, Reply, Upstream};

use crate::gate::{Gate, Manual, before, figure, plain, posting, refusal};

/// Far above what a gateway needs for one stalled transfer, far below what is transferred.
const BUFFERED_MAX: f64 = 1_000_000.0;

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|index| (index % 251) as u8).collect()
}

fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in body.chunks(size) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"0\r\n\r\n");
    out
}

#[test]
fn large_bodies_arrive_unchanged_both_ways() {
    let upstream = Upstream::start(|request| {
        let reply = Reply::ok(request.body());
        if request.path() == "/chunked" { reply.chunked() } else { reply }
    });
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let body = pattern(3_000_000);
    for target in ["/length", "/chunked"] {
        let mut request =
            format!("POST {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len())
                .into_bytes();
        request.extend_from_slice(&body);
        assert!(client.request(&request).body == body, "{target}, stated length");
        let head = format!("POST {target} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
        let mut request = head.into_bytes();
        request.extend_from_slice(&chunked(&body, 10_007));
        let response = client.request(&request);
        assert!(response.body == body, "{target}, chunked");
        assert_eq!(response.headers.has("transfer-encoding"), target == "/chunked");
    }
    assert_eq!(upstream.connections(), 1);
    let seen = upstream.requests();
    assert!(seen[0].headers.has("content-length") && !seen[0].headers.has("transfer-encoding"));
    assert!(seen[1].headers.has("transfer-encoding") && !seen[1].headers.has("content-length"));
}

#[test]
fn a_chunked_body_in_single_bytes_arrives_whole() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n");
    for byte in chunked(b"drop by drop", 5) {
        client.send([byte]);
    }
    assert_eq!(client.response().text(), "drop by drop");
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn an_answer_in_single_bytes_arrives_whole() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    for byte in b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\ndrop\r\n6\r\nby one\r\n0\r\nSum: 1\r\n\r\n" {
        seen.send([*byte]);
    }
    let response = client.response();
    assert_eq!((response.text().as_str(), response.trailers.get("sum")), ("dropby one", Some("1")));
}

#[test]
fn an_answer_is_streamed_and_not_gathered() {
    let door = Door::new();
    let upstream = {
        let door = door.clone();
        Upstream::start(move |_| Reply::ok("first ").pause_until(&door).chunk("last").chunked())
    };
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/", ""));
    client.head().expect("a head");
    assert_eq!(client.exactly(11).expect("the first chunk"), b"6\r\nfirst \r\n");
    door.open();
    assert_eq!(client.exactly(14).expect("the rest"), b"4\r\nlast\r\n0\r\n\r\n");
}

#[test]
fn a_client_that_does_not_read_holds_the_endpoint_back_and_no_memory() {
    const SIZE: usize = 200_000_000;
    for chunks in [false, true] {
        let upstream = Upstream::start(move |_| {
            let reply = Reply::status(200).fill(SIZE as u64);
            if chunks { reply.chunked() } else { reply }
        });
        let gate = before(&upstream);
        let mut client = Client::connect(gate.addr());
        client.send(plain("GET", "/", ""));
        client.head().expect("a head");
        let (mut got, mut look_at) = (0, 0);
        while got < SIZE {
            if got >= look_at {
                // Whatever the client has not read by now is in the kernel, with the endpoint, or in this figure.
                let held = figure(&gate, "seawall_gateway_buffer_bytes");
                assert!(held < BUFFERED_MAX, "{held} bytes are held");
                look_at = got + SIZE / 20;
            }
            let bytes = client.some().expect("more");
            assert!(!bytes.is_empty(), "cut after {got} bytes");
            got += bytes.len();
        }
    }
}

#[test]
fn an_endpoint_that_does_not_read_holds_the_client_back_and_no_memory() {
    const SIZE: usize = 50_000_000;
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let addr = gate.addr();
    let sender = thread::spawn(move || {
        let mut client = Client::connect(addr);
        client.send(format!("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: {SIZE}\r\n\r\n"));
        let piece = vec![b'x'; 64 * 1024];
        let mut left = SIZE;
        while left > 0 {
            let now = left.min(piece.len());
            client.send(&piece[..now]);
            left -= now;
        }
        client.response().status
    });
    let mut seen = upstream.accept();
    seen.head().expect("the request");
    for _ in 0..50 {
        let held = figure(&gate, "seawall_gateway_buffer_bytes");
        assert!(held < BUFFERED_MAX, "{held} bytes are held");
        seen.exactly(SIZE / 50).expect("more");
    }
    seen.send("HTTP/1.1 204 No Content\r\n\r\n");
    assert_eq!(sender.join().expect("the sender"), 204);
}

#[test]
fn trailers_pass_both_ways() {
    let upstream = Upstream::start(|request| {
        let sum = request.trailers().get("x-sum").unwrap_or("none").to_owned();
        Reply::ok("body").trailer("X-Answer-Sum", &sum)
    });
    let gate = before(&upstream);
    let request = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
        4\r\nbody\r\n0\r\nX-Sum: 42\r\n\r\n";
    let mut client = Client::connect(gate.addr());
    let response = client.request(request);
    assert_eq!((response.text().as_str(), response.trailers.get("x-answer-sum")), ("body", Some("42")));
    assert_eq!(upstream.requests()[0].headers.get("trailer"), Some("X-Sum"));
    assert_eq!(client.request(request).trailers.get("x-answer-sum"), Some("42"));
}

#[test]
fn trailers_cannot_smuggle_what_heads_may_not_say() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let gate = before(&upstream);
    let request = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\
        Content-Length: 99\r\nHost: evil\r\nSeawall-Criticality: CRITICAL_PLUS\r\nX-Forwarded-For: 1.2.3.4\r\nX-Fine: 1\r\n\r\n";
    assert_eq!(Client::connect(gate.addr()).request(request).status, 200);
    let trailers = &upstream.requests()[0].trailers;
    assert_eq!(trailers.get("x-fine"), Some("1"));
    for name in ["content-length", "host", "seawall-criticality", "x-forwarded-for"] {
        assert!(!trailers.has(name), "{trailers:?}");
    }
}

#[test]
fn an_endpoint_invites_the_body_that_a_client_holds_back() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for _ in 0..2 {
        client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(client.head().expect("an invitation").line, "HTTP/1.1 100 Continue");
        client.send("body");
        assert_eq!(client.response().text(), "body");
    }
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn an_invitation_passes_on_a_route_that_hedges() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let gate = Gate::to(&[upstream.addr()]).route("service: web, hedge: {delay: 10ms}").start();
    let mut client = Client::connect(gate.addr());
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(client.head().expect("an invitation").line, "HTTP/1.1 100 Continue");
    client.send("body");
    assert_eq!(client.response().text(), "body");
}

#[test]
fn a_body_that_comes_without_waiting_for_the_invitation_is_taken() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()).without_continue());
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let request = "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\nbody";
    assert_eq!(client.request(request).text(), "body");
    assert_eq!(client.get("/").status, 200);
}

#[test]
fn an_endpoint_may_decline_the_body_that_a_client_holds_back() {
    for status in [417, 401] {
        let upstream = Upstream::start(move |_| Reply::status(status).never_read());
        let gate = before(&upstream);
        let mut client = Client::connect(gate.addr());
        let response = client
            .request("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!((response.status, response.interim.len()), (status, 0));
        assert!(response.headers.lists("connection", "close"), "the body may still come: {response:?}");
        assert!(client.is_closed_by_server());
        assert_eq!(Client::connect(gate.addr()).get("/").status, status);
        assert_eq!(upstream.connections(), 2, "the connection that owes a body is not used again");
    }
}

#[test]
fn early_hints_reach_who_understands_them() {
    let upstream = Upstream::start(|_| Reply::ok("page").interim(103, &[("Link", "</a.css>; rel=preload")]));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!(response.text(), "page");
        let [(103, hints)] = &response.interim[..] else { panic!("{response:?}") };
        assert_eq!(hints.get("link"), Some("</a.css>; rel=preload"));
    }
    let mut old = Client::connect(gate.addr());
    let response = old.request("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((response.text().as_str(), response.interim.len()), ("page", 0));
}

#[test]
fn early_hints_arrive_before_the_answer() {
    let door = Door::new();
    let upstream = {
        let door = door.clone();
        Upstream::start(move |_| Reply::ok("page").interim(103, &[("Link", "</a.css>")]).hold(&door))
    };
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/", ""));
    assert!(client.head().expect("hints").line.starts_with("HTTP/1.1 103"));
    door.open();
    assert_eq!(client.response().text(), "page");
}

#[test]
fn an_uninvited_100_is_kept_from_the_client() {
    let upstream = Upstream::start(|_| Reply::ok("tea").interim(100, &[]).interim(102, &[]));
    let gate = before(&upstream);
    let response = Client::connect(gate.addr()).get("/");
    assert_eq!((response.text().as_str(), response.interim.len()), ("tea", 0));
}

#[test]
fn an_early_answer_arrives_whole_and_ends_the_connection() {
    let upstream = Upstream::start(|request| {
        if request.method == "GET" {
            return Reply::ok("fresh");
        }
        Reply::status(413).chunk("too much for me").never_read()
    });
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 600000\r\n\r\n");
    client.send(vec![b'x'; 300_000]);
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (413, "too much for me"));
    assert!(response.headers.lists("connection", "close"));
    // What is still sent is heard out, so that nothing resets the answer away.
    client.send(vec![b'x'; 300_000]);
    assert!(client.is_closed_by_server());
    assert_eq!(Client::connect(gate.addr()).get("/").text(), "fresh");
}

#[test]
fn an_early_answer_whose_body_is_then_read_is_delivered() {
    let upstream = Upstream::start(|_| Reply::ok("heard").early());
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nhalf");
    assert_eq!(client.response().text(), "heard");
    assert!(client.try_send("half").is_ok());
    assert!(client.is_closed_by_server());
    assert_eq!(Client::connect(gate.addr()).get("/").text(), "heard");
}

#[test]
fn a_long_early_answer_is_delivered_while_the_body_still_comes() {
    let upstream = Upstream::start(|_| Reply::status(200).fill(2_000_000).early());
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 900000\r\n\r\n");
    client.send(vec![b'x'; 899_999]);
    client.send("x");
    assert_eq!(client.response().body.len(), 2_000_000);
}

#[test]
fn a_tunnel_carries_bytes_both_ways_and_half_closes() {
    let upstream = Upstream::start(|_| Reply::echo_tunnel("websocket"));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let lines = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: abc\r\n";
    // The first bytes of the other protocol do not wait for the answer.
    let mut first = plain("GET", "/chat", lines);
    first += "hasty ";
    let response = client.request(first);
    assert_eq!((response.status, response.header("upgrade")), (101, Some("websocket")));
    assert!(response.headers.lists("connection", "upgrade"));
    assert_eq!(client.exactly(6).expect("an echo"), b"hasty ");
    for _ in 0..3 {
        client.send("hello");
        assert_eq!(client.exactly(5).expect("an echo"), b"hello");
    }
    let long = pattern(500_000);
    let mut writer = Client::over(client.stream().try_clone().expect("a socket")).expect("a socket");
    let sent = long.clone();
    let sending = thread::spawn(move || {
        writer.send(&sent);
        writer.finish_sending();
    });
    assert!(client.exactly(long.len()).expect("an echo") == long);
    sending.join().expect("the sender");
    assert!(client.is_closed_by_server(), "the endpoint ended when we did");
    let seen = &upstream.requests()[0];
    assert_eq!(seen.headers.get("upgrade"), Some("websocket"));
    assert_eq!(seen.headers.get("sec-websocket-key"), Some("abc"));
}

#[test]
fn what_the_endpoint_says_with_its_101_is_not_lost() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut client, mut seen) =
        upstream.exchange(&gate, plain("GET", "/", "Connection: Upgrade\r\nUpgrade: chat\r\n"));
    seen.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\nwelcome");
    assert_eq!(client.response().status, 101);
    assert_eq!(client.exactly(7).expect("the greeting"), b"welcome");
    // The endpoint stops talking first; the client may go on.
    seen.finish_sending();
    assert!(client.is_closed_by_server());
    client.send("bye");
    client.finish_sending();
    assert_eq!(seen.exactly(3).expect("the farewell"), b"bye");
    assert!(seen.is_closed_by_server());
}

#[test]
fn an_upgrade_that_is_declined_is_an_ordinary_answer() {
    let upstream = Upstream::constant("no");
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    let response = client.request(plain("GET", "/", "Connection: Upgrade\r\nUpgrade: websocket\r\n"));
    assert_eq!((response.status, response.text().as_str()), (200, "no"));
    assert_eq!(client.get("/").text(), "no");
    assert_eq!(upstream.connections(), 1);
}

#[test]
fn a_switch_that_nobody_asked_for_is_refused() {
    let upstream = Upstream::start(|_| Reply::echo_tunnel("websocket"));
    let gate = before(&upstream);
    let response = Client::connect(gate.addr()).get("/");
    assert_eq!(refusal(&response), (502, "upstream_malformed"));
}

#[test]
fn a_tunnel_without_traffic_is_closed() {
    let upstream = Upstream::start(|_| Reply::echo_tunnel("chat"));
    let gate = Gate::with("web", &[upstream.addr()], "timeouts: {tunnel: 100ms}").start();
    let mut client = Client::connect(gate.addr());
    let response = client.request(plain("GET", "/", "Connection: Upgrade\r\nUpgrade: chat\r\n"));
    assert_eq!(response.status, 101);
    assert!(client.is_closed_by_server());
}

#[test]
fn an_answer_that_stops_half_way_ends_the_clients_connection() {
    let upstream = Upstream::start(|_| Reply::ok("half of it").cut_after(45));
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/", ""));
    let error = client.try_response().expect_err("it cannot be whole");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    gate.wait_for_metric("seawall_gateway_endpoint_failures_total", &[], |count| count == 1.0);
}

#[test]
fn a_body_that_stops_half_way_never_looks_whole_to_the_endpoint() {
    let upstream = Upstream::constant("");
    let gate = before(&upstream);
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
    upstream.wait_for_requests(1);
    client.finish_sending();
    assert!(client.is_closed_by_server());
    testkit::wait_until("the endpoint sees the end", testkit::wait::PATIENCE, || {
        upstream.open_connections() == 0
    });
    assert!(!upstream.requests()[0].complete);
}

#[test]
fn a_posted_body_goes_out_with_its_head() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let mut client = Client::connect(gate.addr());
    client.send(posting("POST", "/", "small"));
    let mut seen = upstream.accept();
    let bytes = seen.some().expect("the request");
    assert!(bytes.ends_with(b"\r\n\r\nsmall"), "{}", String::from_utf8_lossy(&bytes));
}
