//! How the process leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use testkit::sys::{SIGCONT, SIGHUP, SIGINT, SIGKILL, SIGSTOP, SIGTERM};
use testkit::wait::PATIENCE;
use testkit::{Client, Gate, Reply, Seawall, Upstream, get, request, wait_until};

use super::{SEAWALL, config};

fn with_drain(upstream: &Upstream, drain: &str) -> Seawall {
    let text = config(&[upstream.addr()], "");
    Seawall::start(SEAWALL, &text.replace("{lame_duck: 0s, finish: 5s}", drain))
}

fn health(seawall: &Seawall) -> testkit::client::Response {
    request(seawall.admin(), "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[test]
fn a_lame_duck_says_so_and_still_serves_then_finishes_what_is_under_way_and_ends_well() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |request| match request.target {
        "/late" => Reply::ok("late").hold(&held),
        _ => Reply::ok("here"),
    });
    let mut seawall = with_drain(&upstream, "{lame_duck: 2s, finish: 60s}");
    let mut kept = Client::connect(seawall.addr());
    let before = kept.get("/");
    assert!(!before.headers.has("seawall-lame-duck") && !before.headers.has("connection"), "{before:?}");
    let mut idle = Client::connect(seawall.addr());
    assert_eq!(idle.get("/").status, 200);
    assert_eq!(health(&seawall).status, 200);

    seawall.signal(SIGTERM);
    seawall.wait_for_line("draining: lame duck");
    let healthz = health(&seawall);
    assert_eq!((healthz.status, healthz.header("seawall-lame-duck")), (503, Some("1")));
    for addr in [seawall.addr()] {
        let mut newcomer = Client::connect(addr);
        // Also what the gateway answers itself.
        for (answer, status) in [(newcomer.get("/"), 200), (request(addr, "GET / HTTP/1.1\r\n\r\n"), 400)] {
            assert_eq!(answer.status, status);
            assert!(answer.headers.lists("connection", "close"), "{answer:?}");
            assert_eq!(answer.header("seawall-lame-duck"), Some("1"), "{answer:?}");
        }
        assert!(newcomer.is_closed_by_server());
    }
    let last = kept.get("/");
    assert!(last.headers.lists("connection", "close") && last.header("seawall-lame-duck") == Some("1"));
    assert!(kept.is_closed_by_server());
    let mut late = Client::connect(seawall.addr());
    late.send("GET /late HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    upstream.wait_for_requests(4);

    seawall.wait_for_line("draining: finishing");
    assert!(idle.is_closed_by_server(), "an idle connection has nothing to finish");
    wait_until("nobody listens", PATIENCE, || Client::try_connect(seawall.addr()).is_err());
    gate.open();
    let answer = late.response();
    assert_eq!((answer.text().as_str(), answer.headers.lists("connection", "close")), ("late", true));
    assert_eq!(seawall.wait().code(), Some(0));
}

#[test]
fn finishing_is_bounded() {
    let upstream = Upstream::start(|_| Reply::hang());
    let mut seawall = with_drain(&upstream, "{lame_duck: 0s, finish: 200ms}");
    let mut client = Client::connect(seawall.addr());
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    upstream.wait_for_requests(1);
    seawall.signal(SIGTERM);
    assert_eq!(seawall.wait().code(), Some(0));
    assert!(client.is_closed_by_server());
    seawall.wait_for_line("did not finish in time");
}

#[test]
fn a_second_signal_stops_at_once_whichever_it_is() {
    for (first, second) in [(SIGTERM, SIGTERM), (SIGINT, SIGINT), (SIGTERM, SIGINT)] {
        let upstream = Upstream::start(|_| Reply::hang());
        // Far longer than anybody waits for this test.
        let mut seawall = with_drain(&upstream, "{lame_duck: 300s, finish: 300s}");
        let mut client = Client::connect(seawall.addr());
        client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        upstream.wait_for_requests(1);
        seawall.signal(first);
        seawall.wait_for_line("draining: lame duck");
        seawall.signal(second);
        assert_eq!(seawall.wait().code(), Some(0));
        assert!(client.is_closed_by_server());
    }
}

#[test]
fn ctrl_c_drains_as_well() {
    let upstream = Upstream::constant("here");
    let mut seawall = with_drain(&upstream, "{lame_duck: 0s, finish: 5s}");
    assert_eq!(get(seawall.addr(), "/").status, 200);
    seawall.signal(SIGINT);
    assert_eq!(seawall.wait().code(), Some(0));
}

/// A client that keeps its connection until it is told `connection: close`, and that goes elsewhere when nobody listens.
fn polite_client(seawall: &Seawall, done: Arc<AtomicBool>) -> thread::JoinHandle<Result<u32, String>> {
    let addr = seawall.addr();
    thread::spawn(move || {
        let mut answered = 0;
        let mut connection = None;
        while !done.load(Relaxed) {
            let mut client = match connection.take() {
                Some(client) => client,
                None => match Client::try_connect(addr) {
                    Ok(client) => client,
                    Err(_) => return Ok(answered),
                },
            };
            let answer = client
                .try_request("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n")
                .map_err(|error| format!("after {answered} answers: {error}"))?;
            if answer.status != 200 {
                return Err(format!("answered {}", answer.status));
            }
            answered += 1;
            if !answer.headers.lists("connection", "close") {
                connection = Some(client);
            }
        }
        Ok(answered)
    })
}

#[test]
fn a_drain_under_load_costs_clients_that_honour_connection_close_no_request() {
    let upstream = Upstream::start(|_| Reply::ok("here").delay(Duration::from_millis(5)));
    let mut seawall = with_drain(&upstream, "{lame_duck: 1s, finish: 10s}");
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..16).map(|_| polite_client(&seawall, Arc::clone(&done))).collect();
    upstream.wait_for_requests(200);
    seawall.signal(SIGTERM);
    seawall.wait_for_line("draining: lame duck");
    let so_far = upstream.request_count();
    upstream.wait_for_requests(so_far + 100);
    // As somebody who was told often enough to go elsewhere: a connection that comes in the very moment in which the socket
    // is closed is reset by the kernel, and nothing can be done about that.
    done.store(true, Relaxed);
    for client in clients {
        let answered = client.join().expect("no panic").expect("every request is answered");
        assert!(answered > 0);
    }
    assert_eq!(seawall.wait().code(), Some(0));
}

