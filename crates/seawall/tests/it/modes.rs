//! Graceful degradation: modes that are forced, entered by load and left again, exercised, and what each measure does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use testkit::client::Response;
use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Gate as Door, Reply, Seawall, Upstream, get};

use crate::attempts::{rich, slow_pair, warm_up};
use crate::gate::{Gate, NUMB, RICH, addresses, figure, plain, posting, refusal, refused};
use crate::{File, run, text};

const ACTIVE: &str = "seawall_gateway_mode_active";
const REQUESTS: &str = "seawall_gateway_mode_requests_total";
const EXERCISED: &str = "seawall_gateway_mode_exercised_requests_total";

/// The keys of a service whose mode `less`, forced on, takes these measures.
fn forced(measures: &str) -> String {
    format!("modes: {{less: {{force: on, measures: [{measures}]}}}}")
}

fn mode(response: &Response) -> Option<&str> {
    response.header("seawall-mode")
}

/// A gateway in front of `upstream` whose mode `less` takes these measures.
fn less(upstream: &Upstream, measures: &str) -> Gate {
    Gate::with("web", &[upstream.addr()], &forced(measures))
}

fn status_page(gate: &Seawall) -> String {
    let table = run(&["status", "--admin", &gate.admin().to_string()]);
    assert!(table.status.success(), "{}", text(&table.stderr));
    text(&table.stdout)
}

#[test]
fn an_operator_forces_a_mode_by_the_file_and_takes_it_back() {
    let upstream = Upstream::constant("tea");
    let gate = |force: &str| {
        let keys =
            format!("modes: {{bare: {{force: {force}, measures: [answer: {{status: 203, body: water}}]}}}}");
        Gate::with("web", &[upstream.addr()], &keys)
            .route("service: web, response_headers: {set: {x-shop: yes}}")
    };
    let running = gate("auto").start();
    let mut client = Client::connect(running.addr());
    let answer = client.get("/");
    assert_eq!((answer.status, answer.text(), mode(&answer)), (200, "tea".to_owned(), None));
    assert_eq!(figure(&running, ACTIVE), 0.0);

    running.reload(&gate("on").yaml());
    let answer = client.get("/");
    assert_eq!((answer.status, answer.text(), mode(&answer)), (203, "water".to_owned(), Some("bare")));
    assert_eq!(answer.header("x-shop"), Some("yes"), "the route's changes hold for it too");
    let labels = ["service=\"web\"", "mode=\"bare\""];
    assert_eq!(running.metric(ACTIVE, &labels), Some(1.0));
    assert_eq!(running.metric("seawall_gateway_mode_entered_total", &labels), Some(1.0));
    assert_eq!((figure(&running, REQUESTS), figure(&running, EXERCISED)), (1.0, 0.0));
    let table = status_page(&running);
    assert!(table.contains("in force for") && table.contains("mode_entered: bare, forced on"), "{table}");
    let page = Client::connect(running.admin()).request("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").text();
    assert!(page.contains("mode bare for"), "{page}");

    running.reload(&gate("off").yaml());
    let answer = client.get("/");
    assert_eq!((answer.text(), mode(&answer)), ("tea".to_owned(), None));
    assert_eq!((figure(&running, ACTIVE), figure(&running, REQUESTS)), (0.0, 1.0), "counts outlive reloads");
    let table = status_page(&running);
    assert!(table.contains("mode_left: bare, forced off"), "{table}");
    assert_eq!(upstream.request_count(), 2);
}

