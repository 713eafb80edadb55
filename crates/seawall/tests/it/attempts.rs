//! What is tried again, where, how often, and what that may cost; hedges.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Reply, Seawall, Upstream, get};

use crate::gate::{Gate, NUMB, RICH, addresses, figure, plain, posting, refusal};
use crate::rough::own_addr;

/// A gateway that is never short of retries.
pub(crate) fn rich(upstreams: &[std::net::SocketAddr], keys: &str) -> Gate {
    Gate::with("web", upstreams, &format!("{NUMB}, retry_budget: {RICH}, {keys}"))
        .root(&format!("retry_budget: {RICH}"))
}

fn stopped(gate: &Seawall, why: &str) -> f64 {
    let label = format!("reason=\"{why}\"");
    gate.metric("seawall_gateway_retries_stopped_total", &[&label]).unwrap_or(0.0)
}

fn attempt_numbers(upstreams: &[Upstream]) -> Vec<String> {
    let mut numbers: Vec<_> = upstreams
        .iter()
        .flat_map(Upstream::requests)
        .map(|request| request.headers.get("seawall-attempt").expect("a number").to_owned())
        .collect();
    numbers.sort();
    numbers
}

#[test]
fn trap_7_each_attempt_goes_to_another_endpoint_and_there_are_three_at_most() {
    for keys in [
        "balance: least_loaded",
        "balance: round_robin",
        "balance: random",
        "balance: {ring_hash: {key: path}}",
        "balance: {maglev: {key: path}}",
        "balance: peak_ewma",
    ] {
        let upstreams: Vec<_> =
            (0..5).map(|_| Upstream::start(|_| Reply::status(503).chunk("full"))).collect();
        let gate = rich(&addresses(&upstreams), keys).start();
        let response = get(gate.addr(), "/");
        assert_eq!((response.status, response.text().as_str()), (503, "full"), "{keys}");
        let counts: Vec<_> = upstreams.iter().map(Upstream::request_count).collect();
        assert_eq!(counts.iter().sum::<usize>(), 3, "{keys}: {counts:?}");
        assert!(counts.iter().all(|count| *count <= 1), "{keys}: {counts:?}");
        assert_eq!(attempt_numbers(&upstreams), ["1", "2", "3"], "{keys}");
        assert_eq!(stopped(&gate, "attempts"), 1.0, "{keys}");
    }
}

#[test]
fn a_single_endpoint_is_tried_again_itself() {
    let upstream = Upstream::start(|request| match request.headers.get("seawall-attempt") {
        Some("3") => Reply::ok("at last"),
        _ => Reply::reset(),
    });
    let gate = rich(&[upstream.addr()], "via: false").start();
    assert_eq!(get(gate.addr(), "/").text(), "at last");
    assert_eq!(upstream.request_count(), 3);
}

#[test]
fn attempts_of_a_trusted_caller_are_counted_on() {
    let upstream = Upstream::start(|_| Reply::status(503));
    let gate = rich(&[upstream.addr()], "via: false").trusting().start();
    Client::connect(gate.addr()).request(plain("GET", "/", "Seawall-Attempt: 4\r\n"));
    assert_eq!(attempt_numbers(std::slice::from_ref(&upstream)), ["4", "5", "6"]);
    upstream.forget_requests();
    let gate = rich(&[upstream.addr()], "via: false").start();
    Client::connect(gate.addr()).request(plain("GET", "/", "Seawall-Attempt: 4\r\n"));
    assert_eq!(attempt_numbers(std::slice::from_ref(&upstream)), ["1", "2", "3"]);
}

#[test]
fn an_answer_that_is_no_failure_is_not_tried_again() {
    for status in [200, 304, 400, 404, 429, 500, 501] {
        let upstream = Upstream::start(move |_| Reply::status(status));
        let gate = rich(&[upstream.addr()], "via: false").start();
        assert_eq!((get(gate.addr(), "/").status, upstream.request_count()), (status, 1));
    }
}

