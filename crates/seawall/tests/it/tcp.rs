//! Connections that are passed on as they are: relay, choice of endpoint, server names, PROXY headers, drain.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

use testkit::sys::SIGTERM;
use testkit::wait::{PATIENCE, wait_for};
use testkit::{Client, Seawall, Upstream, free_port, wait_until};

use super::File;
use super::gate::{Gate, Manual, NUMB, RICH, figure, plain};

const ENDED: &str = "seawall_gateway_tcp_connections_total";
const BYTES: &str = "seawall_gateway_tcp_bytes_total";
const PROXY_REFUSED: &str = "seawall_gateway_proxy_protocol_refused_total";

/// A gateway that passes connections on to the service `web` with these endpoints and keys.
fn passing(endpoints: &[SocketAddr], keys: &str) -> Gate {
    Gate::with("web", endpoints, keys).listener("tcp: {service: web}")
}

fn wait_for_ended(gate: &Seawall, outcome: &str, count: f64) {
    gate.wait_for_metric(ENDED, &[&format!("outcome=\"{outcome}\"")], |seen| seen == count);
}

/// An endpoint that says `greeting` to everybody and then repeats what it hears, until nobody says anything more.
fn echo(greeting: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            thread::spawn(move || {
                let mut heard = [0; 16 * 1024];
                let mut alive = stream.write_all(greeting.as_bytes()).is_ok();
                while alive {
                    let count = stream.read(&mut heard).unwrap_or(0);
                    alive = count > 0 && stream.write_all(&heard[..count]).is_ok();
                }
            });
        }
    });
    address
}

/// A client that was greeted with `greeting`.
fn greeted(address: SocketAddr, greeting: &str) -> Client {
    let mut client = Client::connect(address);
    assert_eq!(client.exactly(greeting.len()).expect("a greeting"), greeting.as_bytes());
    client
}

/// Whether a new connection is closed without a word; it may be before it is quite there.
fn is_turned_away(address: SocketAddr) -> bool {
    Client::try_connect(address).map_or(true, |mut client| client.is_closed_by_server())
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 % 251) as u8).collect()
}

