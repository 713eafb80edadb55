//! What protects services and endpoints: breakers, bulkheads, rate limits, criticality.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::Relaxed};
use std::time::Duration;

use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Gate as Door, Reply, Seawall, Upstream, get};

use crate::gate::{Gate, NUMB, addresses, figure, plain, refusal, refused};

/// An endpoint whose status a test turns.
fn moody() -> (Upstream, Arc<AtomicU16>) {
    let mood = Arc::new(AtomicU16::new(200));
    let upstream = {
        let mood = Arc::clone(&mood);
        Upstream::start(move |_| Reply::status(mood.load(Relaxed)))
    };
    (upstream, mood)
}

/// An endpoint that answers once a door opens.
fn held() -> (Upstream, Door) {
    let door = Door::new();
    let upstream = {
        let door = door.clone();
        Upstream::start(move |_| Reply::ok("tea").hold(&door))
    };
    (upstream, door)
}

const BREAKER: &str = "{calls_min: 5, open_base: 200ms, open_max: 200ms, probes_to_close: 2}";
const OFF: &str = "{enabled: false}";

fn breaker_state(gate: &Seawall) -> f64 {
    figure(gate, "seawall_gateway_breaker_state")
}

#[test]
fn a_services_breaker_opens_probes_and_closes() {
    let (upstream, mood) = moody();
    let keys =
        format!("ejection: {OFF}, endpoint_breaker: {OFF}, breaker: {BREAKER}, retry: {{attempts_max: 1}}");
    let gate = Gate::with("web", &[upstream.addr()], &keys).start();
    assert_eq!(get(gate.addr(), "/").status, 200);
    mood.store(500, Relaxed);
    wait_until("the breaker opens", PATIENCE, || get(gate.addr(), "/").status == 503);
    assert_eq!(breaker_state(&gate), 2.0);
    let response = get(gate.addr(), "/");
    assert_eq!(refusal(&response), (503, "breaker_open"));
    assert_eq!(response.header("seawall-retry"), Some("never"));
    assert_eq!(response.header("retry-after"), Some("1"));
    // The endpoint is still ill: probes find out, one after another, and nobody else asks it.
    let asked = upstream.request_count();
    wait_until("a probe fails", PATIENCE, || {
        let _ = get(gate.addr(), "/");
        upstream.request_count() > asked
    });
    mood.store(200, Relaxed);
    wait_until("the breaker closes", PATIENCE, || {
        get(gate.addr(), "/").status == 200 && breaker_state(&gate) == 0.0
    });
    assert!(refused(&gate, "breaker_open") >= 2.0);
}

#[test]
fn an_endpoints_breaker_turns_traffic_to_the_others() {
    let (ill, mood) = moody();
    mood.store(500, Relaxed);
    let (well, _) = moody();
    let keys = format!(
        "balance: round_robin, ejection: {OFF}, breaker: {OFF}, endpoint_breaker: {{calls_min: 5, open_base: 1h, open_max: 1h}}"
    );
    let gate = Gate::with("web", &[ill.addr(), well.addr()], &keys).start();
    let failures = (0..40).filter(|_| get(gate.addr(), "/").status == 500).count();
    assert!((5..=8).contains(&failures), "{failures} failures");
    assert_eq!(ill.request_count(), failures);
    mood.store(200, Relaxed);
}

#[test]
fn no_endpoint_that_may_be_asked_is_a_refusal() {
    let (ill, mood) = moody();
    mood.store(500, Relaxed);
    let keys = format!(
        "ejection: {OFF}, breaker: {OFF}, endpoint_breaker: {{calls_min: 3, open_base: 1h, open_max: 1h}}"
    );
    let gate = Gate::with("web", &[ill.addr()], &keys).start();
    wait_until("the breaker opens", PATIENCE, || get(gate.addr(), "/").status == 503);
    assert_eq!(refusal(&get(gate.addr(), "/")), (503, "breaker_open"));
}

#[test]
fn trap_9_what_is_refused_for_load_is_not_held_against_the_endpoint() {
    for reply in [
        Reply::status(429),
        Reply::status(503),
        Reply::status(503).header("Seawall-Reason", "bulkhead_full").header("Seawall-Retry", "never"),
        Reply::status(504).header("Seawall-Reason", "deadline_exceeded").header("Seawall-Retry", "never"),
    ] {
        let shown = reply.clone();
        let upstream = Upstream::start(move |_| reply.clone());
        let keys = format!(
            "breaker: {OFF}, endpoint_breaker: {{calls_min: 5}}, ejection: {{consecutive_failures: 3}}, retry: {{attempts_max: 1}}"
        );
        let gate = Gate::with("web", &[upstream.addr()], &keys).start();
        for _ in 0..30 {
            assert!(get(gate.addr(), "/").status >= 429);
        }
        assert_eq!(upstream.request_count(), 30, "{shown:?}");
        assert_eq!(figure(&gate, "seawall_gateway_endpoint_failures_total"), 0.0, "{shown:?}");
        assert_eq!(gate.metric("seawall_gateway_endpoint_unavailable", &[]), None, "{shown:?}");
    }
}