#[test]
fn trap_4_a_total_outage_is_not_multiplied() {
    const REQUESTS: usize = 300;
    for broken in [Reply::status(503), Reply::reset(), Reply::close()] {
        let upstream = Upstream::start(move |_| broken.clone());
        let keys = format!("{NUMB}, retry_budget: {{ratio: 0.1, floor_per_sec: 0, burst: 20}}");
        let gate =
            Gate::with("web", &[upstream.addr()], &keys).root(&format!("retry_budget: {RICH}")).start();
        let mut client = Client::connect(gate.addr());
        for _ in 0..REQUESTS {
            assert!(client.get("/").status >= 502);
        }
        let attempts = upstream.request_count();
        assert!(attempts > REQUESTS, "some retries are granted");
        assert!(attempts <= REQUESTS + REQUESTS / 10, "{attempts} attempts");
        assert!(stopped(&gate, "budget") > 0.0);
        let counted = gate.metric("seawall_gateway_attempts_total", &[]);
        assert_eq!(counted, Some(attempts as f64));
    }
}

#[test]
fn trap_5_the_process_bounds_what_its_services_may_add_together() {
    let upstream = Upstream::start(|_| Reply::status(503));
    let keys = format!("{NUMB}, retry_budget: {RICH}");
    let gate = Gate::with("a", &[upstream.addr()], &keys)
        .service("b", &[upstream.addr()], &keys)
        .route("match: {path: /a}, service: a")
        .route("match: {path: /b}, service: b")
        .root("retry_budget: {ratio: 0.1, floor_per_sec: 0, burst: 20}")
        .start();
    for _ in 0..50 {
        for target in ["/a", "/b"] {
            assert_eq!(get(gate.addr(), target).status, 503);
        }
    }
    assert!((101..=110).contains(&upstream.request_count()), "{}", upstream.request_count());
}

#[test]
fn what_may_have_had_an_effect_is_not_done_twice() {
    for (broken, expected) in [
        (Reply::reset(), (502, "upstream_reset")),
        (Reply::close(), (502, "upstream_reset")),
        (Reply::raw("HTTP/1.1 20"), (502, "upstream_reset")),
    ] {
        let broken = broken.then_close();
        let upstream = Upstream::start(move |_| broken.clone());
        let gate = rich(&[upstream.addr()], "via: false").start();
        for method in ["POST", "PATCH", "BREW"] {
            upstream.forget_requests();
            let response = Client::connect(gate.addr()).request(posting(method, "/", "order"));
            assert_eq!((refusal(&response), upstream.request_count()), (expected, 1), "{method}");
        }
        assert_eq!(stopped(&gate, "not_idempotent"), 3.0);
        let gate = rich(&[upstream.addr()], "via: false")
            .route("service: web, retry: {attempts_max: 2, non_idempotent: true}")
            .start();
        upstream.forget_requests();
        Client::connect(gate.addr()).request(posting("POST", "/", "order"));
        assert_eq!(upstream.request_count(), 2, "the route says that it may be");
    }
}

#[test]
fn what_was_never_sent_is_tried_elsewhere_whatever_the_method() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let gate = rich(&[own_addr(), upstream.addr()], "balance: round_robin").start();
    for _ in 0..6 {
        let response = Client::connect(gate.addr()).request(posting("POST", "/", "order"));
        assert_eq!(response.text(), "order");
    }
    assert_eq!(upstream.request_count(), 6);
    let failures = gate.metric("seawall_gateway_upstream_connects_total", &["result=\"failure\""]);
    assert!(failures.is_some_and(|count| count >= 3.0), "{failures:?}");
}

#[test]
fn nobody_to_connect_to_is_a_502() {
    let gate = rich(&[own_addr(), own_addr()], "balance: round_robin").start();
    assert_eq!(refusal(&get(gate.addr(), "/")), (502, "connect_failed"));
    assert_eq!(gate.metric("seawall_gateway_attempts_total", &[]), Some(3.0));
}