#[test]
fn load_enters_a_mode_and_its_end_leaves_it() {
    let holding = Arc::new(AtomicBool::new(true));
    let door = Door::new();
    let upstream = {
        let (door, holding) = (door.clone(), Arc::clone(&holding));
        Upstream::start(
            move |_| if holding.load(Relaxed) { Reply::ok("tea").hold(&door) } else { Reply::ok("tea") },
        )
    };
    let keys = format!(
        "{NUMB}, admission: {{limit: {{min: 4, max: 4, initial: 4}}, queue: {{waiting_max: 0}}}}, \
         modes: {{less: {{shed: {{enter: 0.5, leave: 0.2}}, enter_after: 300ms, leave_after: 300ms, \
         measures: [drop_class: SHEDDABLE]}}}}"
    );
    let gate = Gate::with("web", &[upstream.addr()], &keys)
        .route("service: web")
        .route("match: {path: /batch}, service: web, criticality: SHEDDABLE")
        .start();
    assert_eq!(figure(&gate, ACTIVE), 0.0);
    let mut inside: Vec<_> = (0..4).map(|_| Client::connect(gate.addr())).collect();
    inside.iter_mut().for_each(|client| client.send(plain("GET", "/", "")));
    upstream.wait_for_requests(3);
    wait_until("what is shed enters the mode", PATIENCE, || {
        let answer = get(gate.addr(), "/");
        assert_eq!(refusal(&answer), (503, "overloaded"));
        figure(&gate, ACTIVE) == 1.0
    });
    let batch = get(gate.addr(), "/batch");
    assert_eq!((refusal(&batch), mode(&batch)), ((503, "degraded"), Some("less")));
    assert_eq!(batch.header("seawall-retry"), Some("never"));
    assert_eq!(refused(&gate, "degraded"), 1.0);

    holding.store(false, Relaxed);
    door.open();
    wait_until("the mode is left", PATIENCE, || {
        let _ = get(gate.addr(), "/");
        figure(&gate, ACTIVE) == 0.0
    });
    assert_eq!(figure(&gate, "seawall_gateway_mode_entered_total"), 1.0, "it did not flap");
    let table = status_page(&gate);
    assert!(table.contains("mode_entered: less, because of shed: "), "{table}");
    let left = table.split("mode_left: less, ").nth(1).unwrap_or_else(|| panic!("{table}"));
    let shed: f64 =
        left.split("shed ").nth(1).and_then(|rest| rest.get(..4)).expect(left).parse().expect(left);
    assert!(shed < 0.2, "{left}");
    let batch = get(gate.addr(), "/batch");
    assert_eq!((batch.status, mode(&batch)), (200, None));
}

#[test]
fn what_endpoints_report_enters_a_mode() {
    let upstream =
        Upstream::start(|_| Reply::ok("tea").header("Endpoint-Load-Metrics", "TEXT cpu_utilization=0.97"));
    let keys = "modes: {less: {utilization: {enter: 0.95}, enter_after: 0s, measures: [no_retries]}}";
    let gate = Gate::with("web", &[upstream.addr()], keys).start();
    wait_until("the report enters the mode", PATIENCE, || mode(&get(gate.addr(), "/")) == Some("less"));
    let table = status_page(&gate);
    assert!(table.contains("because of utilization: utilization 0.97"), "{table}");
}

#[test]
fn a_mode_is_exercised_while_nothing_is_wrong_and_counted_apart() {
    let upstream = Upstream::constant("tea");
    let keys = "modes: {less: {shed: {enter: 0.5}, exercise: {share: 0.1, every: 1s, for: 1s}, \
                measures: [answer: {status: 203}]}}";
    let gate = Gate::with("web", &[upstream.addr()], keys).start();
    let mut client = Client::connect(gate.addr());
    let (mut exercised, mut asked) = (0, 0);
    wait_until("some requests exercise the mode", PATIENCE, || {
        for _ in 0..100 {
            let answer = client.get("/");
            asked += 1;
            exercised += usize::from(answer.status == 203);
            assert_eq!(mode(&answer), (answer.status == 203).then_some("less"));
        }
        exercised >= 5
    });
    assert!(exercised < asked / 2, "{exercised} of {asked}");
    assert_eq!(figure(&gate, EXERCISED), exercised as f64);
    assert_eq!((figure(&gate, REQUESTS), figure(&gate, ACTIVE)), (0.0, 0.0));
    assert_eq!(upstream.request_count(), asked - exercised);
}

#[test]
fn a_mode_that_is_forced_off_is_not_exercised() {
    let upstream = Upstream::constant("tea");
    let mode_of = |force: &str| {
        format!(
            "{force}: {{force: {force}, exercise: {{share: 0.1, every: 1s, for: 1s}}, measures: [no_retries]}}"
        )
    };
    let keys = format!("modes: {{{}, {}}}", mode_of("off"), mode_of("auto"));
    let gate = Gate::with("web", &[upstream.addr()], &keys).start();
    let mut client = Client::connect(gate.addr());
    wait_until("the other mode is exercised", PATIENCE, || {
        (0..100).for_each(|_| assert_eq!(client.get("/").status, 200));
        gate.metric(EXERCISED, &["mode=\"auto\""]) >= Some(5.0)
    });
    assert_eq!(gate.metric(EXERCISED, &["mode=\"off\""]), Some(0.0));
}

#[test]
fn another_service_stands_in_with_all_that_guards_it() {
    let (dear, cheap) = (Upstream::constant("tea"), Upstream::constant("water"));
    let gate = |keys: &str| {
        less(&dear, "service: cheap").service("cheap", &[cheap.addr()], keys).route("service: web").start()
    };
    let answer = get(gate("via: false").addr(), "/");
    assert_eq!((answer.text(), mode(&answer)), ("water".to_owned(), Some("less")));
    let answer = get(gate("breaker: {force: open}").addr(), "/");
    assert_eq!((refusal(&answer), mode(&answer)), ((503, "breaker_open"), Some("less")));
    assert_eq!((dear.request_count(), cheap.request_count()), (0, 1));
}