#[test]
fn trap_9_our_own_refusals_are_not_held_against_anybody() {
    let (upstream, _) = moody();
    let keys = "breaker: {calls_min: 5}, endpoint_breaker: {calls_min: 5}";
    let gate = Gate::with("web", &[upstream.addr()], keys)
        .route("service: web, rate_limit: {per_sec: 0.001, burst: 1}")
        .start();
    assert_eq!(get(gate.addr(), "/").status, 200);
    for _ in 0..30 {
        assert_eq!(refusal(&get(gate.addr(), "/")), (429, "rate_limited"));
    }
    assert_eq!((breaker_state(&gate), upstream.request_count()), (0.0, 1));
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_failures_total"), 0.0);
}

#[test]
fn trap_5_two_gateways_in_a_row_do_not_multiply_attempts() {
    let upstream = Upstream::start(|_| Reply::status(500));
    let inner = Gate::with(
        "web",
        &[upstream.addr()],
        &format!("{NUMB}, breaker: {{calls_min: 1, open_base: 1h, open_max: 1h}}").replacen(
            "breaker: {enabled: false}, ",
            "",
            1,
        ),
    )
    .start();
    let outer = Gate::with("web", &[inner.addr()], NUMB).start();
    assert_eq!(get(outer.addr(), "/").status, 500);
    let response = get(outer.addr(), "/");
    assert_eq!(
        (refusal(&response), response.header("seawall-retry")),
        ((503, "breaker_open"), Some("never"))
    );
    assert_eq!(refused(&inner, "breaker_open"), 1.0, "the outer gateway does not ask again");
    assert_eq!(outer.metric("seawall_gateway_retries_stopped_total", &["reason=\"dont_retry\""]), Some(1.0));
}

#[test]
fn a_full_bulkhead_refuses() {
    let (upstream, door) = held();
    let gate = Gate::with("web", &[upstream.addr()], "bulkhead: {active_max: 1}").start();
    let mut first = Client::connect(gate.addr());
    first.send(plain("GET", "/", ""));
    upstream.wait_for_requests(1);
    let response = get(gate.addr(), "/");
    assert_eq!(refusal(&response), (503, "bulkhead_full"));
    assert_eq!(response.header("seawall-retry"), Some("never"));
    assert_eq!(
        (refused(&gate, "bulkhead_full"), figure(&gate, "seawall_gateway_bulkhead_active_requests")),
        (1.0, 1.0)
    );
    door.open();
    assert_eq!(first.response().text(), "tea");
    assert_eq!(get(gate.addr(), "/").text(), "tea");
}

#[test]
fn a_bulkhead_lets_some_wait() {
    let (upstream, door) = held();
    let gate =
        Gate::with("web", &[upstream.addr()], "bulkhead: {active_max: 1, waiting_max: 1, wait_max: 10s}")
            .start();
    let mut first = Client::connect(gate.addr());
    first.send(plain("GET", "/", ""));
    upstream.wait_for_requests(1);
    let mut second = Client::connect(gate.addr());
    second.send(plain("GET", "/", ""));
    gate.wait_for_metric("seawall_gateway_bulkhead_waiting_requests", &[], |waiting| waiting == 1.0);
    assert_eq!(refusal(&get(gate.addr(), "/")), (503, "bulkhead_full"));
    assert_eq!(upstream.request_count(), 1);
    door.open();
    assert_eq!((first.response().text(), second.response().text()), ("tea".to_owned(), "tea".to_owned()));
    assert_eq!(figure(&gate, "seawall_gateway_bulkhead_waiting_requests"), 0.0);
}

#[test]
fn who_waits_too_long_for_a_bulkhead_is_refused() {
    let (upstream, _door) = held();
    let gate =
        Gate::with("web", &[upstream.addr()], "bulkhead: {active_max: 1, waiting_max: 1, wait_max: 50ms}")
            .start();
    let mut first = Client::connect(gate.addr());
    first.send(plain("GET", "/", ""));
    upstream.wait_for_requests(1);
    assert_eq!(refusal(&get(gate.addr(), "/")), (503, "bulkhead_full"));
}

