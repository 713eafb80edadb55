//! WebSocket and other protocols that begin as a request, with another implementation at both ends as the judge.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::{self, JoinHandle};

use testkit::sys::SIGTERM;
use testkit::wait::{PATIENCE, wait_for};
use testkit::{Client, Seawall, Upstream};
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::File;
use super::gate::{Gate, Manual, figure, plain, refusal, refused};

const ASKING: &str = "Connection: Upgrade\r\nUpgrade: chat\r\n";
const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n";

/// Messages of this size do not fit into any buffer on the way.
const LARGE: usize = 6 * 1024 * 1024;

/// An endpoint that repeats every message of one WebSocket until that is closed, and answers what it was closed with.
fn echo(upstream: &Manual) -> JoinHandle<Option<CloseFrame>> {
    let stream = upstream.accept().stream().try_clone().expect("a socket");
    thread::spawn(move || {
        let mut socket = tungstenite::accept(stream).expect("a handshake");
        loop {
            match socket.read() {
                Ok(Message::Close(frame)) => {
                    // The answer to it goes out with the next reads, until the client has closed.
                    while socket.read().is_ok() {}
                    return frame;
                }
                Ok(message @ (Message::Text(_) | Message::Binary(_))) => {
                    socket.send(message).expect("a client that listens");
                }
                Ok(_) => {}
                Err(error) => panic!("the endpoint hears {error}"),
            }
        }
    })
}

/// A WebSocket through `gate` to `upstream`, and the thread that plays the endpoint.
fn open(gate: &Seawall, upstream: &Manual) -> (WebSocket<TcpStream>, JoinHandle<Option<CloseFrame>>) {
    let stream = TcpStream::connect(gate.addr()).expect("a listener");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let opening =
        thread::spawn(move || tungstenite::client("ws://shop.example/chat", stream).expect("a handshake").0);
    let server = echo(upstream);
    (opening.join().expect("the client"), server)
}

#[test]
fn messages_of_every_kind_pass_unchanged() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut socket, server) = open(&gate, &upstream);
    for message in [
        Message::text("hällo"),
        Message::text(""),
        Message::binary(vec![0, 255, 1]),
        Message::binary((0..LARGE).map(|at| (at % 251) as u8).collect::<Vec<_>>()),
    ] {
        let copy = message.clone();
        // Both ways at once: the echo of a large one begins while it is still being sent.
        socket.send(message).expect("taken");
        assert!(socket.read().expect("an echo") == copy);
    }
    socket.send(Message::Ping(vec![1, 2, 3].into())).expect("taken");
    assert_eq!(socket.read().expect("a pong"), Message::Pong(vec![1, 2, 3].into()));
    let piece = |code: Data, last: bool, text: &str| {
        Message::Frame(Frame::message(text.as_bytes().to_vec(), OpCode::Data(code), last))
    };
    socket.send(piece(Data::Text, false, "one ")).expect("taken");
    socket.send(piece(Data::Continue, false, "two ")).expect("taken");
    socket.send(Message::Ping(vec![4].into())).expect("a ping between pieces");
    socket.send(piece(Data::Continue, true, "three")).expect("taken");
    assert_eq!(socket.read().expect("a pong"), Message::Pong(vec![4].into()));
    assert_eq!(socket.read().expect("an echo"), Message::text("one two three"));
    let goodbye = CloseFrame { code: CloseCode::Library(4321), reason: "done".into() };
    socket.close(Some(goodbye.clone())).expect("taken");
    assert_eq!(socket.read().expect("an answer"), Message::Close(Some(goodbye.clone())));
    while socket.read().is_ok() {}
    drop(socket);
    assert_eq!(server.join().expect("the endpoint"), Some(goodbye));
    gate.wait_for_metric("seawall_gateway_tunnels_open", &[], |open| open == 0.0);
}

