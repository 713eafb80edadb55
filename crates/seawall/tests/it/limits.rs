//! Limits of size and of patience, on both sides.

use std::net::Shutdown;
use std::thread;
use std::time::Duration;

use testkit::wait::{PATIENCE, pace, wait_until};
use testkit::{Client, Reply, Upstream};

use crate::gate::{Gate, Manual, NUMB, figure, plain, posting, refusal, refused};

fn client_timeouts(gate: &testkit::Seawall, stage: &str) -> f64 {
    let label = format!("stage=\"{stage}\"");
    gate.metric("seawall_gateway_client_timeouts_total", &[&label]).expect("a figure for each stage")
}

#[test]
fn heads_are_bounded() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("limits: {head: 4KiB, fields: 20}").start();
    let long = "x".repeat(5000);
    let cases = [
        (plain("GET", &format!("/{long}"), ""), 414, "malformed: target_too_long\n"),
        (plain("GET", "/", &format!("X: {long}\r\n")), 431, "malformed: head_too_large\n"),
        (plain("GET", "/", &"X: y\r\n".repeat(20)), 431, "malformed: fields_too_many\n"),
    ];
    for (request, status, text) in cases {
        let mut client = Client::connect(gate.addr());
        let response = client.request(request);
        assert_eq!((refusal(&response), response.text().as_str()), ((status, "malformed"), text));
        assert!(client.is_closed_by_server());
    }
    assert_eq!(upstream.request_count(), 0);
    let fits = plain("GET", "/", &"X: y\r\n".repeat(19));
    assert_eq!(Client::connect(gate.addr()).request(fits).status, 200);
}

#[test]
fn bodies_are_bounded_by_what_they_state() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()])
        .listener("limits: {body: 10}")
        .route("match: {path: /}, service: web")
        .route("match: {path: /large}, service: web, body_max: 20")
        .start();
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.request(posting("POST", "/", &"x".repeat(10))).status, 200);
    assert_eq!(client.request(posting("POST", "/large", &"x".repeat(20))).status, 200);
    let response = client.request(posting("POST", "/", &"x".repeat(11)));
    assert_eq!(refusal(&response), (413, "body_too_large"));
    assert!(client.is_closed_by_server());
    assert_eq!((upstream.request_count(), refused(&gate, "body_too_large")), (2, 1.0));
}

#[test]
fn bodies_in_chunks_are_bounded_by_what_arrives() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("limits: {body: 100}").start();
    let head = "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = format!("40\r\n{}\r\n", "x".repeat(64));
    // All at once, and beyond the limit only after the endpoint has been asked.
    let mut client = Client::connect(gate.addr());
    let response = client.request(format!("{head}{chunk}{chunk}0\r\n\r\n"));
    assert_eq!(refusal(&response), (413, "body_too_large"));
    assert!(client.is_closed_by_server());
    assert_eq!(upstream.request_count(), 0);
    let mut client = Client::connect(gate.addr());
    client.send(format!("{head}{chunk}"));
    upstream.wait_for_requests(1);
    client.send(&chunk);
    assert_eq!(refusal(&client.response()), (413, "body_too_large"));
    assert!(client.is_closed_by_server());
    wait_until("the endpoint sees the end", PATIENCE, || upstream.open_connections() == 0);
    assert!(!upstream.requests()[0].complete);
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(0.0));
}

#[test]
fn heads_of_answers_are_bounded() {
    let upstream = Upstream::start(|_| Reply::ok("tea").header("X", &"y".repeat(5000)));
    let gate = Gate::with("web", &[upstream.addr()], "response_head_max: 4KiB").start();
    let response = Client::connect(gate.addr()).get("/");
    assert_eq!(refusal(&response), (502, "upstream_malformed"));
    assert_eq!(response.text(), "upstream_malformed: head_too_large\n");
}

#[test]
fn a_slow_head_is_given_up_however_steadily_it_trickles() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {head: 150ms}").start();
    let mut client = Client::connect(gate.addr());
    client.send("GET / HTTP/1.1\r\nHost: te");
    let response = client.response();
    assert_eq!(refusal(&response), (408, "head_timeout"));
    assert!(client.is_closed_by_server());

    let mut client = Client::connect(gate.addr());
    client.send("GET / HTTP/1.1\r\n");
    let mut trickle = Client::over(client.stream().try_clone().expect("a socket")).expect("a socket");
    let trickling = thread::spawn(move || {
        // Without a look at the socket: its time-outs are those of the client that waits for the answer, too.
        while trickle.try_send("X: y\r\n").is_ok() {
            pace(Duration::from_millis(5));
        }
    });
    assert_eq!(refusal(&client.response()), (408, "head_timeout"));
    let _ = client.stream().shutdown(Shutdown::Both);
    trickling.join().expect("the sender");
    assert_eq!((client_timeouts(&gate, "head"), refused(&gate, "head_timeout")), (2.0, 2.0));
    assert_eq!(upstream.request_count(), 0);
}

#[test]
fn a_connection_that_says_nothing_is_closed() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {head: 100ms, idle: 100ms}").start();
    assert!(Client::connect(gate.addr()).is_closed_by_server());
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.get("/").text(), "tea");
    assert!(client.is_closed_by_server());
    assert_eq!(refused(&gate, "head_timeout"), 0.0);
}