#[test]
fn the_class_and_those_below_are_dropped() {
    let upstream = Upstream::constant("tea");
    let gate = less(&upstream, "drop_class: SHEDDABLE_PLUS").trusting().start();
    for (class, status) in
        [("CRITICAL_PLUS", 200), ("CRITICAL", 200), ("SHEDDABLE_PLUS", 503), ("SHEDDABLE", 503)]
    {
        let answer = Client::connect(gate.addr()).request(plain(
            "GET",
            "/",
            &format!("Seawall-Criticality: {class}\r\n"),
        ));
        assert_eq!((answer.status, mode(&answer)), (status, Some("less")), "{class}");
    }
    assert_eq!(upstream.request_count(), 2);
}

#[test]
fn nothing_is_tried_again() {
    let upstream = Upstream::start(|_| Reply::status(503));
    let keys = format!("{NUMB}, retry_budget: {RICH}, {}", forced("no_retries"));
    let gate = Gate::with("web", &[upstream.addr()], &keys).start();
    assert_eq!(get(gate.addr(), "/").status, 503);
    assert_eq!(upstream.request_count(), 1);
    let without = Gate::with("web", &[upstream.addr()], &format!("{NUMB}, retry_budget: {RICH}")).start();
    assert_eq!(get(without.addr(), "/").status, 503);
    assert!(upstream.request_count() > 2, "where nothing is left out, something is tried again");
}

#[test]
fn nothing_is_hedged() {
    let upstreams = slow_pair();
    let gate = |more: &str| {
        let keys = format!("retry: {{attempts_max: 1}}, timeouts: {{attempt: 500ms}}{more}");
        let gate = rich(&addresses(&upstreams), &keys).route("service: web, hedge: {delay: 100ms}").start();
        warm_up(&gate);
        gate
    };
    assert_eq!(get(gate("").addr(), "/slow").text(), "tea", "a hedge answers");
    let gate = gate(&format!(", {}", forced("no_hedging")));
    let answer = get(gate.addr(), "/slow");
    assert_eq!((refusal(&answer), mode(&answer)), ((504, "upstream_timeout"), Some("less")));
    assert_eq!(figure(&gate, "seawall_gateway_hedges_total"), 0.0);
}

#[test]
fn large_bodies_are_refused() {
    let upstream = Upstream::echo();
    let gate = less(&upstream, "body_max: 64").start();
    let ask = |request: String| Client::connect(gate.addr()).request(request);
    assert_eq!(ask(posting("POST", "/", &"x".repeat(64))).status, 200);
    let chunked = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n\r\n",
            "x".repeat(length)
        )
    };
    assert_eq!(ask(chunked(32)).status, 200);
    for request in [posting("POST", "/", &"x".repeat(65)), chunked(65)] {
        let answer = ask(request);
        assert_eq!((refusal(&answer), mode(&answer)), ((413, "body_too_large"), Some("less")));
    }
}

#[test]
fn fewer_successes_are_logged() {
    let upstream = Upstream::start(|request| Reply::status(if request.path() == "/ill" { 500 } else { 200 }));
    let file = File::new("");
    let gate = less(&upstream, "log_sample: 0")
        .root(&format!("access_log: {{to: {{file: '{}'}}}}", file.path()))
        .start();
    let mut client = Client::connect(gate.addr());
    (0..20).for_each(|_| assert_eq!(client.get("/").status, 200));
    assert_eq!(client.get("/ill").status, 500);
    let lines = || std::fs::read_to_string(file.path()).expect("a log");
    wait_until("the failure is logged", PATIENCE, || lines().contains("/ill"));
    assert_eq!(lines().lines().count(), 1, "{}", lines());
}

#[test]
fn of_several_modes_the_stricter_measure_counts() {
    let upstream = Upstream::echo();
    let keys = "modes: {mild: {force: on, measures: [body_max: 10]}, \
                severe: {force: on, measures: [body_max: 100, drop_class: SHEDDABLE]}}";
    let gate = Gate::with("web", &[upstream.addr()], keys).start();
    let answer = Client::connect(gate.addr()).request(posting("POST", "/", &"x".repeat(50)));
    assert_eq!((refusal(&answer), mode(&answer)), ((413, "body_too_large"), Some("mild, severe")));
}

#[test]
fn what_is_wrong_with_a_mode_is_said_with_its_place() {
    let file = File::new(
        "services:\n  web:\n    endpoints: [10.0.0.1:80]\n    modes:\n      less:\n        shed: {enter: 0.5}\n        measures:\n          - service: wbe\n",
    );
    let output = run(&["check", file.path()]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains(":8:22") && errors.contains("no service is called `wbe`"), "{errors}");
}
