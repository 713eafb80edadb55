//! Quotas: charged here, shared through Redis, and what holds while that is gone.

use std::net::SocketAddr;

use testkit::sys::{SIGCONT, SIGSTOP};
use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Redis, Reply, Seawall, Upstream, free_port};

use crate::gate::{Gate, figure, plain, posting, reason, refusal, refused};

const REACHABLE: &str = "seawall_gateway_quota_store_reachable";

/// A gateway whose only route is charged to a quota with these keys.
fn gate(upstream: &Upstream, keys: &str) -> Seawall {
    Gate::to(&[upstream.addr()])
        .trusting()
        .route("service: web, quota: each")
        .root(&format!("quotas: {{each: {{{keys}}}}}"))
        .start()
}

/// A gateway that shares a quota through the Redis at `store`.
fn sharing(upstream: &Upstream, store: SocketAddr, keys: &str) -> Seawall {
    gate(upstream, &format!("shared: 'redis://{store}', {keys}"))
}

/// How many of `count` requests, one after the other, are let in; the others must be refused for the quota.
fn let_in(client: &mut Client, count: usize) -> usize {
    let answers = (0..count).map(|_| client.get("/"));
    answers
        .filter(|answer| {
            answer.status == 200 || {
                assert_eq!(reason(answer), "quota_exceeded");
                false
            }
        })
        .count()
}

/// `None`, with a word about it, where Redis is not installed.
fn redis() -> Option<Redis> {
    let redis = Redis::start(free_port());
    if redis.is_none() {
        eprintln!("redis-server is not installed: nothing to see");
    }
    redis
}

#[test]
fn requests_beyond_the_quota_are_refused_with_the_time_to_come_back() {
    let upstream = Upstream::constant("tea");
    let gate = gate(&upstream, "by: {header: x-user}, limit: 3, per: 1h");
    let mut client = Client::connect(gate.addr());
    let ask =
        |client: &mut Client, user: &str| client.request(plain("GET", "/", &format!("X-User: {user}\r\n")));
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "ann").status, 200);
    }
    let response = ask(&mut client, "ann");
    assert_eq!(refusal(&response), (429, "quota_exceeded"));
    assert_eq!(response.header("seawall-retry"), Some("never"));
    let wait: u64 = response.header("retry-after").expect("a time").parse().expect("a number");
    assert!((1_100..=1_200).contains(&wait), "{wait}");
    assert_eq!(ask(&mut client, "bob").status, 200);
    assert_eq!((upstream.request_count(), refused(&gate, "quota_exceeded")), (4, 1.0));
    assert_eq!(gate.metric("seawall_gateway_quota_throttled_total", &["quota=\"each\""]), Some(1.0));
}

#[test]
fn cost_is_what_a_trusted_header_says() {
    let upstream = Upstream::constant("tea");
    let gate = gate(&upstream, "limit: 10, per: 1h, cost: {header: x-cost}");
    let mut client = Client::connect(gate.addr());
    let ask =
        |client: &mut Client, cost: &str| client.request(plain("GET", "/", &format!("X-Cost: {cost}\r\n")));
    assert_eq!(ask(&mut client, "6").status, 200);
    assert_eq!(refusal(&ask(&mut client, "6")), (429, "quota_exceeded"));
    assert_eq!(ask(&mut client, "4").status, 200);
    let never = ask(&mut client, "11");
    assert_eq!((refusal(&never), never.header("retry-after")), ((429, "quota_exceeded"), None));
}

#[test]
fn bytes_are_charged_at_the_end() {
    let upstream = Upstream::start(|_| Reply::ok("x".repeat(400)));
    let gate = gate(&upstream, "limit: 1000, per: 1h, cost: bytes");
    // A refusal closes the connection, because the body has not been read.
    let ask = || Client::connect(gate.addr()).request(posting("POST", "/", &"x".repeat(200)));
    let statuses: Vec<_> = (0..4).map(|_| ask().status).collect();
    // Requests cost 600 now, as far as is known: the 400 that are left are not enough for another.
    assert_eq!(statuses, [200, 429, 429, 429]);
}

#[test]
fn time_at_the_service_is_charged_at_the_end() {
    let upstream = Upstream::start(|_| Reply::ok("tea").delay(std::time::Duration::from_millis(50)));
    let gate = gate(&upstream, "limit: 120, per: 1h, cost: upstream_ms");
    let mut client = Client::connect(gate.addr());
    let granted = let_in(&mut client, 10);
    assert!((1..=3).contains(&granted), "{granted}");
}

