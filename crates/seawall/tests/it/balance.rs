//! Which endpoint gets the next request, and which get none.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use testkit::client::Response;
use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Reply, Seawall, Upstream, get};

use crate::gate::{Gate, NUMB, addresses, figure, plain, refusal};

/// Endpoints that answer with their own number.
fn numbered(count: usize) -> Vec<Upstream> {
    (0..count).map(|number| Upstream::constant(&number.to_string())).collect()
}

fn ask(gate: &Seawall, target: &str, lines: &str) -> Response {
    Client::connect(gate.addr()).request(plain("GET", target, lines))
}

fn unavailable(gate: &Seawall, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    gate.metric("seawall_gateway_endpoint_unavailable", &[&label]).unwrap_or(0.0)
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let upstreams = numbered(2);
    let gate = Gate::default()
        .root(&format!(
            "services: {{web: {{endpoints: [{{address: '{}', weight: 3}}, '{}'], balance: round_robin, {NUMB}}}}}",
            upstreams[0].addr(),
            upstreams[1].addr()
        ))
        .start();
    for _ in 0..40 {
        assert_eq!(get(gate.addr(), "/").status, 200);
    }
    assert_eq!((upstreams[0].request_count(), upstreams[1].request_count()), (30, 10));
}

#[test]
fn trap_10_who_fails_fast_does_not_attract_traffic() {
    for balance in ["least_loaded", "peak_ewma"] {
        let works = || Upstream::start(|_| Reply::ok("tea").delay(Duration::from_millis(3)));
        let upstreams = vec![works(), works(), Upstream::start(|_| Reply::status(503))];
        let keys = format!("balance: {balance}, {NUMB}, retry: {{attempts_max: 1}}");
        let gate = Gate::with("web", &addresses(&upstreams), &keys).start();
        let addr = gate.addr();
        let clients: Vec<_> = (0..4)
            .map(|_| {
                thread::spawn(move || {
                    let mut client = Client::connect(addr);
                    (0..100).filter(|_| client.get("/").status == 503).count()
                })
            })
            .collect();
        let failed: usize = clients.into_iter().map(|client| client.join().expect("a client")).sum();
        assert!(failed < 400 / 5, "{balance}: {failed} of 400 failed, a fair share would be 133");
    }
}

#[test]
fn a_key_keeps_its_endpoint() {
    for keys in [
        "{ring_hash: {key: {header: x-user}}}",
        "{ring_hash: {key: {cookie: user}}}",
        "{ring_hash: {key: path}}",
        "{maglev: {key: {header: x-user}}}",
        "{maglev: {key: {cookie: user}}}",
        "{maglev: {key: path}}",
    ] {
        let upstreams = numbered(4);
        let gate = Gate::with("web", &addresses(&upstreams), &format!("balance: {keys}, {NUMB}")).start();
        let place = |user: usize, salt: usize| {
            let target = if keys.contains("path") { format!("/{user}?{salt}") } else { format!("/{salt}") };
            let lines = if keys.contains("path") {
                String::new()
            } else {
                format!("X-User: {user}\r\nCookie: a={salt}; user={user}\r\n")
            };
            ask(&gate, &target, &lines).text()
        };
        let places: Vec<_> = (0..40).map(|user| place(user, 0)).collect();
        for salt in 1..3 {
            assert_eq!((0..40).map(|user| place(user, salt)).collect::<Vec<_>>(), places, "{keys}");
        }
        let mut shares = HashMap::new();
        places.iter().for_each(|place| *shares.entry(place.clone()).or_insert(0) += 1);
        assert!(shares.len() >= 3, "{keys}: {shares:?}");
    }
}