#[test]
fn a_body_is_sent_again_whole() {
    let upstream = Upstream::start(|request| match request.headers.get("seawall-attempt") {
        Some("1") => {
            let _ = request.body();
            Reply::reset()
        }
        _ => Reply::ok(request.body()),
    });
    let gate = rich(&[upstream.addr()], "via: false").start();
    let body: String = (0..50_000).map(|index| char::from(b'a' + (index % 23) as u8)).collect();
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.request(posting("PUT", "/", &body)).text(), body);
    let chunks = format!(
        "PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n3\r\nend\r\n0\r\nSum: 1\r\n\r\n",
        body.len()
    );
    assert_eq!(client.request(chunks).text(), format!("{body}end"));
    assert!(upstream.requests().pop().expect("a request").trailers.has("sum"));
}

#[test]
fn trap_7_a_body_too_large_to_replay_is_visibly_not_tried_again() {
    let upstream = Upstream::start(|request| {
        let _ = request.body();
        Reply::reset()
    });
    let gate = rich(&[upstream.addr()], "retry: {replay_max: 1000}").start();
    let response = Client::connect(gate.addr()).request(posting("PUT", "/", &"x".repeat(1001)));
    assert_eq!((refusal(&response), upstream.request_count()), ((502, "upstream_reset"), 1));
    assert_eq!(stopped(&gate, "body_too_large"), 1.0);
    Client::connect(gate.addr()).request(posting("PUT", "/", &"x".repeat(1000)));
    assert_eq!(upstream.request_count(), 4, "one that fits is");
}

#[test]
fn a_body_too_large_to_replay_is_still_sent_where_nothing_was_sent_before() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let gate = rich(&[own_addr(), upstream.addr()], "balance: round_robin, retry: {replay_max: 0}").start();
    for _ in 0..4 {
        let body = "x".repeat(200_000);
        assert!(Client::connect(gate.addr()).request(posting("POST", "/", &body)).text() == body);
    }
}

#[test]
fn an_endpoint_that_says_never_is_obeyed_and_heard_by_the_client() {
    let upstream = Upstream::start(|_| Reply::status(503).header("Seawall-Retry", "never"));
    let gate = rich(&[upstream.addr()], "via: false").start();
    let response = get(gate.addr(), "/");
    assert_eq!((response.status, response.header("seawall-retry")), (503, Some("never")));
    assert_eq!((upstream.request_count(), stopped(&gate, "dont_retry")), (1, 1.0));
}

#[test]
fn a_stale_connection_costs_no_retry() {
    for ending in [Reply::close(), Reply::reset()] {
        let upstream = Upstream::start(move |request| match request.serial {
            0 => Reply::ok("tea"),
            _ => ending.clone(),
        });
        let keys =
            format!("{NUMB}, retry: {{attempts_max: 1}}, retry_budget: {{ratio: 0, floor_per_sec: 0}}");
        let gate = Gate::with("web", &[upstream.addr()], &keys).start();
        let mut client = Client::connect(gate.addr());
        for _ in 0..4 {
            assert_eq!(client.get("/").text(), "tea");
        }
        assert_eq!(figure(&gate, "seawall_gateway_upstream_stale_total"), 3.0);
        assert_eq!(stopped(&gate, "attempts"), 0.0);
        let last = upstream.requests().pop().expect("a request");
        assert_eq!(last.headers.get("seawall-attempt"), Some("1"));
    }
}

#[test]
fn a_stale_connection_is_no_excuse_to_do_something_twice() {
    let upstream = Upstream::start(|request| match request.serial {
        0 => Reply::ok("tea"),
        _ => Reply::close(),
    });
    let gate = rich(&[upstream.addr()], "via: false").start();
    let mut client = Client::connect(gate.addr());
    assert_eq!(client.get("/").text(), "tea");
    assert_eq!(refusal(&client.request(posting("POST", "/", "order"))), (502, "upstream_reset"));
    assert_eq!(upstream.request_count(), 2);
}

#[test]
fn an_answer_cut_in_its_head_is_tried_again() {
    let upstream = Upstream::start(|request| match request.headers.get("seawall-attempt") {
        Some("1") => Reply::raw("HTTP/1.1 200 OK\r\nContent-").then_close(),
        _ => Reply::ok("tea"),
    });
    let gate = rich(&[upstream.addr()], "via: false").start();
    assert_eq!(get(gate.addr(), "/").text(), "tea");
}

