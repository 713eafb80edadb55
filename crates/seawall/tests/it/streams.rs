//! Answers that take their time: server-sent events and long polls.

use std::time::Duration;

use testkit::{Client, Gate as Latch, Reply, Upstream, wait_until};

use super::gate::{Gate, Manual, figure, plain, refusal};

/// Longer than every time-out that must not strike here.
const SILENCE: Duration = Duration::from_secs(3);
/// What would strike.
const SHORT: &str = "timeouts: {attempt: 2s, body: 1s}";

fn events(latch: &Latch) -> Reply {
    Reply::ok("")
        .header("Content-Type", "Text/Event-Stream; charset=utf-8")
        .chunked()
        .chunk("data: 1\n\n")
        .pause_until(latch)
        .chunk("data: 2\n\n")
}

#[test]
fn an_event_goes_out_at_once_and_silence_between_two_is_no_failure() {
    let upstream = Manual::new();
    let gate = Gate::with("web", &[upstream.addr()], SHORT).start();
    let (mut client, mut seen) =
        upstream.exchange(&gate, plain("GET", "/events", "Accept: text/event-stream\r\n"));
    seen.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().expect("before any event").line, "HTTP/1.1 200 OK");
    for number in 0..3 {
        let event = format!("9\r\ndata: {number}\n\n\r\n");
        seen.send(&event);
        // The endpoint waits until the client has it: nothing is held back for what follows.
        assert_eq!(client.exactly(event.len()).expect("the event"), event.as_bytes());
    }
    assert!(client.is_quiet_for(SILENCE), "it stays open");
    seen.send("0\r\n\r\n");
    assert_eq!(client.exactly(5).expect("the end"), b"0\r\n\r\n");
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_failures_total"), 0.0);
}

#[test]
fn any_other_answer_may_not_be_silent_for_so_long() {
    let upstream = Manual::new();
    let gate = Gate::with("web", &[upstream.addr()], SHORT).start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    seen.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert!(client.try_response().is_err());
}

#[test]
fn an_endpoint_learns_that_nobody_listens_any_more() {
    let latch = Latch::new();
    let held = latch.clone();
    let upstream = Upstream::start(move |_| events(&held));
    let gate = Gate::to(&[upstream.addr()]).start();
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/events", ""));
    client.head().expect("an answer");
    drop(client);
    gate.wait_for_metric("seawall_gateway_requests_total", &["outcome=\"cancelled\""], |count| count == 1.0);
    latch.open();
    wait_until("the endpoint is left", testkit::wait::PATIENCE, || upstream.open_connections() == 0);
}

#[test]
fn a_stream_that_goes_on_says_nothing_about_latency() {
    let latch = Latch::new();
    let held = latch.clone();
    let upstream = Upstream::start(move |_| events(&held));
    let gate = Gate::to(&[upstream.addr()]).start();
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(gate.addr())).collect();
    for client in &mut clients {
        client.send(plain("GET", "/events", ""));
        client.head().expect("an answer");
    }
    // Admission has let them go with their heads: streams that stay open do not fill the limit.
    gate.wait_for_metric("seawall_gateway_admission_active_requests", &[], |active| active == 0.0);
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_active_requests"), 8.0);
    latch.open();
}

#[test]
fn a_long_poll_may_take_its_time() {
    let upstream = Upstream::start(|request| match request.target {
        "/poll" | "/hang" => Reply::ok("news").delay(SILENCE),
        _ => Reply::ok("at once"),
    });
    let gate = Gate::with("web", &[upstream.addr()], &format!("{SHORT}, retry: {{attempts_max: 1}}"))
        .route("service: web")
        .route("match: {path: /poll}, service: web, long_poll: true, timeout: 30s")
        .start();
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.get("/poll").text(), "news");
    assert_eq!(refusal(&client.get("/hang")), (504, "upstream_timeout"));
    assert_eq!(Client::connect(gate.addr()).get("/").text(), "at once");
}