#[test]
fn only_the_keys_of_an_endpoint_that_goes_move() {
    for (balance, strays_max) in
        [("{ring_hash: {key: path, load_bound: 0}}", 0), ("{maglev: {key: path}}", 8)]
    {
        let upstreams = numbered(4);
        let file = |count: usize| {
            Gate::with("web", &addresses(&upstreams[..count]), &format!("balance: {balance}, {NUMB}")).yaml()
        };
        let gate = Seawall::start(env!("CARGO_BIN_EXE_seawall"), &file(4));
        let places = || (0..100).map(|key| get(gate.addr(), &format!("/{key}")).text()).collect::<Vec<_>>();
        let before = places();
        gate.reload(&file(3));
        wait_until("the endpoint is gone", PATIENCE, || places().iter().all(|place| place != "3"));
        let strays =
            before.iter().zip(places()).filter(|(before, now)| *before != "3" && *before != now).count();
        assert!(strays <= strays_max, "{balance}: {strays} of 100 keys moved without need");
    }
}

#[test]
fn a_sticky_client_comes_back_to_its_endpoint() {
    let upstreams = numbered(4);
    let keys = format!("sticky: {{cookie: seat, max_age: 1h}}, {NUMB}");
    let gate = Gate::with("web", &addresses(&upstreams), &keys).start();
    let first = ask(&gate, "/", "");
    let cookie = first.header("set-cookie").expect("a cookie");
    assert!(
        cookie.starts_with("seat=")
            && cookie.contains("Path=/")
            && cookie.contains("HttpOnly")
            && cookie.contains("Max-Age=3600"),
        "{cookie}"
    );
    let line = format!("Cookie: other=1; {}\r\n", cookie.split(';').next().expect("a pair"));
    for _ in 0..20 {
        let response = ask(&gate, "/", &line);
        assert_eq!(response.text(), first.text());
        assert!(!response.headers.has("set-cookie"), "the client knows: {response:?}");
    }
    // Its endpoint goes: another one takes over, and says so.
    upstreams[first.text().parse::<usize>().expect("a number")].stop();
    let response = ask(&gate, "/", &line);
    assert_eq!(response.status, 200);
    assert_ne!(response.text(), first.text());
    assert!(response.headers.has("set-cookie"));
    // Nonsense is nobody's endpoint.
    for value in ["", "x", "0123456789abcdef", "\"", "0123456789abcdef0123456789abcdef"] {
        let response = ask(&gate, "/", &format!("Cookie: seat={value}\r\n"));
        assert!(response.status == 200 && response.headers.has("set-cookie"), "{value}: {response:?}");
    }
}

#[test]
fn load_that_endpoints_report_steers_traffic_and_stays_inside() {
    let reporting =
        |load: &'static str| Upstream::start(move |_| Reply::ok("tea").header("Endpoint-Load-Metrics", load));
    let upstreams = [
        reporting("TEXT application_utilization=0.2, rps_fractional=100"),
        reporting("JSON {\"application_utilization\": 0.8, \"rps_fractional\": 100}"),
    ];
    let keys = format!("balance: {{weighted_by_load: {{blackout: 0s, update_interval: 20ms}}}}, {NUMB}");
    let gate = Gate::with("web", &addresses(&upstreams), &keys).start();
    let mut client = Client::connect(gate.addr());
    wait_until("the idle one gets three times as much", PATIENCE, || {
        upstreams.iter().for_each(Upstream::forget_requests);
        for _ in 0..50 {
            assert!(!client.get("/").headers.has("endpoint-load-metrics"));
        }
        upstreams[0].request_count() >= 3 * upstreams[1].request_count()
    });
}

/// An endpoint that is as busy and as slow as this, and says so to whoever asks at `/load`, or with every answer.
fn frank(in_flight: u32, latency_ms: u32, unasked: bool) -> Upstream {
    let load = format!("TEXT named_metrics.rif={in_flight}, named_metrics.latency_ms={latency_ms}");
    Upstream::start(move |request| {
        let reply = Reply::ok("tea");
        if unasked || request.path() == "/load" {
            reply.header("Endpoint-Load-Metrics", &load)
        } else {
            reply
        }
    })
}

