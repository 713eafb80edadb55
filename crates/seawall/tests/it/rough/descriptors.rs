//! Fewer file descriptors than connections, and fewer connections than clients.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use testkit::process::Process;
use testkit::wait::{PATIENCE, wait_for};
use testkit::{Client, Gate, Reply, Seawall, TempDir, Upstream, get, wait_until};

use super::{COMMON, SEAWALL, config};

/// A gateway that may have `limit` descriptors open.
struct Limited {
    process: Process,
    addr: SocketAddr,
    admin: SocketAddr,
    _dir: TempDir,
}

impl Limited {
    fn start(limit: u32, config: &str) -> Self {
        let dir = TempDir::new("limited");
        let file = dir.write("seawall.yaml", config);
        let script = format!("ulimit -n {limit}; exec \"$0\" up \"$1\"");
        let process =
            Process::start(Command::new("sh").args(["-c", &script, SEAWALL]).arg(file)).expect("sh");
        let after = |marker: &str| {
            let found = process.output().find(PATIENCE, |line| line.strip_prefix(marker)?.parse().ok());
            found.unwrap_or_else(|| panic!("it does not serve:\n{}", process.output().lines().join("\n")))
        };
        let (addr, admin) = (after("listening on "), after("admin on http://"));
        Self { process, addr, admin, _dir: dir }
    }

    fn metric(&self, series: &str) -> f64 {
        let mut admin = Client::connect(self.admin);
        let text =
            admin.request("GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").text();
        let values = text.lines().filter(|line| line.starts_with(series));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// CPU time used so far.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).expect("a process");
        let fields: Vec<&str> = stat.rsplit(") ").next().expect("its fields").split(' ').collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("user") + fields[12].parse::<u64>().expect("system");
        Duration::from_millis(ticks * 10)
    }
}

/// Whether the server has closed the connection; what it said before.
fn ended(stream: &mut TcpStream) -> Option<String> {
    stream.set_nonblocking(true).expect("a socket");
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => Some(String::from_utf8_lossy(&said).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        Err(_) => Some(String::new()),
    }
}

#[test]
fn running_out_of_descriptors_sheds_newcomers_serves_those_inside_and_passes() {
    const LIMIT: u32 = 64;
    const CLIENTS: usize = 200;
    let upstream = Upstream::constant("here");
    let limited = Limited::start(LIMIT, &config(&[upstream.addr()], ""));
    let mut first: Vec<Client> = (0..8).map(|_| Client::connect(limited.addr)).collect();
    for client in &mut first {
        assert_eq!(client.get("/").status, 200);
    }
    let mut crowd: Vec<TcpStream> =
        (0..CLIENTS).map(|_| TcpStream::connect(limited.addr).expect("the queue has room")).collect();
    let mut shed = 0;
    wait_until("everybody is either in or sent away", PATIENCE, || {
        crowd.retain_mut(|stream| match ended(stream) {
            Some(said) => {
                shed += 1;
                assert!(
                    said.is_empty()
                        || (said.starts_with("HTTP/1.1 503 ")
                            && said.contains("seawall-reason: out_of_descriptors\r\n")),
                    "{said}"
                );
                false
            }
            None => true,
        });
        crowd.len() < LIMIT as usize
    });
    assert!(shed >= CLIENTS - LIMIT as usize);
    // Those inside are served although every other descriptor is taken: there is one left for the way to the endpoint.
    for client in &mut first {
        assert_eq!(client.get("/").status, 200);
    }
    // With a full house that stays full, it waits instead of spinning: a spin would take all of the time, not a part.
    let before = limited.cpu();
    let started = std::time::Instant::now();
    wait_until("a while has passed", PATIENCE, || {
        assert_eq!(first[0].get("/").status, 200);
        started.elapsed() > Duration::from_secs(2)
    });
    let used = limited.cpu() - before;
    assert!(used < started.elapsed() / 2, "used {used:?} of {:?} for one client", started.elapsed());

    let (open, max) = (
        limited.metric("seawall_gateway_client_connections_open"),
        limited.metric("seawall_gateway_client_connections_max"),
    );
    assert!(open >= 8.0 && open <= max && max < f64::from(LIMIT), "{open} of {max} connections are open");
    drop(crowd);
    wait_until("newcomers are let in again", PATIENCE, || {
        testkit::client::try_get(limited.addr, "/").is_ok_and(|answer| answer.status == 200)
    });
    let counted = limited.metric("seawall_gateway_connections_shed_total{");
    assert!(counted >= shed as f64, "{shed} were sent away, {counted} were counted");
    let mut all: Vec<Client> = (0..8).map(|_| Client::connect(limited.addr)).collect();
    all.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    let lines = limited.process.output().lines();
    let loud = lines.iter().filter(|line| line.contains("ERROR") || line.contains(" WARN ")).count();
    assert!(loud < 20, "{loud} loud lines:\n{}", lines.join("\n"));
}