#[test]
fn a_tunnel_is_active_at_its_endpoint_and_takes_no_place_of_a_request() {
    let upstream = Upstream::start(|request| match request.target {
        "/chat" => testkit::Reply::echo_tunnel("chat"),
        _ => testkit::Reply::ok("plain"),
    });
    let gate = Gate::with("web", &[upstream.addr()], "bulkhead: {active_max: 1}, tunnels_max: 2").start();
    let asking = plain("GET", "/chat", ASKING);
    let mut first = Client::connect(gate.addr());
    assert_eq!(first.request(&asking).status, 101);
    let mut second = Client::connect(gate.addr());
    assert_eq!(second.request(&asking).status, 101);
    assert_eq!(figure(&gate, "seawall_gateway_tunnels_open"), 2.0);
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_active_requests"), 2.0);
    // The endpoint and its breaker have heard of the answer already.
    assert_eq!(figure(&gate, "seawall_gateway_endpoint_requests_total"), 2.0);
    assert_eq!(figure(&gate, "seawall_gateway_bulkhead_active_requests"), 0.0);

    let mut third = Client::connect(gate.addr());
    assert_eq!(refusal(&third.request(&asking)), (503, "bulkhead_full"));
    assert_eq!(refused(&gate, "bulkhead_full"), 1.0);
    assert_eq!(third.get("/").text(), "plain");
    // An offer that is declined gives its place back.
    drop(second);
    gate.wait_for_metric("seawall_gateway_tunnels_open", &[], |open| open == 1.0);
    for _ in 0..3 {
        assert_eq!(third.request(plain("GET", "/", ASKING)).text(), "plain");
    }
    assert_eq!(third.request(&asking).status, 101);
    drop((first, third));
    gate.wait_for_metric("seawall_gateway_endpoint_active_requests", &[], |active| active == 0.0);
}

#[test]
fn a_switch_to_something_else_than_was_offered_is_refused() {
    let upstream = Manual::new();
    let gate = Gate::with("web", &[upstream.addr()], super::gate::NUMB).start();
    for answer in [
        SWITCHING.replace("chat", "other"),
        SWITCHING.replace("chat", "chat, other"),
        SWITCHING.replace("Upgrade: chat\r\n", ""),
        SWITCHING.replace("Connection: Upgrade\r\n", ""),
    ] {
        let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ASKING));
        seen.send(&answer);
        assert_eq!(refusal(&client.response()), (502, "upstream_malformed"), "{answer}");
        assert!(seen.is_closed_by_server());
    }
    let (mut client, mut seen) =
        upstream.exchange(&gate, plain("GET", "/", &ASKING.replace("chat", "Foo, CHAT")));
    seen.send(SWITCHING);
    assert_eq!(client.response().status, 101);
}

#[test]
fn trap_21_an_upgrade_with_a_body_is_refused() {
    let upstream = Upstream::constant("ok");
    let gate = Gate::to(&[upstream.addr()]).start();
    let request = format!("POST / HTTP/1.1\r\nHost: test\r\n{ASKING}Content-Length: 3\r\n\r\nabc");
    let mut client = Client::connect(gate.addr());
    assert_eq!(refusal(&client.request(request)), (400, "malformed"));
    assert!(client.is_closed_by_server());
    assert_eq!(upstream.request_count(), 0);
}

#[test]
fn trap_21_no_tunnel_of_http2_leads_past_the_routes() {
    let upstream = Upstream::constant("ok");
    let gate = Gate::to(&[upstream.addr()]).start();
    for offer in ["h2c", "H2C", "websocket, h2c", "h2"] {
        let lines = format!(
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {offer}\r\nHTTP2-Settings: AAMAAABk\r\n"
        );
        assert_eq!(Client::connect(gate.addr()).request(plain("GET", "/", &lines)).status, 200);
    }
    for seen in upstream.requests() {
        assert!(!seen.headers.has("upgrade") && !seen.headers.has("http2-settings"), "{seen:?}");
    }
}

#[test]
fn the_deadline_is_for_the_handshake_alone() {
    let upstream = Manual::new();
    let gate = Gate::with("web", &[upstream.addr()], "timeouts: {attempt: 2s, request: 2s, body: 1s}")
        .listener("timeouts: {idle: 1s, body: 1s, write: 1s}")
        .start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ASKING));
    seen.send(SWITCHING);
    assert_eq!(client.response().status, 101);
    assert!(client.is_quiet_for(std::time::Duration::from_secs(3)), "it stays open");
    seen.send("late");
    assert_eq!(client.exactly(4).expect("a message"), b"late");
}

