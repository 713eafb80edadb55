//! Clients that mean no good, or are merely slow.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use testkit::tls::Trust;
use testkit::wait::PATIENCE;
use testkit::{Client, Seawall, Upstream};

use super::{SHOP, shop, tls};
use crate::gate::Gate;

const FAILED: &str = "seawall_gateway_tls_handshakes_failed_total";

fn wait_for_failures(seawall: &Seawall, reason: &str, count: f64) {
    let label = format!("reason=\"{reason}\"");
    seawall.wait_for_metric(FAILED, &[&label], |failures| failures == count);
    seawall.wait_for_metric("seawall_gateway_tls_handshakes_active", &[], |active| active == 0.0);
    seawall.wait_for_metric("seawall_gateway_connections_open", &[], |open| open == 0.0);
}

fn connect(addr: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(addr).expect("a connection");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    socket
}

/// The first message of a handshake.
fn hello(trust: &Trust) -> Vec<u8> {
    let name = SHOP.try_into().expect("a name");
    let mut session = rustls::ClientConnection::new(trust.config().clone(), name).expect("a session");
    let mut bytes = Vec::new();
    session.write_tls(&mut bytes).expect("memory");
    bytes
}

#[test]
fn a_slow_handshake_holds_nothing_for_longer_than_its_timeout() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let keys = tls(&[&issued], "handshake_timeout: 300ms");
    let seawall = Gate::to(&[upstream.addr()]).listener(&keys).start();
    let trust = Trust::of(&authority, None);
    let hello = hello(&trust);
    for sent in [0, 1, 5, hello.len() - 1, hello.len()] {
        let mut socket = connect(seawall.addr());
        socket.write_all(&hello[..sent]).expect("an open connection");
        let mut heard = Vec::new();
        // Closed from the other side, whatever it answered before.
        let _ = socket.read_to_end(&mut heard);
    }
    wait_for_failures(&seawall, "timeout", 5.0);
    let mut client = trust.connect(seawall.addr(), SHOP).expect("a session");
    assert_eq!(client.get("/").status, 200);
    seawall.stop();
}

#[test]
fn garbage_is_no_handshake() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let mut hello = hello(&Trust::of(&authority, None));
    let middle = hello.len() / 2;
    hello.truncate(middle);
    hello.extend([0xff; 600]);
    let garbage: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: test\r\n\r\n",
        &[0; 100],
        // SSL 2.
        &[0x80, 0x2e, 0x01, 0x00, 0x02, 0x00, 0x15, 0x00, 0x00, 0x00, 0x10],
        &[0x16, 0x03, 0x01, 0xff, 0xff, 0x01, 0x00, 0xff, 0xff],
        &hello,
    ];
    for bytes in garbage {
        let mut socket = connect(seawall.addr());
        socket.write_all(bytes).expect("an open connection");
        let mut heard = Vec::new();
        let _ = socket.read_to_end(&mut heard);
        assert!(heard.is_empty() || heard[0] == 0x15, "an alert or nothing, not {heard:?}");
    }
    wait_for_failures(&seawall, "malformed", garbage.len() as f64);
    seawall.stop();
}

#[test]
fn handshakes_under_way_are_bounded() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let keys = tls(&[&issued], "handshakes_max: 2, handshake_timeout: 5m");
    let seawall = Gate::to(&[upstream.addr()]).workers(2).listener(&keys).start();
    let trust = Trust::of(&authority, None);
    let mut settled = trust.connect(seawall.addr(), SHOP).expect("a session");
    let silent = [connect(seawall.addr()), connect(seawall.addr())];
    seawall.wait_for_metric("seawall_gateway_tls_handshakes_active", &[], |active| active == 2.0);
    assert_eq!(connect(seawall.addr()).read(&mut [0]).unwrap_or(0), 0, "closed at once");
    seawall.wait_for_metric(FAILED, &["reason=\"limit\""], |shed| shed == 1.0);
    assert_eq!(settled.get("/").status, 200, "whoever is in is served");
    drop(silent);
    seawall.wait_for_metric("seawall_gateway_tls_handshakes_active", &[], |active| active == 0.0);
    assert_eq!(trust.connect(seawall.addr(), SHOP).expect("a session").get("/").status, 200);
    seawall.stop();
}

#[test]
fn parts_of_a_record_do_not_keep_an_idle_connection() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let keys = format!("{}, timeouts: {{idle: 500ms}}", tls(&[&issued], ""));
    let seawall = Gate::to(&[upstream.addr()]).listener(&keys).start();
    let mut client = Trust::of(&authority, None).connect(seawall.addr(), SHOP).expect("a session");
    assert_eq!(client.get("/").status, 200);
    let mut socket = client.socket().try_clone().expect("a socket");
    // The head of a long record, then a byte at a time: a record that never ends.
    socket.write_all(&[0x17, 0x03, 0x03, 0x40, 0x00]).expect("an open connection");
    let open = |count: f64| {
        seawall.metric("seawall_gateway_connections_open", &[]).is_some_and(|open| open == count)
    };
    testkit::wait_until("the connection is closed", PATIENCE, || {
        let _ = socket.write_all(&[0]);
        open(0.0)
    });
    seawall.stop();
}

#[test]
fn a_broken_record_ends_the_connection_and_nothing_else() {
    let (authority, issued) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).listener(&tls(&[&issued], "")).start();
    let trust = Trust::of(&authority, None);
    let mut other = trust.connect(seawall.addr(), SHOP).expect("a session");
    let mut client = trust.connect(seawall.addr(), SHOP).expect("a session");
    assert_eq!(client.get("/").status, 200);
    let mut record = vec![0x17, 0x03, 0x03, 0x00, 0x20];
    record.extend([7; 0x20]);
    client.socket().try_clone().and_then(|mut socket| socket.write_all(&record)).expect("an open connection");
    client.some().expect_err("an alert");
    assert_eq!(other.get("/").status, 200);
    seawall.stop();
}

#[test]
fn a_plain_listener_takes_no_handshake_for_a_request() {
    let (authority, _) = shop();
    let upstream = Upstream::constant("here");
    let seawall = Gate::to(&[upstream.addr()]).start();
    let mut client = Client::connect(seawall.addr());
    client.send(hello(&Trust::of(&authority, None)));
    assert_eq!(client.try_response().map(|response| response.status).unwrap_or(400), 400);
    assert_eq!(upstream.request_count(), 0);
    seawall.stop();
}