#[test]
fn prequal_takes_the_cool_and_quick_by_what_probes_or_answers_say() {
    for (unasked, keys) in [(false, "probe_path: /load, "), (true, "")] {
        let [cool, slow, hot] = [(1, 5), (1, 500), (90, 5)].map(|(load, ms)| frank(load, ms, unasked));
        let upstreams = [cool, slow, hot];
        let served = |upstream: &Upstream| upstream.requests().iter().filter(|r| r.target == "/").count();
        let keys = format!("balance: {{prequal: {{{keys}probe_age_max: 10s, pool_size: 3}}}}, {NUMB}");
        let gate = Gate::with("web", &addresses(&upstreams), &keys).start();
        let mut client = Client::connect(gate.addr());
        // What this process sees itself is the same of all three.
        wait_until("the cool and quick one gets most", PATIENCE, || {
            upstreams.iter().for_each(Upstream::forget_requests);
            (0..50).for_each(|_| assert_eq!(client.get("/").text(), "tea"));
            let [cool, slow, hot] = [0, 1, 2].map(|index| served(&upstreams[index]));
            cool >= 3 * (slow + hot)
        });
        let probed = upstreams.iter().any(|u| u.requests().iter().any(|request| request.target == "/load"));
        assert_eq!(probed, !unasked);
    }
}

#[test]
fn trap_18_a_gateway_uses_its_subset_and_another_one_another() {
    const SIZE: usize = 8;
    let upstreams: Vec<_> = (0..40).map(|_| Upstream::constant("tea")).collect();
    let used = |client: u32| {
        let keys = format!("subset: {{size: {SIZE}, client: {client}}}, balance: round_robin, {NUMB}");
        let gate = Gate::with("web", &addresses(&upstreams), &keys).start();
        upstreams.iter().for_each(Upstream::forget_requests);
        let mut client = Client::connect(gate.addr());
        (0..10 * SIZE).for_each(|_| assert_eq!(client.get("/").status, 200));
        let counts: Vec<_> = upstreams.iter().map(Upstream::request_count).collect();
        let used: Vec<_> = (0..counts.len()).filter(|index| counts[*index] > 0).collect();
        assert!(used.iter().all(|index| counts[*index] == 10), "{counts:?}");
        used
    };
    let first = used(0);
    assert_eq!(first.len(), SIZE);
    assert_eq!(used(0), first, "it stays with them");
    let second = used(1);
    assert_eq!(second.len(), SIZE);
    assert_ne!(first, second);
}

#[test]
fn who_says_in_an_answer_that_it_is_a_lame_duck_gets_no_new_requests() {
    let lame = Arc::new(AtomicBool::new(false));
    let duck = {
        let lame = Arc::clone(&lame);
        Upstream::start(move |_| {
            if lame.load(Relaxed) {
                Reply::ok("quack").header("Seawall-Lame-Duck", "1")
            } else {
                Reply::ok("duck")
            }
        })
    };
    let other = Upstream::constant("other");
    let keys = format!("balance: round_robin, {NUMB}");
    let gate = Gate::with("web", &[duck.addr(), other.addr()], &keys).start();
    let mut client = Client::connect(gate.addr());
    let mut texts: Vec<_> = (0..2).map(|_| client.get("/").text()).collect();
    texts.sort();
    assert_eq!(texts, ["duck", "other"]);
    lame.store(true, Relaxed);
    let said = loop {
        let response = client.get("/");
        if response.text() == "quack" {
            break response;
        }
    };
    assert!(!said.headers.has("seawall-lame-duck"), "that is between the two of us: {said:?}");
    let count = duck.request_count();
    for _ in 0..20 {
        assert_eq!(client.get("/").text(), "other");
    }
    assert_eq!(duck.request_count(), count, "not one request after it said so");
    gate.wait_for_metric("seawall_gateway_endpoint_unavailable", &["reason=\"lame_duck\""], |value| {
        value == 1.0
    });
}

