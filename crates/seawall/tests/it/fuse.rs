//! The batch fuse: many clients on one side, few connections on the other, and users who notice nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Gate as Door, Reply, Seawall, Upstream};

use crate::gate::{Gate, figure, plain, refusal, refused};

/// Requests under way at an endpoint, and most so far.
#[derive(Default)]
struct Busy {
    now: AtomicUsize,
    peak: AtomicUsize,
}

/// Endpoints that work on `/batch` until the door opens, and answer anything else at once.
fn endpoints<const N: usize>() -> ([Upstream; N], Door, Arc<Busy>) {
    let (door, busy) = (Door::new(), Arc::<Busy>::default());
    let upstreams = std::array::from_fn(|_| {
        let (door, busy) = (door.clone(), Arc::clone(&busy));
        Upstream::start(move |request| {
            if request.path().ends_with("/batch") {
                busy.peak.fetch_max(busy.now.fetch_add(1, SeqCst) + 1, SeqCst);
                door.wait();
                busy.now.fetch_sub(1, SeqCst);
            }
            Reply::ok("tea")
        })
    });
    (upstreams, door, busy)
}

/// New clients of the batch listener, each with a request for `path` under way.
fn jobs(gate: &Seawall, count: usize, path: &str) -> Vec<Client> {
    let client = |_| {
        let mut client = Client::connect(gate.listeners()[1]);
        client.send(plain("GET", path, ""));
        client
    };
    (0..count).map(client).collect()
}

fn wait_for_line(gate: &Seawall, active: u32, waiting: u32) {
    gate.wait_for_metric("seawall_gateway_fuse_active_requests", &[], |count| count == f64::from(active));
    gate.wait_for_metric("seawall_gateway_fuse_waiting_requests", &[], |count| count == f64::from(waiting));
}

fn served(clients: &mut [Client]) -> usize {
    clients.iter_mut().map(|client| client.response().text()).filter(|text| text == "tea").count()
}

#[test]
fn hundreds_of_clients_share_few_connections_whatever_the_worker() {
    let _ = testkit::sys::raise_open_files(4096);
    let ([upstream], door, busy) = endpoints();
    let gate = Gate::to(&[upstream.addr()]).workers(3).batch("").start();
    let mut clients = jobs(&gate, 500, "/batch");
    wait_for_line(&gate, 8, 492);
    wait_until("eight requests are under way", PATIENCE, || busy.now.load(SeqCst) == 8);
    door.open();
    assert_eq!(served(&mut clients), 500);
    wait_for_line(&gate, 0, 0);
    assert_eq!((busy.peak.load(SeqCst), upstream.connections(), upstream.request_count()), (8, 8, 500));
    assert_eq!(figure(&gate, "seawall_gateway_fuse_connections_open"), 8.0);
    assert_eq!(figure(&gate, "seawall_gateway_fuse_refused_requests_total"), 0.0);
}

#[test]
fn users_do_not_wait_behind_batch_jobs() {
    let ([web, other], door, busy) = endpoints();
    let gate = Gate::to(&[web.addr()])
        .service("other", &[other.addr()], "")
        .route("match: {path: /}, service: web, hedge: {delay: 1ms}")
        .route("match: {path: /other/}, service: other")
        .workers(2)
        .batch(", fuse: {connections: 3}")
        .start();
    let mut clients = jobs(&gate, 40, "/batch");
    clients.extend(jobs(&gate, 40, "/other/batch"));
    wait_for_line(&gate, 3, 77);
    wait_until("three requests are under way", PATIENCE, || busy.now.load(SeqCst) == 3);
    assert_eq!(web.open_connections() + other.open_connections(), 3);
    // Nothing that came in for batch will end before the door opens.
    for path in ["/", "/other/"].repeat(50) {
        assert_eq!(testkit::get(gate.addr(), path).text(), "tea");
    }
    assert_eq!(figure(&gate, "seawall_gateway_fuse_active_requests"), 3.0);
    door.open();
    assert_eq!(served(&mut clients), 80);
    wait_for_line(&gate, 0, 0);
    assert_eq!(busy.peak.load(SeqCst), 3);
    assert!(figure(&gate, "seawall_gateway_fuse_connections_open") <= 3.0);
    // A route's hedges are for users.
    let attempts = gate.metric("seawall_gateway_endpoint_requests_total", &["service=\"other\""]);
    assert_eq!(attempts, Some(90.0));
}

