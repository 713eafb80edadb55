//! Time: connect, attempt and request time-outs, and deadlines between hops.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};
use testkit::{Client, Reply, Upstream, get};

use crate::gate::{Gate, Manual, NUMB, RICH, plain, refusal, refused};

/// An address that neither accepts nor refuses: its queue is full and nobody looks at it.
struct Blackhole {
    listener: TcpListener,
    _queued: Vec<Socket>,
}

impl Blackhole {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        SockRef::from(&listener).listen(0).expect("a shorter queue");
        let addr = listener.local_addr().expect("an address");
        let mut queued = Vec::new();
        // Full once a connection no longer comes about.
        while TcpStream::connect_timeout(&addr, Duration::from_millis(100))
            .map(|stream| queued.push(Socket::from(stream)))
            .is_ok()
        {}
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            let _ = socket.connect(&addr.into());
            queued.push(socket);
        }
        Self { listener, _queued: queued }
    }

    fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }
}

/// What an endpoint was told is left, in milliseconds.
fn left(headers: &testkit::http::Headers) -> u64 {
    let value = headers.get("seawall-deadline-ms").unwrap_or_else(|| panic!("no deadline: {headers:?}"));
    value.parse().expect("a number")
}

#[test]
fn a_connection_that_does_not_come_about_in_time_is_given_up() {
    let hole = Blackhole::new();
    let keys = format!("{NUMB}, timeouts: {{connect: 100ms}}, retry: {{attempts_max: 1}}");
    let gate = Gate::with("web", &[hole.addr()], &keys).start();
    assert_eq!(refusal(&get(gate.addr(), "/")), (502, "connect_failed"));
    assert_eq!(refused(&gate, "connect_failed"), 1.0);
    assert_eq!(gate.metric("seawall_gateway_upstream_connects_total", &["result=\"failure\""]), Some(1.0));
}

#[test]
fn a_connection_that_does_not_come_about_is_tried_elsewhere_whatever_the_method() {
    let hole = Blackhole::new();
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let keys = format!("{NUMB}, balance: round_robin, timeouts: {{connect: 50ms}}, retry_budget: {RICH}");
    let gate = Gate::with("web", &[hole.addr(), upstream.addr()], &keys)
        .root(&format!("retry_budget: {RICH}"))
        .start();
    for _ in 0..4 {
        let response = Client::connect(gate.addr()).request(crate::gate::posting("POST", "/", "order"));
        assert_eq!(response.text(), "order");
    }
    assert_eq!(upstream.request_count(), 4);
}

#[test]
fn an_attempt_that_takes_too_long_is_tried_elsewhere() {
    let slow = Upstream::start(|_| Reply::hang());
    let quick = Upstream::constant("quick");
    let keys = format!("{NUMB}, balance: round_robin, timeouts: {{attempt: 100ms}}, retry_budget: {RICH}");
    let gate =
        Gate::with("web", &[slow.addr(), quick.addr()], &keys).root(&format!("retry_budget: {RICH}")).start();
    for _ in 0..2 {
        assert_eq!(get(gate.addr(), "/").text(), "quick");
    }
    assert!((1..=2).contains(&slow.request_count()));
}

#[test]
fn an_attempt_that_takes_too_long_is_a_504() {
    let slow = Upstream::start(|_| Reply::hang());
    let keys = format!("{NUMB}, retry: {{attempts_max: 1, attempt_timeout: 100ms}}");
    let gate = Gate::with("web", &[slow.addr()], &keys).start();
    assert_eq!(refusal(&get(gate.addr(), "/")), (504, "upstream_timeout"));
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(1.0));
}

#[test]
fn a_request_has_one_deadline_over_all_its_attempts() {
    let slow = Upstream::start(|_| Reply::hang());
    for (service, route) in [
        ("timeouts: {attempt: 100ms, request: 150ms}", ""),
        ("timeouts: {attempt: 100ms}", ", timeout: 150ms"),
    ] {
        let keys =
            format!("{NUMB}, {service}, retry_budget: {RICH}, retry: {{backoff: {{delay_base: 1ms}}}}");
        let gate = Gate::with("web", &[slow.addr()], &keys)
            .root(&format!("retry_budget: {RICH}"))
            .route(&format!("service: web{route}"))
            .start();
        slow.forget_requests();
        let response = get(gate.addr(), "/");
        assert_eq!(refusal(&response), (504, "deadline_exceeded"));
        assert_eq!(response.header("seawall-retry"), Some("never"));
        assert!(slow.request_count() <= 2, "the deadline comes before a third attempt");
    }
}

#[test]
fn an_endpoint_is_blamed_for_the_routes_time_and_not_for_the_callers() {
    let slow = Upstream::start(|_| Reply::hang());
    let gate =
        Gate::with("web", &[slow.addr()], NUMB).route("service: web, timeout: 100ms").trusting().start();
    let failures = || gate.metric("seawall_gateway_endpoint_failures_total", &[]);
    let response = Client::connect(gate.addr()).request(plain("GET", "/", "Seawall-Deadline-Ms: 50\r\n"));
    assert_eq!((refusal(&response), failures()), ((504, "deadline_exceeded"), Some(0.0)));
    assert_eq!((refusal(&get(gate.addr(), "/")), failures()), ((504, "deadline_exceeded"), Some(1.0)));
}