#[test]
fn a_reset_on_one_side_is_one_on_the_other() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ASKING));
    seen.send(SWITCHING);
    assert_eq!(client.response().status, 101);
    seen.reset();
    assert_eq!(client.some().expect_err("no end").kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_drain_is_bounded_and_what_it_cuts_is_logged() {
    let upstream = Manual::new();
    let log = File::new("");
    let mut gate = Gate::to(&[upstream.addr()])
        .root(&format!(
            "drain: {{lame_duck: 0s, finish: 3s}}\naccess_log: {{to: {{file: '{}'}}}}",
            log.path()
        ))
        .start();
    let (mut client, mut seen) = upstream.exchange(&gate, plain("GET", "/chat", ASKING));
    seen.send(SWITCHING);
    assert_eq!(client.response().status, 101);
    gate.signal(SIGTERM);
    gate.wait_for_line("draining: finishing");
    client.send("three");
    assert_eq!(seen.exactly(5).expect("it goes on"), b"three");
    seen.send("seven!!");
    assert_eq!(client.exactly(7).expect("it goes on"), b"seven!!");
    assert!(client.is_closed_by_server());
    assert_eq!(gate.wait().code(), Some(0));
    let text = std::fs::read_to_string(log.path()).expect("a log");
    assert!(text.contains("\"status\":101"), "{text}");
    assert!(text.contains("\"request_bytes\":5,\"response_bytes\":7"), "{text}");
}

#[test]
fn a_tunnel_that_ends_is_logged_with_its_bytes() {
    let upstream = Manual::new();
    let log = File::new("");
    let gate =
        Gate::to(&[upstream.addr()]).root(&format!("access_log: {{to: {{file: '{}'}}}}", log.path())).start();
    let (mut socket, server) = open(&gate, &upstream);
    socket.send(Message::text("x".repeat(1000))).expect("taken");
    assert_eq!(socket.read().expect("an echo"), Message::text("x".repeat(1000)));
    assert!(std::fs::read_to_string(log.path()).expect("a log").is_empty(), "it has not ended");
    socket.close(None).expect("taken");
    while socket.read().is_ok() {}
    drop(socket);
    server.join().expect("the endpoint");
    let line = wait_for("the tunnel is logged", PATIENCE, || {
        std::fs::read_to_string(log.path()).ok().filter(|text| text.ends_with('\n'))
    });
    // Masked frames with lengths of two bytes: 8 + 1000 and 6 up, 4 + 1000 and 2 down.
    assert!(line.contains("\"request_bytes\":1014,\"response_bytes\":1006"), "{line}");
}

#[test]
fn who_does_not_read_holds_up_who_writes() {
    let upstream = Manual::new();
    let gate = Gate::to(&[upstream.addr()]).start();
    let (client, mut seen) = upstream.exchange(&gate, plain("GET", "/", ASKING));
    seen.send(SWITCHING);
    let mut client = client;
    assert_eq!(client.response().status, 101);
    let sent = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&sent);
    let writing = thread::spawn(move || {
        let config = WebSocketConfig::default().max_message_size(None);
        let stream = seen.stream().try_clone().expect("a socket");
        let mut socket = WebSocket::from_raw_socket(stream, Role::Server, Some(config));
        for _ in 0..64 {
            socket.send(Message::binary(vec![7; 512 * 1024])).expect("taken in the end");
            count.fetch_add(1, Relaxed);
        }
    });
    let mut before = 0;
    testkit::wait_until("the writer is held up", PATIENCE, || {
        let held = figure(&gate, "seawall_gateway_buffer_bytes");
        assert!(held <= 512.0 * 1024.0, "{held} bytes are held");
        let now = sent.load(Relaxed);
        std::mem::replace(&mut before, now) == now && now > 0
    });
    for _ in 0..64 {
        assert_eq!(client.exactly(512 * 1024 + 10).expect("a message").len(), 512 * 1024 + 10);
    }
    writing.join().expect("the writer");
}