#[test]
fn who_leaves_while_waiting_for_a_bulkhead_leaves_the_queue() {
    let (upstream, _door) = held();
    let gate =
        Gate::with("web", &[upstream.addr()], "bulkhead: {active_max: 1, waiting_max: 1, wait_max: 1h}")
            .start();
    let mut first = Client::connect(gate.addr());
    first.send(plain("GET", "/", ""));
    upstream.wait_for_requests(1);
    let mut second = Client::connect(gate.addr());
    second.send(plain("GET", "/", ""));
    gate.wait_for_metric("seawall_gateway_bulkhead_waiting_requests", &[], |waiting| waiting == 1.0);
    drop(second);
    gate.wait_for_metric("seawall_gateway_bulkhead_waiting_requests", &[], |waiting| waiting == 0.0);
    gate.wait_for_metric("seawall_gateway_requests_total", &["outcome=\"cancelled\""], |count| count == 1.0);
    assert_eq!(refused(&gate, "bulkhead_full"), 0.0, "nobody was refused");
}

#[test]
fn each_customer_has_a_rate_of_its_own() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()])
        .route("service: web, rate_limit: {by: {header: x-customer}, per_sec: 0.001, burst: 2}")
        .start();
    let ask = |customer: &str| {
        Client::connect(gate.addr()).request(plain("GET", "/", &format!("X-Customer: {customer}\r\n")))
    };
    for customer in ["a", "b"] {
        assert_eq!([ask(customer).status, ask(customer).status], [200, 200]);
        let response = ask(customer);
        assert_eq!(refusal(&response), (429, "rate_limited"));
        assert_eq!(
            (response.header("seawall-retry"), response.header("retry-after")),
            (Some("never"), Some("1"))
        );
    }
    assert_eq!((upstream.request_count(), refused(&gate, "rate_limited")), (4, 2.0));
}

#[test]
fn a_customer_cannot_buy_cheaper_than_it_is_trusted() {
    let upstream = Upstream::constant("tea");
    let route = "service: web, rate_limit: {per_sec: 0.001, burst: 10, cost_header: x-cost}";
    let ask =
        |gate: &Seawall, lines: &str| Client::connect(gate.addr()).request(plain("GET", "/", lines)).status;
    let trusting = Gate::to(&[upstream.addr()]).route(route).trusting().start();
    assert_eq!(ask(&trusting, "X-Cost: 9\r\n"), 200);
    assert_eq!(ask(&trusting, "X-Cost: 9\r\n"), 429);
    assert_eq!(ask(&trusting, "X-Cost: 9\r\nX-Forwarded-For: 1.2.3.4\r\n"), 200, "another client");
    let gate = Gate::to(&[upstream.addr()]).route(route).start();
    for _ in 0..10 {
        assert_eq!(ask(&gate, "X-Cost: 0\r\nX-Forwarded-For: 1.2.3.4\r\n"), 200);
    }
    assert_eq!(ask(&gate, "X-Cost: 0\r\nX-Forwarded-For: 5.6.7.8\r\n"), 429);
}

#[test]
fn criticality_is_believed_from_the_trusted_and_recorded() {
    let upstream = Upstream::constant("tea");
    let routes = |gate: Gate| {
        gate.route("service: web").route("match: {path: /batch}, service: web, criticality: SHEDDABLE")
    };
    let told = |gate: &Seawall, target: &str, lines: &str| {
        Client::connect(gate.addr()).request(plain("GET", target, lines));
        upstream
            .requests()
            .pop()
            .expect("a request")
            .headers
            .get("seawall-criticality")
            .expect("a class")
            .to_owned()
    };
    let gate = routes(Gate::to(&[upstream.addr()]).trusting()).start();
    assert_eq!(told(&gate, "/", ""), "CRITICAL");
    assert_eq!(told(&gate, "/", "Seawall-Criticality: SHEDDABLE_PLUS\r\n"), "SHEDDABLE_PLUS");
    assert_eq!(told(&gate, "/", "Seawall-Criticality: nonsense\r\n"), "CRITICAL");
    assert_eq!(told(&gate, "/batch", ""), "SHEDDABLE");
    assert_eq!(told(&gate, "/batch", "Seawall-Criticality: CRITICAL_PLUS\r\n"), "CRITICAL_PLUS");
    let class = "class=\"SHEDDABLE_PLUS\"";
    gate.wait_for_metric("seawall_gateway_requests_total", &[class], |count| count == 1.0);
    let gate = routes(Gate::to(&[upstream.addr()])).start();
    assert_eq!(told(&gate, "/batch", "Seawall-Criticality: CRITICAL_PLUS\r\n"), "SHEDDABLE");
}