#[test]
fn a_deadline_that_passes_while_connecting_is_a_504() {
    let hole = Blackhole::new();
    let keys = format!("{NUMB}, timeouts: {{connect: 10s, attempt: 20s}}");
    let gate =
        Gate::with("web", &[hole.addr()], &keys).route("service: web, timeout: 150ms").trusting().start();
    let wait_for = |outcome: &str, refused: f64, failures: f64| {
        let label = format!("outcome=\"{outcome}\"");
        gate.wait_for_metric("seawall_gateway_requests_total", &[&label], |count| count == 1.0);
        let count = |name: &str, labels: &[&str]| gate.metric(name, labels).unwrap_or(0.0);
        assert_eq!(count("seawall_gateway_requests_total", &["outcome=\"refused\""]), refused);
        assert_eq!(count("seawall_gateway_endpoint_failures_total", &[]), failures);
    };
    // The service was too slow for the route.
    assert_eq!(refusal(&get(gate.addr(), "/")), (504, "deadline_exceeded"));
    wait_for("failed", 0.0, 1.0);
    // The caller was in too much of a hurry.
    let response = Client::connect(gate.addr()).request(plain("GET", "/", "Seawall-Deadline-Ms: 50\r\n"));
    assert_eq!(refusal(&response), (504, "deadline_exceeded"));
    wait_for("refused", 1.0, 1.0);
}

#[test]
fn a_route_whose_time_is_used_up_has_failed_and_no_endpoint_is_blamed_twice() {
    let slow = Upstream::start(|_| Reply::hang());
    // What is left after the first attempt is less than the margin: a second one would come too late.
    let keys = format!(
        "{NUMB}, timeouts: {{attempt: 200ms, request: 1s, deadline_margin: 900ms}}, \
         retry_budget: {RICH}, retry: {{backoff: {{delay_base: 1ms, delay_max: 1ms}}}}"
    );
    let gate = Gate::with("web", &[slow.addr()], &keys)
        .root(&format!("retry_budget: {RICH}"))
        .route("service: web")
        .start();
    assert_eq!(refusal(&get(gate.addr(), "/")), (504, "deadline_exceeded"));
    gate.wait_for_metric("seawall_gateway_requests_total", &["outcome=\"failed\""], |count| count == 1.0);
    assert_eq!(gate.metric("seawall_gateway_endpoint_failures_total", &[]), Some(1.0));
    assert_eq!(slow.request_count(), 1);
}

#[test]
fn trap_7_a_deadline_is_believed_from_the_trusted_only() {
    let slow = Upstream::start(
        |request| {
            if request.path() == "/quick" { Reply::ok("quick") } else { Reply::hang() }
        },
    );
    let keys = format!("{NUMB}, timeouts: {{attempt: 10s, request: 20s}}");
    let gate = Gate::with("web", &[slow.addr()], &keys).trusting().start();
    for line in ["Seawall-Deadline-Ms: 100\r\n", "Grpc-Timeout: 100m\r\n"] {
        let response = Client::connect(gate.addr()).request(plain("GET", "/", line));
        assert_eq!(refusal(&response), (504, "deadline_exceeded"), "{line}");
    }
    slow.forget_requests();
    let gate = Gate::with("web", &[slow.addr()], &keys).start();
    for line in ["Seawall-Deadline-Ms: 0\r\n", "Grpc-Timeout: 0m\r\n", "Seawall-Deadline-Ms: 99999999\r\n"] {
        let response = Client::connect(gate.addr()).request(plain("GET", "/quick", line));
        assert_eq!(response.text(), "quick", "{line}");
    }
    for request in slow.requests() {
        assert!((9_000..=10_000).contains(&left(&request.headers)), "{request:?}");
        assert!(!request.headers.has("grpc-timeout"), "{request:?}");
        assert_eq!(request.headers.all("seawall-deadline-ms").count(), 1);
    }
}

#[test]
fn trap_7_what_has_expired_does_not_reach_the_endpoint() {
    let upstream = Upstream::constant("late");
    let gate = Gate::to(&[upstream.addr()]).trusting().start();
    for line in ["Seawall-Deadline-Ms: 0\r\n", "Grpc-Timeout: 0n\r\n"] {
        let mut client = Client::connect(gate.addr());
        let response = client.request(plain("GET", "/", line));
        assert_eq!(refusal(&response), (504, "deadline_exceeded"), "{line}");
        assert_eq!(response.header("seawall-retry"), Some("never"));
        assert_eq!(client.get("/").text(), "late");
    }
    assert_eq!((upstream.request_count(), refused(&gate, "deadline_exceeded")), (2, 2.0));
}