#[test]
fn what_never_reached_the_service_costs_nothing() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::with("web", &[upstream.addr()], "breaker: {force: open}")
        .route("service: web, quota: each")
        .root("quotas: {each: {limit: 3, per: 1h}}")
        .start();
    let mut client = Client::connect(gate.addr());
    for _ in 0..10 {
        assert_eq!(refusal(&client.get("/")), (503, "breaker_open"));
    }
}

#[test]
fn two_gateways_share_one_quota() {
    let Some(redis) = redis() else { return };
    let upstream = Upstream::constant("tea");
    let keys = "by: client_address, limit: 100, per: 1h";
    let gates = [sharing(&upstream, redis.addr(), keys), sharing(&upstream, redis.addr(), keys)];
    for gate in &gates {
        gate.wait_for_metric("seawall_gateway_quota_replicas", &[], |count| count == 2.0);
    }
    let mut clients = gates.each_ref().map(|gate| Client::connect(gate.addr()));
    let mut granted = 0;
    let dry = |gate: &Seawall| {
        gate.metric("seawall_gateway_quota_slices_total", &["result=\"short\""]) >= Some(1.0)
    };
    wait_until("the quota is used up", PATIENCE, || {
        granted += clients.iter_mut().map(|client| let_in(client, 5)).sum::<usize>();
        gates.iter().all(dry)
    });
    granted += clients.iter_mut().map(|client| let_in(client, 50)).sum::<usize>();
    // Two slices of ten requests each may be ahead of the store.
    assert!((100..=120).contains(&granted), "{granted}");
    assert_eq!(clients.iter_mut().map(|client| let_in(client, 10)).sum::<usize>(), 0);
}

#[test]
fn a_store_that_stops_or_dies_delays_no_request() {
    let Some(redis) = redis() else { return };
    let upstream = Upstream::constant("tea");
    let gate = sharing(&upstream, redis.addr(), "limit: 600000, per: 60s");
    let mut client = Client::connect(gate.addr());
    let reachable = |wanted: f64| gate.wait_for_metric(REACHABLE, &[], |value| value == wanted);
    let granted = || gate.metric("seawall_gateway_quota_slices_total", &["result=\"granted\""]);
    wait_until("the store is asked", PATIENCE, || {
        assert_eq!(let_in(&mut client, 10), 10);
        granted() >= Some(1.0)
    });
    reachable(1.0);
    // It is stopped while requests go on: were one to wait for it, it would wait for ever.
    redis.process().signal(SIGSTOP);
    assert_eq!(let_in(&mut client, 1_000), 1_000);
    reachable(0.0);
    assert_eq!(let_in(&mut client, 1_000), 1_000);
    redis.process().signal(SIGCONT);
    reachable(1.0);
    assert_eq!(let_in(&mut client, 1_000), 1_000);
    let addr = redis.addr();
    drop(redis);
    assert_eq!(let_in(&mut client, 1_000), 1_000);
    reachable(0.0);
    assert_eq!(let_in(&mut client, 1_000), 1_000);
    let _again = Redis::start(addr).expect("it was there before");
    reachable(1.0);
    assert_eq!(let_in(&mut client, 1_000), 1_000);
    assert!(figure(&gate, "seawall_gateway_quota_slices_asked_total") > 0.0);
}

#[test]
fn while_the_store_is_gone_the_quota_fails_as_it_says() {
    let upstream = Upstream::constant("tea");
    let nowhere = free_port();
    for (direction, least, most) in [("open", 200, 200), ("closed", 0, 5), ("local_share", 5, 40)] {
        let keys = format!("limit: 100, per: 1h, when_unreachable: {direction}");
        let gate = sharing(&upstream, nowhere, &keys);
        gate.wait_for_metric(REACHABLE, &[], |value| value == 0.0);
        let granted = let_in(&mut Client::connect(gate.addr()), 200);
        assert!((least..=most).contains(&granted), "{direction}: {granted}");
    }
}

#[test]
fn a_reload_keeps_what_was_spent() {
    let upstream = Upstream::constant("tea");
    let gate = |extra: &str| {
        Gate::to(&[upstream.addr()])
            .route("service: web, quota: each")
            .root(&format!("quotas: {{each: {{limit: 3, per: 1h}}{extra}}}"))
    };
    let running = gate("").start();
    let mut client = Client::connect(running.addr());
    assert_eq!(let_in(&mut client, 5), 3);
    running.reload(&gate(", other: {limit: 5, per: 1s}").yaml());
    assert_eq!(let_in(&mut client, 5), 0);
}