#[test]
fn a_service_of_lame_ducks_is_still_served() {
    let duck = Upstream::start(|_| Reply::ok("quack").header("Seawall-Lame-Duck", "1"));
    let gate = Gate::with("web", &[duck.addr()], NUMB).start();
    for _ in 0..3 {
        assert_eq!(get(gate.addr(), "/").text(), "quack");
    }
}

const CHECKS: &str =
    "health: {path: /healthz, interval: 30ms, unhealthy_after: 1, healthy_after: 1, jitter: 0}";

#[test]
fn checks_take_an_endpoint_out_and_bring_it_back() {
    let upstreams = numbered(2);
    let keys = format!("balance: round_robin, {NUMB}, {CHECKS}");
    let gate = Gate::with("web", &addresses(&upstreams), &keys).start();
    upstreams[0].set_health(500);
    wait_until("it is out", PATIENCE, || unavailable(&gate, "unhealthy") == 1.0);
    wait_until("no request goes there", PATIENCE, || (0..4).all(|_| get(gate.addr(), "/").text() == "1"));
    let count = upstreams[0].request_count();
    (0..10).for_each(|_| assert_eq!(get(gate.addr(), "/").text(), "1"));
    assert_eq!(upstreams[0].request_count(), count);
    upstreams[0].set_health(200);
    wait_until("it is back", PATIENCE, || get(gate.addr(), "/").text() == "0");
    assert_eq!(unavailable(&gate, "unhealthy"), 0.0);
}

#[test]
fn an_endpoint_that_dies_is_taken_out_and_comes_back() {
    let upstreams = numbered(2);
    let keys = format!("balance: round_robin, {NUMB}, {CHECKS}, retry_budget: {}", crate::gate::RICH);
    let gate = Gate::with("web", &addresses(&upstreams), &keys)
        .root(&format!("retry_budget: {}", crate::gate::RICH))
        .start();
    upstreams[0].kill();
    wait_until("it is out", PATIENCE, || {
        assert_eq!(get(gate.addr(), "/").text(), "1", "no client notices");
        unavailable(&gate, "unhealthy") == 1.0
    });
    upstreams[0].start_again();
    wait_until("it is back", PATIENCE, || get(gate.addr(), "/").text() == "0");
}

#[test]
fn trap_12_when_nobody_seems_well_everybody_is_asked_or_nobody_as_told() {
    for (panic, expected) in [("panic_below: 0.5", 200), ("panic_below: 0", 503)] {
        let upstreams = numbered(2);
        upstreams.iter().for_each(|upstream| upstream.set_health(500));
        let gate = Gate::with("web", &addresses(&upstreams), &format!("{panic}, {NUMB}, {CHECKS}")).start();
        wait_until("both are out", PATIENCE, || unavailable(&gate, "unhealthy") == 2.0);
        wait_until("it shows", PATIENCE, || {
            let panicking = figure(&gate, "seawall_gateway_service_panicking") > 0.0;
            panicking == (expected == 200) && get(gate.addr(), "/").status == expected
        });
        if expected == 503 {
            assert_eq!(refusal(&get(gate.addr(), "/")), (503, "no_endpoint"));
        }
    }
}

#[test]
fn who_says_in_its_health_answer_that_it_is_a_lame_duck_gets_no_new_requests_until_it_no_longer_does() {
    let lame = Arc::new(AtomicBool::new(true));
    let duck = {
        let lame = Arc::clone(&lame);
        Upstream::start(move |request| match request.path() {
            "/ready" if lame.load(Relaxed) => Reply::status(503).header("Seawall-Lame-Duck", "1"),
            _ => Reply::ok("duck"),
        })
    };
    let other = Upstream::constant("other");
    let keys = format!("balance: round_robin, {NUMB}, {}", CHECKS.replace("/healthz", "/ready"));
    let gate = Gate::with("web", &[duck.addr(), other.addr()], &keys).start();
    wait_until("it is out", PATIENCE, || unavailable(&gate, "lame_duck") == 1.0);
    wait_until("no request goes there", PATIENCE, || (0..4).all(|_| get(gate.addr(), "/").text() == "other"));
    lame.store(false, Relaxed);
    wait_until("it is back", PATIENCE, || get(gate.addr(), "/").text() == "duck");
}

