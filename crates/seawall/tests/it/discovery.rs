//! Endpoints that are found at run time: by DNS and from files.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use testkit::wait::{PATIENCE, wait_until};
use testkit::{Client, Gate as Door, TempDir, Upstream, get};

use crate::gate::{Gate, refusal};

/// A name server on loopback that knows one address, which it tells once a door is open; without one it knows nothing.
struct NameServer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    fn start(ip: Option<Ipv4Addr>, door: &Door) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        let address = socket.local_addr().expect("an address");
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, door) = (Arc::clone(&asked), door.clone());
        // Ends with the test's process.
        thread::spawn(move || {
            let mut question = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut question) {
                count.fetch_add(1, Relaxed);
                door.wait();
                let _ = socket.send_to(&answer(&question[..length], ip), from);
            }
        });
        Self { address, asked }
    }
}

/// The answer to a question (RFC 1035, 4.1): what was asked, and the address if it was asked for.
fn answer(question: &[u8], ip: Option<Ipv4Addr>) -> Vec<u8> {
    const HEADER: usize = 12;
    let name = question[HEADER..].iter().position(|byte| *byte == 0).expect("a name ends");
    let asked = &question[HEADER..HEADER + name + 5];
    let is_a = asked[name + 1..name + 3] == [0, 1];
    let records = ip.filter(|_| is_a);
    // A response, recursion available; the name does not exist when no address is known.
    let code = if ip.is_some() { 0 } else { 3 };
    let mut bytes = question[..2].to_vec();
    bytes.extend([0x81, 0x80 | code, 0, 1, 0, u8::from(records.is_some()), 0, 0, 0, 0]);
    bytes.extend(asked);
    if let Some(ip) = records {
        // The name asked for, A, IN, an hour, four bytes.
        bytes.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0x0e, 0x10, 0, 4]);
        bytes.extend(ip.octets());
    }
    bytes
}

/// A configuration with a service found by `names` beside that of `old`.
fn joined(old: &Upstream, names: &NameServer, port: u16) -> String {
    Gate::to(&[old.addr()])
        .service_keys(
            "new",
            &format!("dns: {{name: new.test, port: {port}, servers: ['{}']}}", names.address),
        )
        .route("match: {path: /}, service: web")
        .route("match: {path: /new}, service: new")
        .yaml()
}

#[test]
fn a_reload_waits_until_a_new_service_knows_its_endpoints() {
    let (old, new) = (Upstream::constant("old"), Upstream::constant("new"));
    let door = Door::new();
    let names = NameServer::start(Some(Ipv4Addr::LOCALHOST), &door);
    let gate = Gate::to(&[old.addr()]).route("match: {path: /}, service: web").start();
    let version = || gate.metric(testkit::process::CONFIG_VERSION, &[]);
    assert_eq!(version(), Some(1.0));
    gate.rewrite(&joined(&old, &names, new.addr().port()));
    wait_until("the name is asked for", PATIENCE, || names.asked.load(Relaxed) > 0);
    // Nobody waits meanwhile.
    assert_eq!((get(gate.addr(), "/new").text().as_str(), version()), ("old", Some(1.0)));
    door.open();
    wait_until("the new route is there", PATIENCE, || {
        let response = get(gate.addr(), "/new");
        assert_eq!(response.status, 200, "no request finds the service without endpoints");
        response.text() == "new"
    });
}

#[test]
fn a_reload_does_not_wait_for_a_name_that_does_not_exist() {
    let old = Upstream::constant("old");
    let door = Door::new();
    door.open();
    let names = NameServer::start(None, &door);
    let gate = Gate::to(&[old.addr()]).route("match: {path: /}, service: web").start();
    gate.reload(&joined(&old, &names, 80));
    assert_eq!(refusal(&get(gate.addr(), "/new")), (503, "no_endpoint"));
    assert_eq!(get(gate.addr(), "/").text(), "old");
}

#[test]
fn a_process_that_waits_for_a_name_obeys_its_signals() {
    let old = Upstream::constant("old");
    let names = NameServer::start(None, &Door::new());
    let mut gate = Gate::to(&[old.addr()]).root("drain: {lame_duck: 0s}").start();
    gate.rewrite(&joined(&old, &names, 80));
    wait_until("the name is asked for", PATIENCE, || names.asked.load(Relaxed) > 0);
    gate.signal(testkit::sys::SIGTERM);
    gate.wait_for_line("draining");
    assert!(!gate.lines().iter().any(|line| line.contains("configuration reloaded")));
    assert!(gate.wait().success());
}

#[test]
fn trap_14_an_endpoint_that_joins_gets_little_at_first_and_its_share_in_the_end() {
    const REQUESTS: usize = 90;
    let upstreams: Vec<_> = (0..3).map(|number| Upstream::constant(&number.to_string())).collect();
    let dir = TempDir::new("file-sd");
    let write = |count: usize| {
        let targets: Vec<_> = upstreams[..count].iter().map(|upstream| upstream.addr().to_string()).collect();
        dir.write("web.json", &json!([{ "targets": targets }]).to_string())
    };
    let file = write(2);
    let keys = format!(
        "file: {{path: '{}', refresh: 50ms}}, balance: round_robin, slow_start: {{window: 5s, weight_min: 0.1}}",
        file.display()
    );
    let gate = Gate::default().service_keys("web", &keys).start();
    let started = Instant::now();
    wait_until("those of the beginning are no newcomers any longer", PATIENCE, || {
        started.elapsed() > Duration::from_secs(6)
    });
    let mut client = Client::connect(gate.addr());
    let newcomer = &upstreams[2];
    let mut share = || {
        newcomer.forget_requests();
        (0..REQUESTS).for_each(|_| assert_eq!(client.get("/").status, 200));
        newcomer.request_count()
    };
    write(3);
    wait_until("the newcomer is asked", PATIENCE, || get(gate.addr(), "/").text() == "2");
    let first = share();
    assert!(first <= REQUESTS / 3 * 2 / 3, "{first} of {REQUESTS} at once, {} are its share", REQUESTS / 3);
    wait_until("the newcomer has its share", PATIENCE, || share() >= REQUESTS / 3 - 2);
}