#[test]
fn a_client_that_leaves_in_the_back_off_ends_the_retries() {
    let upstream = Upstream::start(|_| Reply::reset());
    let gate = rich(
        &[upstream.addr()],
        "retry: {backoff: {delay_base: 1h, delay_max: 1h}}, timeouts: {request: 2h}",
    )
    .start();
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/", ""));
    upstream.wait_for_requests(1);
    client.finish_sending();
    assert!(client.is_closed_by_server());
    gate.wait_for_metric("seawall_gateway_requests_total", &["outcome=\"cancelled\""], |count| count == 1.0);
}

/// Two endpoints whose first attempts at `/slow` never answer.
pub(crate) fn slow_pair() -> Vec<Upstream> {
    let start = || {
        Upstream::start(|request| match (request.path(), request.headers.get("seawall-attempt")) {
            ("/slow", Some("1")) => Reply::hang(),
            _ => Reply::ok("tea"),
        })
    };
    vec![start(), start()]
}

/// Enough fast requests, for long enough, for the gateway to know what is usual.
pub(crate) fn warm_up(gate: &Seawall) {
    let started = Instant::now();
    let mut client = Client::connect(gate.addr());
    let mut sent = 0;
    while sent < 150 || started.elapsed() < Duration::from_millis(700) {
        assert_eq!(client.get("/").text(), "tea");
        sent += 1;
    }
}

#[test]
fn a_hedge_answers_for_a_late_attempt_which_is_cancelled() {
    let upstreams = slow_pair();
    let gate = rich(&addresses(&upstreams), "retry: {attempts_max: 1}")
        .route("service: web, hedge: {delay: 100ms}")
        .start();
    warm_up(&gate);
    let before = figure(&gate, "seawall_gateway_hedges_total");
    assert_eq!(get(gate.addr(), "/slow").text(), "tea");
    assert_eq!(figure(&gate, "seawall_gateway_hedges_total"), before + 1.0);
    wait_until("the late attempt is over", PATIENCE, || {
        figure(&gate, "seawall_gateway_endpoint_active_requests") == 0.0
    });
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_failures_total"), 0.0);
    let slow: Vec<_> = upstreams
        .iter()
        .map(|upstream| upstream.requests().iter().filter(|r| r.target == "/slow").count())
        .collect();
    assert_eq!(slow, [1, 1], "the hedge goes elsewhere");
    let hedged: HashSet<_> = upstreams
        .iter()
        .flat_map(Upstream::requests)
        .filter(|request| request.target == "/slow")
        .map(|request| request.headers.get("seawall-attempt").expect("a number").to_owned())
        .collect();
    assert_eq!(hedged, HashSet::from(["1".to_owned(), "2".to_owned()]));
}

#[test]
fn trap_11_hedges_spend_the_retry_budget() {
    let upstreams = slow_pair();
    let keys = format!(
        "{NUMB}, retry: {{attempts_max: 1}}, timeouts: {{attempt: 200ms}}, retry_budget: {{ratio: 0, floor_per_sec: 0}}"
    );
    let gate =
        Gate::with("web", &addresses(&upstreams), &keys).route("service: web, hedge: {delay: 100ms}").start();
    warm_up(&gate);
    assert_eq!(refusal(&get(gate.addr(), "/slow")), (504, "upstream_timeout"));
    assert_eq!(figure(&gate, "seawall_gateway_hedges_total"), 0.0);
}

#[test]
fn what_may_have_an_effect_is_not_hedged() {
    let upstreams = slow_pair();
    let gate = rich(&addresses(&upstreams), "retry: {attempts_max: 1}, timeouts: {attempt: 200ms}")
        .route("service: web, hedge: {delay: 100ms}")
        .start();
    warm_up(&gate);
    let before = figure(&gate, "seawall_gateway_hedges_total");
    let response = Client::connect(gate.addr()).request(posting("POST", "/slow", "order"));
    assert_eq!(refusal(&response), (504, "upstream_timeout"));
    assert_eq!(figure(&gate, "seawall_gateway_hedges_total"), before);
}