#[test]
fn bytes_go_both_ways_whoever_speaks_first_and_half_closes() {
    let upstream = Manual::new();
    let log = File::new("");
    let gate = passing(&[upstream.addr()], "")
        .root(&format!("access_log: {{to: {{file: '{}'}}}}", log.path()))
        .start();
    let mut client = Client::connect(gate.addr());
    let mut server = upstream.accept();
    server.send("220 ready\r\n");
    assert_eq!(client.exactly(11).expect("the greeting"), b"220 ready\r\n");
    client.send("HELO\r\n");
    assert_eq!(server.exactly(6).expect("the answer"), b"HELO\r\n");
    client.finish_sending();
    assert!(server.is_closed_by_server(), "the end arrives");
    server.send("221 bye");
    assert_eq!(client.exactly(7).expect("the other half is open"), b"221 bye");
    server.finish_sending();
    assert!(client.is_closed_by_server());
    wait_for_ended(&gate, "closed", 1.0);
    assert_eq!(gate.metric(BYTES, &["direction=\"up\""]), Some(6.0));
    assert_eq!(gate.metric(BYTES, &["direction=\"down\""]), Some(18.0));
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_active_requests"), 0.0);
    let line = wait_for("the connection is logged", PATIENCE, || {
        std::fs::read_to_string(log.path()).ok().filter(|text| text.ends_with('\n'))
    });
    for part in
        ["\"service\":\"web\"", "\"request_bytes\":6,\"response_bytes\":18", "\"outcome\":\"success\""]
    {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[test]
fn much_goes_both_ways_at_once_and_whoever_does_not_read_holds_up_who_writes() {
    let address = echo("");
    let gate = passing(&[address], "").start();
    let client = Client::connect(gate.addr());
    let mut writer = client.stream().try_clone().expect("a socket");
    let (sent, total) = (Arc::new(AtomicUsize::new(0)), 48 * 1024 * 1024);
    let count = Arc::clone(&sent);
    let data = pattern(64 * 1024);
    let piece = data.clone();
    let writing = thread::spawn(move || {
        for _ in 0..total / piece.len() {
            writer.write_all(&piece).expect("taken in the end");
            count.fetch_add(piece.len(), Relaxed);
        }
        writer.shutdown(std::net::Shutdown::Write).expect("an open connection");
    });
    // Nobody reads what comes back: in the end nothing more is taken from the writer, and little is held here.
    let mut before = usize::MAX;
    wait_until("the writer is held up", PATIENCE, || {
        let now = sent.load(Relaxed);
        let held = figure(&gate, "seawall_gateway_buffer_bytes");
        assert!(held <= 512.0 * 1024.0, "{held} bytes are held");
        std::mem::replace(&mut before, now) == now && now > 0
    });
    let mut client = client;
    for _ in 0..total / data.len() {
        assert!(client.exactly(data.len()).expect("an echo") == data);
    }
    writing.join().expect("the writer");
    assert!(client.is_closed_by_server());
}

#[test]
fn an_endpoint_that_does_not_accept_is_passed_over_and_ejected() {
    let address = echo("hi");
    let keys = format!(
        "balance: round_robin, retry_budget: {RICH}, endpoint_breaker: {{enabled: false}}, ejection: {{consecutive_failures: 3}}"
    );
    let gate = passing(&[free_port(), address], &keys).root(&format!("retry_budget: {RICH}")).start();
    wait_until("the dead one is ejected", PATIENCE, || {
        drop(greeted(gate.addr(), "hi"));
        gate.metric("seawall_gateway_endpoint_unavailable", &["reason=\"ejected\""]) == Some(1.0)
    });
    assert_eq!(gate.metric(ENDED, &["outcome=\"failed\""]), Some(0.0));
}

#[test]
fn an_endpoint_that_accepts_and_hangs_up_has_failed() {
    let upstream = Manual::new();
    let keys = "endpoint_breaker: {enabled: false}";
    let gate = passing(&[upstream.addr()], keys).start();
    for count in 1..=3 {
        let mut client = Client::connect(gate.addr());
        upstream.accept().reset();
        assert!(client.is_closed_by_server());
        gate.wait_for_metric("seawall_gateway_endpoint_failures_total", &[], |seen| seen == f64::from(count));
    }
}

#[test]
fn a_client_that_comes_and_goes_says_nothing_against_the_endpoint() {
    let address = echo("");
    let gate = passing(&[address], "").start();
    for count in 1..=3 {
        let mut client = Client::connect(gate.addr());
        client.finish_sending();
        assert!(client.is_closed_by_server());
        wait_for_ended(&gate, "closed", f64::from(count));
    }
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_failures_total"), 0.0);
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_requests_total"), 3.0);
}

#[test]
fn what_an_endpoint_has_taken_is_known_before_the_connection_ends() {
    let address = echo("hi");
    let gate = passing(&[address], "").start();
    let _client = greeted(gate.addr(), "hi");
    gate.wait_for_metric("seawall_gateway_endpoint_requests_total", &[], |count| count == 1.0);
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_active_requests"), 1.0);
}

#[test]
fn without_an_endpoint_the_client_is_reset() {
    let gate = passing(&[free_port()], NUMB).start();
    assert!(is_turned_away(gate.addr()));
    wait_for_ended(&gate, "failed", 1.0);
}

#[test]
fn what_is_broken_off_on_one_side_is_broken_off_on_the_other() {
    let upstream = Manual::new();
    let gate = passing(&[upstream.addr()], "").start();
    let mut client = Client::connect(gate.addr());
    let mut server = upstream.accept();
    client.send("half of");
    assert_eq!(server.exactly(7).expect("passed on"), b"half of");
    client.reset();
    let error = server.some().expect_err("no whole message");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    wait_for_ended(&gate, "client_gone", 1.0);

    let mut client = Client::connect(gate.addr());
    let mut server = upstream.accept();
    server.send("half of");
    assert_eq!(client.exactly(7).expect("passed on"), b"half of");
    server.reset();
    let error = client.some().expect_err("no whole answer");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    wait_for_ended(&gate, "upstream_gone", 1.0);
}

#[test]
fn trap_16_the_connections_of_all_workers_share_one_bulkhead() {
    let address = echo("hi");
    let keys = "bulkhead: {active_max: 3}";
    let gate = passing(&[address], keys).workers(2).start();
    let inside: Vec<_> = (0..3).map(|_| greeted(gate.addr(), "hi")).collect();
    for count in 1..=6 {
        assert!(is_turned_away(gate.addr()));
        wait_for_ended(&gate, "refused", f64::from(count));
    }
    drop(inside);
    wait_for_ended(&gate, "closed", 3.0);
    drop(greeted(gate.addr(), "hi"));
}

#[test]
fn whoever_may_wait_for_a_place_gets_it() {
    let address = echo("hi");
    let gate = passing(&[address], "bulkhead: {active_max: 1, waiting_max: 1, wait_max: 60s}").start();
    let first = greeted(gate.addr(), "hi");
    let mut second = Client::connect(gate.addr());
    gate.wait_for_metric("seawall_gateway_bulkhead_waiting_requests", &[], |waiting| waiting == 1.0);
    drop(first);
    assert_eq!(second.exactly(2).expect("a greeting"), b"hi");
}

#[test]
fn a_silent_connection_is_closed() {
    let address = echo("");
    let gate = passing(&[address], "timeouts: {tunnel: 100ms}").start();
    assert!(Client::connect(gate.addr()).is_closed_by_server());
    wait_for_ended(&gate, "idle", 1.0);
}

#[test]
fn a_client_keeps_its_endpoint_where_addresses_are_hashed() {
    let addresses = [echo("a"), echo("b"), echo("c")];
    let gate = passing(&addresses, "balance: {maglev: {key: client_address}}").start();
    let first = Client::connect(gate.addr()).exactly(1).expect("a greeting");
    for _ in 0..8 {
        assert_eq!(Client::connect(gate.addr()).exactly(1).expect("a greeting"), first);
    }
}

#[test]
fn checks_find_an_endpoint_that_does_not_accept() {
    let address = echo("hi");
    let keys = format!(
        "health: {{interval: 50ms, unhealthy_after: 2}}, panic_below: 0.1, {NUMB}, retry: {{attempts_max: 1}}"
    );
    let gate = passing(&[free_port(), address], &keys).start();
    gate.wait_for_metric("seawall_gateway_endpoint_unavailable", &["reason=\"unhealthy\""], |is| is == 1.0);
    for _ in 0..8 {
        drop(greeted(gate.addr(), "hi"));
    }
}

// --- server names ---

/// A TLS ClientHello that asks for `name`, in one record.
fn hello(name: Option<&str>) -> Vec<u8> {
    fn vector(width: usize, content: &[u8]) -> Vec<u8> {
        [&content.len().to_be_bytes()[8 - width..], content].concat()
    }
    let mut extensions = [&[0, 0x2b][..], &vector(2, &[2, 3, 4])].concat();
    if let Some(name) = name {
        let list = vector(2, &[&[0][..], &vector(2, name.as_bytes())].concat());
        extensions.extend([&[0, 0][..], &vector(2, &list)].concat());
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend(vector(1, &[]));
    body.extend(vector(2, &[0x13, 1]));
    body.extend(vector(1, &[0]));
    body.extend(vector(2, &extensions));
    let message = [&[1][..], &vector(3, &body)].concat();
    [&[22, 3, 1][..], &vector(2, &message)].concat()
}

fn by_name(a: SocketAddr, b: SocketAddr, more: &str) -> Gate {
    Gate::with("a", &[a], "")
        .service("b", &[b], "")
        .listener(&format!("tcp: {{sni: {{'a.example': a, '*.b.example': b}}{more}}}"))
}

#[test]
fn connections_go_where_the_client_wants_and_its_hello_arrives_as_it_was() {
    let (a, b) = (Manual::new(), Manual::new());
    let gate = by_name(a.addr(), b.addr(), "").start();
    for (name, endpoint) in [("a.example", &a), ("A.Example", &a), ("x.y.b.example", &b)] {
        let mut client = Client::connect(gate.addr());
        let hello = hello(Some(name));
        // In pieces, as a slow network brings it.
        for piece in hello.chunks(19) {
            client.send(piece);
        }
        let mut server = endpoint.accept();
        assert_eq!(server.exactly(hello.len()).expect("the hello"), hello);
        server.send("server hello");
        assert_eq!(client.exactly(12).expect("the answer"), b"server hello");
    }
}

#[test]
fn names_that_lead_nowhere_are_refused_in_tls_words_and_other_things_without_a_word() {
    let (a, b) = (Manual::new(), Manual::new());
    let gate = by_name(a.addr(), b.addr(), "").start();
    for name in [Some("b.example"), Some("other.example"), None] {
        let mut client = Client::connect(gate.addr());
        client.send(hello(name));
        assert_eq!(client.exactly(7).expect("an alert"), [21, 3, 3, 0, 2, 2, 112]);
        assert!(client.is_closed_by_server());
    }
    for other in [&b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"[..], &[22, 3, 1, 0, 4, 2, 0, 0, 0]] {
        let mut client = Client::connect(gate.addr());
        client.send(other);
        assert!(client.is_closed_by_server());
    }
    wait_for_ended(&gate, "refused", 5.0);
    assert!(!a.is_asked() && !b.is_asked());
}

#[test]
fn the_default_gets_what_names_nobody_and_a_slow_hello_is_not_waited_for() {
    let (a, b) = (Manual::new(), Manual::new());
    let gate = Gate::with("a", &[a.addr()], "")
        .service("b", &[b.addr()], "")
        .listener("tcp: {sni: {'a.example': a}, default: b}, timeouts: {head: 2s}")
        .start();
    let mut client = Client::connect(gate.addr());
    client.send(hello(None));
    let length = hello(None).len();
    assert_eq!(b.accept().exactly(length).expect("the hello").len(), length);
    let mut slow = Client::connect(gate.addr());
    slow.send(&hello(Some("a.example"))[..20]);
    assert!(slow.is_closed_by_server());
    assert!(!a.is_asked());
}

// --- PROXY protocol ---

const V1: &str = "PROXY TCP4 192.0.2.7 192.0.2.1 5000 443\r\n";

/// The same in version 2, with an extension.
fn v2() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10".to_vec();
    header.extend([192, 0, 2, 7, 192, 0, 2, 1]);
    header.extend([5000_u16.to_be_bytes(), 443_u16.to_be_bytes()].concat());
    header.extend([4, 0, 1, 9]);
    header
}

#[test]
fn a_request_is_from_whom_a_trusted_proxy_says() {
    let upstream = Upstream::constant("ok");
    let listener = "proxy_protocol: required, trusted: [127.0.0.0/8]";
    let gate = Gate::to(&[upstream.addr()]).listener(listener).start();
    for header in [V1.as_bytes().to_vec(), v2()] {
        let mut client = Client::connect(gate.addr());
        // Its bytes may come one by one, and a request right behind them.
        let (first, rest) = header.split_at(9);
        client.send(first);
        client.send([rest, plain("GET", "/", "X-Forwarded-For: 203.0.113.9\r\n").as_bytes()].concat());
        assert_eq!(client.response().status, 200);
        assert_eq!(client.get("/").status, 200);
    }
    // Who is said is not trusted itself: its own claims go.
    for seen in upstream.requests() {
        assert_eq!(seen.headers.get("x-forwarded-for"), Some("192.0.2.7"), "{seen:?}");
    }
    for wrong in ["GET / HTTP/1.1\r\nHost: test\r\n\r\n", "PROXY TCP4 192.0.2.7\r\n"] {
        let mut client = Client::connect(gate.addr());
        client.send(wrong);
        assert!(client.is_closed_by_server());
    }
    gate.wait_for_metric(PROXY_REFUSED, &["reason=\"missing\""], |count| count == 1.0);
    gate.wait_for_metric(PROXY_REFUSED, &["reason=\"malformed\""], |count| count == 1.0);
    assert_eq!(upstream.request_count(), 4);
}

#[test]
fn nobody_else_may_say_whose_connection_it_is() {
    let upstream = Upstream::constant("ok");
    let required = "proxy_protocol: required, trusted: [192.0.2.0/24]";
    let gate = Gate::to(&[upstream.addr()]).listener(required).start();
    assert!(is_turned_away(gate.addr()));
    gate.wait_for_metric(PROXY_REFUSED, &["reason=\"untrusted\""], |count| count == 1.0);

    let gate = Gate::to(&[upstream.addr()]).listener(&required.replace("required", "optional")).start();
    assert_eq!(Client::connect(gate.addr()).get("/").status, 200);
    let mut client = Client::connect(gate.addr());
    client.send(format!("{V1}{}", plain("GET", "/", "")));
    assert_eq!(client.response().status, 400, "it is no request");
    assert_eq!(upstream.request_count(), 1);
}

#[test]
fn a_header_may_be_optional_and_is_not_waited_for_without_end() {
    let upstream = Upstream::constant("ok");
    let gate = Gate::to(&[upstream.addr()])
        .listener("proxy_protocol: optional, trusted: [127.0.0.1], timeouts: {head: 2s}")
        .start();
    assert_eq!(Client::connect(gate.addr()).get("/").status, 200);
    let mut client = Client::connect(gate.addr());
    client.send(V1);
    assert_eq!(client.get("/").status, 200);
    let mut slow = Client::connect(gate.addr());
    slow.send("PROXY TCP4");
    assert!(slow.is_closed_by_server());
    gate.wait_for_metric(PROXY_REFUSED, &["reason=\"timeout\""], |count| count == 1.0);
    let seen: Vec<_> = upstream.requests();
    assert_eq!(seen[0].headers.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen[1].headers.get("x-forwarded-for"), Some("192.0.2.7"));
}

#[test]
fn endpoints_are_told_whose_connection_they_get() {
    for version in ["v1", "v2"] {
        let upstream = Manual::new();
        let gate = passing(&[upstream.addr()], &format!("proxy_protocol: {version}")).start();
        let mut client = Client::connect(gate.addr());
        client.send("hello");
        let mut server = upstream.accept();
        let (from, to) = (client.local_addr(), gate.addr());
        let expected = match version {
            "v1" => {
                format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\nhello", from.port(), to.port()).into_bytes()
            }
            _ => {
                let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01".to_vec();
                header.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
                [&header[..], b"hello"].concat()
            }
        };
        assert_eq!(server.exactly(expected.len()).expect("header and data"), expected);
    }
}

#[test]
fn what_a_proxy_said_is_passed_on_without_its_extensions() {
    let upstream = Manual::new();
    let gate = Gate::with("web", &[upstream.addr()], "proxy_protocol: v1")
        .listener("tcp: {service: web}, proxy_protocol: required, trusted: [127.0.0.1]")
        .start();
    let mut client = Client::connect(gate.addr());
    client.send([&v2()[..], b"data"].concat());
    let expected = [V1.as_bytes(), b"data"].concat();
    assert_eq!(upstream.accept().exactly(expected.len()).expect("header and data"), expected);
}

// --- drain ---

#[test]
fn a_connection_outlives_a_drain_for_as_long_as_it_may_and_is_logged() {
    let address = echo("hi");
    let log = File::new("");
    let mut gate = passing(&[address], "")
        .root(&format!(
            "drain: {{lame_duck: 0s, finish: 3s}}\naccess_log: {{to: {{file: '{}'}}}}",
            log.path()
        ))
        .start();
    let mut client = greeted(gate.addr(), "hi");
    gate.signal(SIGTERM);
    gate.wait_for_line("draining: finishing");
    client.send("still");
    assert_eq!(client.exactly(5).expect("it goes on"), b"still");
    assert!(client.is_closed_by_server());
    assert_eq!(gate.wait().code(), Some(0));
    let text = std::fs::read_to_string(log.path()).expect("a log");
    assert!(text.contains("\"request_bytes\":5,\"response_bytes\":7"), "{text}");
}

#[test]
fn a_drain_waits_for_connections_that_end_and_no_longer() {
    let address = echo("hi");
    let mut gate = passing(&[address], "").root("drain: {lame_duck: 0s, finish: 600s}").start();
    let mut client = greeted(gate.addr(), "hi");
    gate.signal(SIGTERM);
    gate.wait_for_line("draining: finishing");
    client.finish_sending();
    assert!(client.is_closed_by_server());
    assert_eq!(gate.wait().code(), Some(0));
}

#[test]
fn a_removed_listener_lets_its_connections_go_on_for_a_while() {
    let address = echo("hi");
    let other = free_port();
    let keys = "drain: {lame_duck: 0s, finish: 3s}";
    let text = |listeners: &str| {
        format!(
            "listeners: [{listeners}]\nadmin: {{address: '127.0.0.1:0'}}\nworkers: 1\n{keys}\nservices: {{web: {{endpoints: ['{address}']}}}}\n"
        )
    };
    let kept = "{address: '127.0.0.1:0', tcp: {service: web}}";
    let removed = format!("{{address: '{other}', tcp: {{service: web}}}}");
    let gate = Seawall::start(env!("CARGO_BIN_EXE_seawall"), &text(&format!("{kept}, {removed}")));
    let mut here = greeted(gate.addr(), "hi");
    let mut gone = greeted(other, "hi");
    gate.reload(&text(kept));
    wait_until("nobody listens", PATIENCE, || Client::try_connect(other).is_err());
    gone.send("still");
    assert_eq!(gone.exactly(5).expect("it goes on"), b"still");
    assert!(gone.is_closed_by_server());
    here.send("here");
    assert_eq!(here.exactly(4).expect("not touched"), b"here");
}

// --- commands ---

#[test]
fn explain_says_where_a_connection_goes() {
    let file = File::new(
        "listeners:\n  - {address: '127.0.0.1:443', tcp: {sni: {a.example: a, '*.b.example': b}, default: rest}}\n\
         services: {a: {endpoints: ['10.0.0.1:1']}, b: {endpoints: ['10.0.0.2:1']}, rest: {endpoints: ['10.0.0.3:1']}}\n",
    );
    for (url, service) in
        [("tcp://a.example:443", "a"), ("tcp://x.b.example:443", "b"), ("tcp://c.example:443", "rest")]
    {
        let output = super::run(&["explain", file.path(), "CONNECT", url]);
        let text = super::text(&output.stdout);
        assert!(output.status.success(), "{}", super::text(&output.stderr));
        assert!(text.contains(&format!("service      {service}: ")), "{text}");
    }
    let output = super::run(&["explain", file.path(), "CONNECT", "tcp://a.example:444"]);
    assert!(!output.status.success());
}

#[test]
fn a_configuration_that_makes_no_sense_is_refused_with_a_remedy() {
    let service = "endpoints: ['10.0.0.1:1']";
    for (listener, service, expected) in [
        ("tcp: {}", service, "it is not said where connections go"),
        ("tcp: {service: web, default: web}", service, "`service` gets every connection already"),
        ("tcp: {service: web, sni: {a.example: web}}", service, "both say where connections go"),
        ("tcp: {service: wbe}", service, "did you mean `web`?"),
        ("tcp: {sni: {A.example: web}}", service, "no name of a server"),
        ("tcp: {service: web}, role: batch", service, "batch listeners are for requests"),
        ("tcp: {service: web}, proxy_protocol: required", service, "nobody is trusted"),
        ("tcp: {service: web}", "endpoints: ['10.0.0.1:1'], balance: {prequal: {}}", "needs answers"),
        ("tcp: {service: web}", "endpoints: ['10.0.0.1:1'], balance: {maglev: {key: path}}", "no such key"),
        ("tcp: {service: web}", "endpoints: ['10.0.0.1:1'], sticky: {cookie: c}", "have no cookies"),
        ("name: http", "endpoints: ['10.0.0.1:1'], proxy_protocol: v2", "requests of many clients"),
        (
            "tcp: {service: web}",
            "endpoints: ['10.0.0.1:1'], proxy_protocol: v2, health: {path: /}",
            "do not begin with a PROXY header",
        ),
    ] {
        let file = File::new(&format!(
            "listeners: [{{address: '127.0.0.1:1', {listener}}}]\nservices: {{web: {{{service}}}}}\n"
        ));
        let output = super::run(&["check", file.path()]);
        let said = super::text(&output.stdout) + &super::text(&output.stderr);
        assert!(!output.status.success(), "{listener} {service}");
        assert!(said.contains(expected), "{expected} in {said}");
    }
    let file = File::new(
        "listeners: [{address: '127.0.0.1:1', tcp: {sni: {a.example: a}, default: b}}]\n\
         services: {a: {endpoints: ['10.0.0.1:1']}, b: {endpoints: ['10.0.0.1:1'], proxy_protocol: v2}}\n",
    );
    let output = super::run(&["check", file.path()]);
    let said = super::text(&output.stdout) + &super::text(&output.stderr);
    assert!(output.status.success() && !said.contains("no route"), "{said}");
}