#[test]
fn those_who_knocked_before_the_door_was_closed_are_served() {
    let upstream = Upstream::constant("here");
    let mut seawall = with_drain(&upstream, "{lame_duck: 0s, finish: 10s}");
    // Frozen, it accepts nobody; the kernel does.
    seawall.signal(SIGSTOP);
    let mut clients: Vec<Client> = (0..64).map(|_| Client::connect(seawall.addr())).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    }
    seawall.signal(SIGTERM);
    seawall.signal(SIGCONT);
    for client in &mut clients {
        let answer = client.response();
        assert!(answer.status == 200 && answer.headers.lists("connection", "close"), "{answer:?}");
    }
    assert_eq!(seawall.wait().code(), Some(0));
}

#[test]
fn a_process_that_leaves_opens_no_new_door() {
    let upstream = Upstream::constant("here");
    let mut seawall = with_drain(&upstream, "{lame_duck: 300s, finish: 300s}");
    seawall.signal(SIGTERM);
    seawall.wait_for_line("draining: lame duck");
    let more = super::own_addr();
    let listeners = format!("[{{address: '127.0.0.1:0'}}, {{address: '{more}'}}]");
    seawall.rewrite(&config(&[upstream.addr()], "").replace("[{address: '127.0.0.1:0'}]", &listeners));
    seawall.signal(SIGHUP);
    seawall.wait_for_line("not reloaded");
    assert!(Client::try_connect(more).is_err());
    assert_eq!(get(seawall.addr(), "/").status, 200);
    seawall.signal(SIGTERM);
    assert_eq!(seawall.wait().code(), Some(0));
}

#[test]
fn a_process_that_was_killed_leaves_nothing_that_keeps_the_next_from_starting() {
    let upstream = Upstream::constant("here");
    let (listen, admin) = (super::own_addr(), super::own_addr());
    let text = config(&[upstream.addr()], "")
        .replace("listeners: [{address: '127.0.0.1:0'}]", &format!("listeners: [{{address: '{listen}'}}]"))
        .replace("admin: {address: '127.0.0.1:0'}", &format!("admin: {{address: '{admin}'}}"));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut seawall = Seawall::start(SEAWALL, &text);
        let mut client = Client::connect(seawall.addr());
        assert_eq!(client.get("/").status, 200);
        clients.push(client);
        seawall.signal(SIGKILL);
        assert!(!seawall.wait().success());
    }
    Seawall::start(SEAWALL, &text).stop();
}