#[test]
fn who_fails_again_and_again_is_ejected() {
    let ill = Upstream::start(|_| Reply::status(500));
    let well = Upstream::constant("well");
    let keys = "balance: round_robin, breaker: {enabled: false}, endpoint_breaker: {enabled: false}, ejection: {consecutive_failures: 3, time_base: 1h, time_max: 1h}";
    let gate = Gate::with("web", &[ill.addr(), well.addr()], keys).start();
    wait_until("it is out", PATIENCE, || {
        let _ = get(gate.addr(), "/");
        unavailable(&gate, "ejected") == 1.0
    });
    wait_until("no request goes there", PATIENCE, || (0..4).all(|_| get(gate.addr(), "/").status == 200));
    let count = ill.request_count();
    (0..10).for_each(|_| assert_eq!(get(gate.addr(), "/").text(), "well"));
    assert_eq!(ill.request_count(), count);
}

/// Until `endpoint` is ejected for `why`; eight clients ask meanwhile. Answers the gateway.
fn ejected(upstreams: &[Upstream], endpoint: usize, keys: &str, why: &str) -> Seawall {
    let keys = format!(
        "balance: round_robin, breaker: {{enabled: false}}, endpoint_breaker: {{enabled: false}}, \
         slow_start: {{window: 0s}}, retry: {{attempts_max: 1}}, \
         ejection: {{interval: 500ms, calls_min: 10, consecutive_failures: 0, {keys}}}"
    );
    let gate = Gate::with("web", &addresses(upstreams), &keys).start();
    let (addr, over) = (gate.addr(), AtomicBool::new(false));
    let label = format!("endpoint=\"{}\"", upstreams[endpoint].addr());
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = Client::connect(addr);
                while !over.load(Relaxed) {
                    let _ = client.get("/");
                }
            });
        }
        let out = std::panic::catch_unwind(|| {
            gate.wait_for_metric("seawall_gateway_endpoint_unavailable", &[&label], |out| out == 1.0)
        });
        over.store(true, Relaxed);
        out.map_err(std::panic::resume_unwind)
    })
    .expect("resumed above");
    assert!(gate.wait_for_line("Ejected").contains(why), "{:?}", gate.lines());
    let count = upstreams[endpoint].request_count();
    (0..20).for_each(|_| assert_eq!(get(gate.addr(), "/").status, 200));
    assert_eq!(upstreams[endpoint].request_count(), count, "it is asked no longer");
    gate
}

#[test]
fn who_is_many_times_slower_than_the_others_is_ejected() {
    let mut upstreams = numbered(3);
    upstreams.push(Upstream::start(|_| Reply::ok("slow").delay(Duration::from_millis(300))));
    // Slow enough that a busy machine makes nobody else look like it.
    let keys =
        "success_rate_deviations: 0, latency_factor: 3, latency_min: 200ms, time_base: 1h, time_max: 1h";
    ejected(&upstreams, 3, keys, "latency");
}

#[test]
fn who_fails_more_often_than_the_others_is_ejected() {
    let mut upstreams = numbered(3);
    let count = AtomicUsize::new(0);
    upstreams.push(Upstream::start(move |_| {
        Reply::status(if count.fetch_add(1, Relaxed).is_multiple_of(2) { 500 } else { 200 })
    }));
    let gate = ejected(&upstreams, 3, "latency_factor: 0, time_base: 1h, time_max: 1h", "success_rate");
    assert_eq!(unavailable(&gate, "ejected"), 1.0, "and nobody else");
}