#[test]
fn a_batch_request_is_never_above_its_class() {
    let upstream = Upstream::echo();
    let gate = Gate::to(&[upstream.addr()])
        .route("match: {path: /}, service: web, criticality: CRITICAL_PLUS")
        .route("match: {path: /cheap/}, service: web, criticality: SHEDDABLE")
        .batch(", trusted: [127.0.0.0/8]")
        .start();
    let class = |path: &str, stated: &str| {
        let lines =
            if stated.is_empty() { String::new() } else { format!("Seawall-Criticality: {stated}\r\n") };
        let text = Client::connect(gate.listeners()[1]).request(plain("GET", path, &lines)).text();
        let line = text.lines().find_map(|line| line.strip_prefix("seawall-criticality: "));
        line.expect("every request has a class").to_owned()
    };
    assert_eq!(class("/", ""), "SHEDDABLE_PLUS");
    assert_eq!(class("/", "CRITICAL_PLUS"), "SHEDDABLE_PLUS");
    assert_eq!(class("/", "SHEDDABLE"), "SHEDDABLE");
    assert_eq!(class("/cheap/", ""), "SHEDDABLE");
    assert_eq!(class("/cheap/", "CRITICAL"), "SHEDDABLE_PLUS");
    let counted = ["class=\"SHEDDABLE_PLUS\"", "outcome=\"success\""];
    gate.wait_for_metric("seawall_gateway_requests_total", &counted, |count| count == 3.0);
}

#[test]
fn who_finds_the_line_full_or_too_slow_is_told_to_come_back() {
    let ([upstream], door, _) = endpoints();
    let start = |fuse: &str| Gate::to(&[upstream.addr()]).batch(&format!(", fuse: {{{fuse}}}")).start();
    let gate = start("connections: 1, waiting_max: 2");
    let mut clients = jobs(&gate, 3, "/batch");
    wait_for_line(&gate, 1, 2);
    let response = Client::connect(gate.listeners()[1]).get("/batch");
    assert_eq!(
        (refusal(&response), response.text().as_str()),
        ((503, "fuse_full"), "fuse_full: queue_full\n")
    );
    assert_eq!(response.header("seawall-retry"), Some("never"));
    let after: u64 = response.header("retry-after").expect("a span").parse().expect("seconds");
    assert!((1..=30).contains(&after), "{after}");

    let late = start("connections: 1, wait_max: 50ms");
    let mut first = jobs(&late, 1, "/batch");
    wait_for_line(&late, 1, 0);
    let response = Client::connect(late.listeners()[1]).get("/batch");
    assert_eq!(response.text(), "fuse_full: queue_timeout\n");
    let label = ["reason=\"queue_timeout\""];
    assert_eq!(late.metric("seawall_gateway_fuse_refused_requests_total", &label), Some(1.0));

    // Whoever leaves the line leaves its place in it.
    drop(clients.pop());
    wait_for_line(&gate, 1, 1);
    clients.extend(jobs(&gate, 1, "/batch"));
    wait_for_line(&gate, 1, 2);
    door.open();
    assert_eq!((served(&mut clients), served(&mut first)), (3, 1));
    assert_eq!((refused(&gate, "fuse_full"), refused(&late, "fuse_full")), (1.0, 1.0));
}

#[test]
fn the_line_outlives_a_reload_and_is_served_before_the_end() {
    let ([old, new], door, busy) = endpoints();
    let gate = |upstream: &Upstream| {
        Gate::to(&[upstream.addr()]).root("drain: {lame_duck: 0s}").batch(", fuse: {connections: 1}")
    };
    let mut running = gate(&old).start();
    let mut clients = jobs(&running, 5, "/batch");
    wait_for_line(&running, 1, 4);
    wait_until("the first is under way", PATIENCE, || busy.now.load(SeqCst) == 1);
    running.reload(&gate(&new).yaml());
    wait_for_line(&running, 1, 4);
    clients.extend(jobs(&running, 1, "/batch"));
    wait_for_line(&running, 1, 5);
    running.signal(testkit::sys::SIGTERM);
    running.wait_for_line("draining: finishing");
    door.open();
    assert_eq!(served(&mut clients), 6);
    assert!(running.wait().success());
    // Those who waited go where the service is now.
    assert_eq!((old.request_count(), new.request_count(), busy.peak.load(SeqCst)), (1, 5, 1));
}