#[test]
fn trap_7_nonsense_sets_no_deadline() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::to(&[upstream.addr()]).trusting().start();
    for value in ["-5", "+5", "1.5", "soon", "", "0x10", "99999999999999999999999"] {
        let request = plain("GET", "/", &format!("Seawall-Deadline-Ms: {value}\r\n"));
        assert_eq!(Client::connect(gate.addr()).request(request).text(), "tea", "{value}");
    }
    for value in ["5", "-5S", "5x", "123456789S", "S"] {
        let request = plain("GET", "/", &format!("Grpc-Timeout: {value}\r\n"));
        assert_eq!(Client::connect(gate.addr()).request(request).text(), "tea", "{value}");
    }
}

#[test]
fn trap_7_endpoints_are_told_what_is_left_less_a_margin() {
    let upstream = Upstream::constant("tea");
    let gate = Gate::with("web", &[upstream.addr()], "timeouts: {deadline_margin: 300ms}").trusting().start();
    let told = |line: &str| {
        assert_eq!(Client::connect(gate.addr()).request(plain("GET", "/", line)).text(), "tea", "{line}");
        upstream.requests().pop().expect("a request").headers
    };
    let headers = told("Seawall-Deadline-Ms: 5000\r\n");
    assert!((1..=4_700).contains(&left(&headers)), "{headers:?}");
    let headers = told("Grpc-Timeout: 5S\r\n");
    assert!((1..=4_700).contains(&left(&headers)), "{headers:?}");
    let grpc = policy::deadline::parse_grpc_timeout(
        headers.get("grpc-timeout").expect("the same in gRPC's words").as_bytes(),
        Duration::MAX,
    );
    assert!(grpc.expect("a time-out") <= Duration::from_millis(4_700), "{headers:?}");
    assert_eq!(headers.all("grpc-timeout").count(), 1);
    // With less left than the way back takes there is no point in asking.
    let response = Client::connect(gate.addr()).request(plain("GET", "/", "Seawall-Deadline-Ms: 200\r\n"));
    assert_eq!(refusal(&response), (504, "deadline_exceeded"));
    assert_eq!(upstream.request_count(), 2);
}

#[test]
fn trap_7_a_second_attempt_is_told_of_less_time_than_the_first() {
    let upstream = Upstream::start(|request| match request.headers.get("seawall-attempt") {
        Some("1") => Reply::reset().delay(Duration::from_millis(50)),
        _ => Reply::ok("tea"),
    });
    let keys = format!("{NUMB}, retry_budget: {RICH}");
    let gate = Gate::with("web", &[upstream.addr()], &keys)
        .root(&format!("retry_budget: {RICH}"))
        .trusting()
        .start();
    let response = Client::connect(gate.addr()).request(plain("GET", "/", "Seawall-Deadline-Ms: 5000\r\n"));
    assert_eq!(response.text(), "tea");
    let requests = upstream.requests();
    assert_eq!(requests.len(), 2);
    assert!(left(&requests[1].headers) + 50 <= left(&requests[0].headers), "{requests:?}");
}

#[test]
fn a_long_upload_does_not_use_up_the_services_time() {
    let upstream = Upstream::start(|request| Reply::ok(request.body()));
    let gate = Gate::with("web", &[upstream.addr()], "timeouts: {attempt: 200ms, request: 200ms}").start();
    let mut client = Client::connect(gate.addr());
    client.send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 40\r\n\r\n");
    let started = Instant::now();
    for _ in 0..40 {
        // The client's own pace: as slow as it likes, within the time between two pieces.
        assert!(client.is_quiet_for(Duration::from_millis(10)));
        client.send("x");
    }
    assert!(started.elapsed() > Duration::from_millis(200));
    assert_eq!(client.response().body.len(), 40);
}

#[test]
fn a_client_that_leaves_while_the_endpoint_is_connected_to_is_noticed() {
    let hole = Blackhole::new();
    let keys = format!("{NUMB}, timeouts: {{connect: 60s, attempt: 60s, request: 120s}}");
    let gate = Gate::with("web", &[hole.addr()], &keys).start();
    let mut client = Client::connect(gate.addr());
    client.send(plain("GET", "/", ""));
    gate.wait_for_metric("seawall_gateway_endpoint_active_requests", &[], |active| active == 1.0);
    client.stream().shutdown(Shutdown::Both).expect("an open connection");
    assert!(client.is_closed_by_server());
    gate.wait_for_metric("seawall_gateway_endpoint_active_requests", &[], |active| active == 0.0);
}

#[test]
fn an_endpoint_that_reads_but_never_answers_holds_nothing_after_the_deadline() {
    let upstream = Manual::new();
    let keys = format!("{NUMB}, timeouts: {{attempt: 100ms}}, retry: {{attempts_max: 1}}");
    let gate = Gate::with("web", &[upstream.addr()], &keys).start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ""));
    assert_eq!(refusal(&client.response()), (504, "upstream_timeout"));
    assert!(seen.is_closed_by_server(), "an abandoned attempt is cancelled");
    assert!(!upstream.is_asked());
}