#[test]
fn a_slow_body_is_given_up_and_not_blamed_on_the_endpoint() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {body: 150ms}").start();
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhalf");
    let response = client.response();
    assert_eq!(refusal(&response), (408, "body_timeout"));
    assert!(client.is_closed_by_server());
    assert_eq!(client_timeouts(&gate, "body"), 1.0);
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(0.0));
    wait_until("the endpoint sees the end", PATIENCE, || upstream.open_connections() == 0);
}

#[test]
fn a_body_that_never_begins_is_given_up_too() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {body: 150ms}").start();
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n");
    assert_eq!(refusal(&client.response()), (408, "body_timeout"));
}

#[test]
fn a_client_that_waits_in_vain_for_an_invitation_is_not_to_blame() {
    let upstream = Upstream::start(|_| Reply::hang().never_read());
    let keys = format!("{NUMB}, timeouts: {{attempt: 150ms}}");
    let gate = Gate::with("web", &[upstream.addr()], &keys).listener("timeouts: {body: 50ms}").start();
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(refusal(&client.response()), (504, "upstream_timeout"));
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(1.0));
}

#[test]
fn an_endpoint_that_does_not_take_a_body_is_to_blame() {
    let upstream = Upstream::start(|_| Reply::hang().never_read());
    let keys = format!("{NUMB}, timeouts: {{attempt: 300ms}}, retry: {{attempts_max: 1}}");
    let gate = Gate::with("web", &[upstream.addr()], &keys).start();
    let mut client = Client::connect(gate.addr());
    client.send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000000\r\n\r\n");
    let mut sender = Client::over(client.stream().try_clone().expect("a socket")).expect("a socket");
    let sending = thread::spawn(move || while sender.try_send([b'x'; 65536]).is_ok() {});
    assert_eq!(refusal(&client.response()), (504, "upstream_timeout"));
    drop(client);
    sending.join().expect("the sender");
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(1.0));
}

#[test]
fn a_client_that_does_not_take_its_answer_is_given_up() {
    let upstream = Upstream::start(|_| Reply::status(200).fill(100_000_000));
    let gate = Gate::to(&[upstream.addr()]).listener("timeouts: {write: 150ms}").start();
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/", ""));
    client.head().expect("a head");
    wait_until("the endpoint's work is cancelled", PATIENCE, || upstream.open_connections() == 0);
    assert_eq!(client_timeouts(&gate, "write"), 1.0);
    gate.wait_for_metric("seawall_gateway_requests_total", &["outcome=\"cancelled\""], |count| count == 1.0);
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(0.0));
    gate.wait_for_metric("seawall_gateway_buffer_bytes", &[], |bytes| bytes == 0.0);
}

#[test]
fn an_endpoint_that_stops_in_mid_body_is_given_up() {
    let upstream = Manual::new();
    let gate = Gate::with("web", &[upstream.addr()], "timeouts: {body: 150ms}").start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    seen.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
    let error = client.try_response().expect_err("it cannot be whole");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    assert!(seen.is_closed_by_server());
    gate.wait_for_metric("seawall_gateway_endpoint_failures_total", &[], |count| count == 1.0);
}

#[test]
fn idle_connections_to_endpoints_are_bounded_in_time_and_number() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::with("web", &[upstream.addr()], "timeouts: {idle: 100ms}").start();
    assert_eq!(testkit::get(gate.addr(), "/").text(), "tea");
    wait_until("the idle connection is closed", PATIENCE, || upstream.open_connections() == 0);

    let door = testkit::Gate::new();
    let upstream = {
        let door = door.clone();
        Upstream::start(move |_| Reply::ok("tea").hold(&door))
    };
    let gate = Gate::to(&[upstream.addr()]).root("limits: {idle_upstream: 2}").start();
    let mut clients: Vec<_> = (0..5).map(|_| Client::connect(gate.addr())).collect();
    clients.iter_mut().for_each(|client| client.send(plain("GET", "/", "")));
    upstream.wait_for_requests(5);
    door.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "tea"));
    wait_until("two connections are kept", PATIENCE, || upstream.open_connections() == 2);
}

#[test]
fn memory_in_buffers_is_bounded() {
    let door = testkit::Gate::new();
    let upstream = {
        let door = door.clone();
        Upstream::start(move |request| {
            if request.path() == "/held" { Reply::ok("held").hold(&door) } else { Reply::ok("tea") }
        })
    };
    let keys = format!("{NUMB}, retry: {{replay_max: 1MiB}}");
    let gate = Gate::with("web", &[upstream.addr()], &keys).root("limits: {buffers: 256KiB}").start();
    // Replayable bodies of requests under way fill the buffers.
    let body = "x".repeat(100_000);
    let mut clients: Vec<_> = (0..3).map(|_| Client::connect(gate.addr())).collect();
    clients.iter_mut().for_each(|client| client.send(posting("PUT", "/held", &body)));
    gate.wait_for_metric("seawall_gateway_buffer_bytes", &[], |bytes| bytes >= 262_144.0);
    let response = Client::connect(gate.addr()).get("/");
    assert_eq!(refusal(&response), (503, "out_of_buffers"));
    door.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "held"));
    wait_until("requests are served again", PATIENCE, || testkit::get(gate.addr(), "/").status == 200);
    drop(clients);
    gate.wait_for_metric("seawall_gateway_buffer_bytes", &[], |bytes| bytes == 0.0);
    assert!(figure(&gate, "seawall_gateway_refusals_total") >= 1.0);
}