#[test]
fn an_endpoint_takes_as_many_requests_as_it_may() {
    let (first, first_door) = held();
    let (second, second_door) = held();
    let upstreams = [first, second];
    let gate = Gate::with("web", &addresses(&upstreams), "active_per_endpoint: 1").start();
    let mut clients: Vec<_> = (0..2).map(|_| Client::connect(gate.addr())).collect();
    clients.iter_mut().for_each(|client| client.send(plain("GET", "/", "")));
    upstreams.iter().for_each(|upstream| upstream.wait_for_requests(1));
    assert_eq!(refusal(&get(gate.addr(), "/")), (503, "no_endpoint"));
    assert_eq!(refused(&gate, "no_endpoint"), 1.0);
    first_door.open();
    second_door.open();
    clients.iter_mut().for_each(|client| assert_eq!(client.response().text(), "tea"));
    assert_eq!(get(gate.addr(), "/").text(), "tea");
}

#[test]
fn a_breaker_opens_for_slow_calls_that_succeed() {
    let slow = Arc::new(AtomicBool::new(true));
    let upstream = {
        let slow = Arc::clone(&slow);
        Upstream::start(move |_| {
            let span = if slow.load(Relaxed) { Duration::from_millis(100) } else { Duration::ZERO };
            Reply::ok("tea").delay(span)
        })
    };
    let keys = format!(
        "ejection: {OFF}, endpoint_breaker: {OFF}, breaker: {{calls_min: 5, slow_after: 50ms, slow_rate: 0.5, \
         open_base: 200ms, open_max: 200ms, probes_to_close: 2}}"
    );
    let gate = Gate::with("web", &[upstream.addr()], &keys).start();
    let answers: Vec<_> = (0..6).map(|_| get(gate.addr(), "/")).collect();
    let [first @ .., last] = &answers[..] else { unreachable!("six answers") };
    assert!(first.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!((refusal(last), breaker_state(&gate)), ((503, "breaker_open"), 2.0));
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_failures_total"), 0.0);
    slow.store(false, Relaxed);
    wait_until("the breaker closes", PATIENCE, || {
        get(gate.addr(), "/").status == 200 && breaker_state(&gate) == 0.0
    });
}

/// Four workers and connections spread over them by the kernel: what one worker alone may do is not done four times.
fn four_workers(upstream: &Upstream, keys: &str) -> Gate {
    Gate::with("web", &[upstream.addr()], keys).workers(4)
}

#[test]
fn trap_5_several_workers_share_one_breaker_and_one_budget() {
    let upstream = Upstream::start(|_| Reply::status(503));
    let budget = "{ratio: 0.1, floor_per_sec: 0, burst: 100}";
    let gate = four_workers(&upstream, &format!("{NUMB}, retry_budget: {budget}"))
        .root(&format!("retry_budget: {budget}"))
        .start();
    (0..100).for_each(|_| assert_eq!(get(gate.addr(), "/").status, 503));
    assert_eq!(upstream.request_count(), 110, "a tenth more than was asked");

    let upstream = Upstream::start(|_| Reply::status(500));
    let keys = format!(
        "ejection: {OFF}, endpoint_breaker: {OFF}, breaker: {{calls_min: 20, open_base: 1h, open_max: 1h}}"
    );
    let gate = four_workers(&upstream, &keys).start();
    let statuses: Vec<_> = (0..100).map(|_| get(gate.addr(), "/").status).collect();
    let failed = statuses.iter().filter(|status| **status == 500).count();
    assert_eq!(upstream.request_count(), failed);
    assert!((20..40).contains(&failed), "{failed} failed: each worker alone would have asked as often");
    assert!(statuses[failed..].iter().all(|status| *status == 503), "{statuses:?}");
}

#[test]
fn trap_16_several_workers_share_one_limit_of_each_kind() {
    let (upstream, door) = held();
    let gate = four_workers(&upstream, "bulkhead: {active_max: 2}").start();
    let mut inside: Vec<_> = (0..2).map(|_| Client::connect(gate.addr())).collect();
    inside.iter_mut().for_each(|client| client.send(plain("GET", "/", "")));
    upstream.wait_for_requests(2);
    (0..20).for_each(|_| assert_eq!(refusal(&get(gate.addr(), "/")), (503, "bulkhead_full")));
    door.open();
    inside.iter_mut().for_each(|client| assert_eq!(client.response().text(), "tea"));

    let upstream = Upstream::constant("tea");
    let gate =
        four_workers(&upstream, "").route("service: web, rate_limit: {per_sec: 0.001, burst: 5}").start();
    let served = (0..40).filter(|_| get(gate.addr(), "/").status == 200).count();
    assert_eq!((served, upstream.request_count()), (5, 5));

    let gate = four_workers(&upstream, "").listener("connections_max: 3").start();
    let mut inside: Vec<_> = (0..3).map(|_| Client::connect(gate.addr())).collect();
    inside.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "tea"));
    for _ in 0..20 {
        let outside = Client::connect(gate.addr()).try_response().expect("an answer");
        assert_eq!(refusal(&outside), (503, "too_many_connections"));
    }
}