#[test]
fn requests_for_which_no_descriptor_is_left_are_refused_and_no_endpoint_is_blamed() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Reply::ok("here").hold(&held));
    let limited = Limited::start(64, &config(&[upstream.addr()], "    admission: {enabled: false}\n"));
    let mut clients: Vec<Client> = (0..40).map(|_| Client::connect(limited.addr)).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    }
    // Not by the admin pages: they need a descriptor as well.
    let answered = |client: &Client| {
        client.stream().set_nonblocking(true).expect("a socket");
        let answered = client.stream().peek(&mut [0]).is_ok();
        client.stream().set_nonblocking(false).expect("a socket");
        answered
    };
    wait_until("each is refused or under way", PATIENCE, || {
        let refused = clients.iter().filter(|client| answered(client)).count();
        refused > 0 && upstream.request_count() + refused == clients.len()
    });
    gate.open();
    let mut refused = 0;
    for client in &mut clients {
        let answer = client.response();
        match (answer.status, answer.header("seawall-reason")) {
            (200, None) => {}
            (503, Some("out_of_descriptors")) => refused += 1,
            _ => panic!("{answer:?}"),
        }
    }
    assert!(refused > 0);
    assert_eq!(limited.metric("seawall_gateway_endpoint_failures_total"), 0.0);
    assert_eq!(clients[0].get("/").status, 200);
}

#[test]
fn a_listener_with_all_the_connections_it_may_have_answers_503_and_counts() {
    let upstream = Upstream::constant("here");
    let seawall = Seawall::start(
        SEAWALL,
        &format!(
            "{COMMON}listeners: [{{address: '127.0.0.1:0', name: door, connections_max: 4}}]\n\
             services: {{shop: {{endpoints: ['{}']}}}}\n",
            upstream.addr()
        ),
    );
    let mut inside: Vec<Client> = (0..4).map(|_| Client::connect(seawall.addr())).collect();
    inside.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    for _ in 0..10 {
        let mut outside = TcpStream::connect(seawall.addr()).expect("the queue has room");
        let answer = wait_for("an answer", PATIENCE, || ended(&mut outside));
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert!(answer.contains("seawall-reason: too_many_connections\r\n"), "{answer}");
    }
    let shed =
        seawall.metric("seawall_gateway_connections_shed_total", &["listener=\"door\",reason=\"limit\""]);
    assert_eq!(shed, Some(10.0));
    inside.iter_mut().for_each(|client| assert_eq!(client.get("/").status, 200));
    inside.pop();
    seawall.wait_for_metric("seawall_gateway_connections_open", &[], |open| open == 3.0);
    assert_eq!(get(seawall.addr(), "/").status, 200);
    seawall.stop();
}

/// A client that sends its request at once, as all do, reads why it was turned away instead of a broken connection.
#[test]
fn a_client_that_is_turned_away_after_it_sent_a_request_reads_why() {
    let upstream = Upstream::constant("here");
    let text = config(&[upstream.addr()], "")
        .replace("{address: '127.0.0.1:0'}]", "{address: '127.0.0.1:0', connections_max: 1}]");
    let seawall = Seawall::start(SEAWALL, &text);
    let mut inside = Client::connect(seawall.addr());
    assert_eq!(inside.get("/").status, 200);
    let mut told = 0;
    for _ in 0..50 {
        let Ok(mut outside) = TcpStream::connect(seawall.addr()) else { continue };
        let _ = outside.write_all(b"GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        let mut answer = String::new();
        let _ = outside.read_to_string(&mut answer);
        told += u32::from(answer.starts_with("HTTP/1.1 503 "));
    }
    assert!(told >= 45, "only {told} of 50 could read the answer");
    seawall.stop();
}
