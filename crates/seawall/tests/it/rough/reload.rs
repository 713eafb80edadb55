//! A file that changes while everything runs.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use testkit::process::CONFIG_VERSION;
use testkit::sys::SIGHUP;
use testkit::wait::PATIENCE;
use testkit::{Client, Reply, Seawall, TempDir, Upstream, get, request, wait_until};

use super::{COMMON, SEAWALL, Traffic, config, flow, gateway, own_addr};

/// Reloads by signal and waits until the process says that it has.
struct Reloads<'s> {
    seawall: &'s Seawall,
    /// Lines of the log that have been looked at.
    seen: usize,
    version: u64,
}

impl<'s> Reloads<'s> {
    fn of(seawall: &'s Seawall) -> Self {
        Self { seawall, seen: 0, version: 1 }
    }

    fn put(&mut self, text: &str) {
        self.seawall.rewrite(text);
        self.seawall.signal(SIGHUP);
        self.version += 1;
        let wanted = format!("configuration reloaded version={} ", self.version);
        let mut line = 0;
        let found = self.seawall.process().output().find(PATIENCE, |text| {
            line += 1;
            assert!(line <= self.seen || !text.contains("refused"), "{text}");
            (line > self.seen && text.contains(&wanted)).then_some(line)
        });
        self.seen = found.unwrap_or_else(|| panic!("never saw {wanted:?}"));
    }
}

/// One of many small files: routes, services, weights, listeners and limits come, go and change.
fn variant(number: u64, shop: SocketAddr, more: SocketAddr) -> String {
    let bit = |bit: u32| number >> bit & 1 == 1;
    let listeners = if bit(3) { format!(", {{address: '{more}'}}") } else { String::new() };
    let route = if bit(1) { "  - {match: {path: /extra/}, answer: {status: 204}}\n" } else { "" };
    let service =
        if bit(2) { format!("  extra: {{endpoints: ['{shop}'], balance: random}}\n") } else { String::new() };
    format!(
        "{COMMON}listeners: [{{address: '127.0.0.1:0', connections_max: {}, timeouts: {{head: 5m, idle: 5m}}}}{listeners}]\n\
         routes:\n{route}  - service: shop\nservices:\n{service}  \
         shop: {{endpoints: [{{address: '{shop}', weight: {}}}]}}\n",
        1_000 + number % 7,
        1 + number % 5,
    )
}

#[test]
fn ten_thousand_reloads_under_load_lose_no_request_and_no_connection() {
    const RELOADS: u64 = 10_000;
    const CONNECTIONS: usize = 8;
    let upstream = Upstream::constant("here");
    let more = own_addr();
    let seawall = Seawall::start(SEAWALL, &variant(0, upstream.addr(), more));
    let traffic = Traffic::start(seawall.addr(), "/", CONNECTIONS, 100.0);
    flow(&seawall, 100);
    let before = resident_bytes(&seawall);
    let mut reloads = Reloads::of(&seawall);
    for number in 1..=RELOADS {
        reloads.put(&variant(number, upstream.addr(), more));
        upstream.forget_requests();
    }
    flow(&seawall, 100);
    traffic.stop().assert_all_succeeded();
    assert_eq!(seawall.metric(CONFIG_VERSION, &[]), Some((RELOADS + 1) as f64));
    let listener = format!("listener=\"{}\"", seawall.addr());
    let accepted = seawall.metric("seawall_gateway_connections_accepted_total", &[&listener]);
    assert_eq!(accepted, Some(CONNECTIONS as f64), "a reload cost a connection");
    let grown = resident_bytes(&seawall).saturating_sub(before);
    println!("{RELOADS} reloads left {} KiB more resident", grown / 1024);
    assert!(grown < RELOADS * 4096, "{RELOADS} reloads left {grown} bytes behind");
    seawall.stop();
}

fn resident_bytes(seawall: &Seawall) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", seawall.process().id())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

#[test]
fn a_listener_comes_and_goes_while_the_others_keep_their_connections() {
    let upstream = Upstream::constant("here");
    let more = own_addr();
    let with = variant(1 << 3, upstream.addr(), more);
    let without = variant(0, upstream.addr(), more);
    let seawall = Seawall::start(SEAWALL, &without);
    let mut kept = Client::connect(seawall.addr());
    assert_eq!(kept.get("/").status, 200);
    let mut reloads = Reloads::of(&seawall);
    for _ in 0..3 {
        reloads.put(&with);
        let mut newcomer = Client::connect(more);
        assert_eq!(newcomer.get("/").status, 200);
        reloads.put(&without);
        wait_until("nobody listens there", PATIENCE, || TcpStream::connect(more).is_err());
        let last = newcomer.get("/");
        assert_eq!(last.status, 200, "a connection that is open is served");
        assert_eq!(kept.get("/").status, 200);
    }
    seawall.stop();
}

#[test]
fn a_listener_that_is_taken_away_and_given_back_at_once_is_back() {
    let upstream = Upstream::constant("here");
    let more = own_addr();
    let seawall = Seawall::start(SEAWALL, &variant(1 << 3, upstream.addr(), more));
    let mut reloads = Reloads::of(&seawall);
    for number in 0..50 {
        reloads.put(&variant(number % 2 * (1 << 3), upstream.addr(), more));
    }
    assert_eq!(get(more, "/").status, 200);
    seawall.stop();
}

#[test]
fn a_request_on_a_listener_that_is_taken_away_is_finished_before_the_process_ends() {
    let gate = testkit::Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| Reply::ok("late").hold(&held));
    let more = own_addr();
    let mut seawall = Seawall::start(SEAWALL, &variant(1 << 3, upstream.addr(), more));
    let mut client = Client::connect(more);
    client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n");
    upstream.wait_for_requests(1);
    Reloads::of(&seawall).put(&variant(0, upstream.addr(), more));
    seawall.signal(testkit::sys::SIGTERM);
    seawall.wait_for_line("draining: finishing");
    assert!(client.is_quiet_for(Duration::from_millis(200)), "the connection was cut");
    gate.open();
    assert_eq!(client.response().text(), "late");
    assert!(seawall.wait().success());
}

#[test]
fn every_kind_of_bad_file_is_refused_and_everything_goes_on_as_before() {
    let (upstream, other) = (Upstream::constant("here"), Upstream::constant("there"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let good = config(&[upstream.addr()], "");
    let seawall = Seawall::start(SEAWALL, &good);
    let mut client = Client::connect(seawall.addr());
    let bad = [
        String::new(),
        "services: [".to_owned(),
        good.replace("shop:", "shop:\n    no_such_key: 1"),
        good.replace("workers: 2", "workers: many"),
        // Takes the present service away, and then turns out to be wrong.
        format!(
            "{COMMON}listeners: [{{address: '127.0.0.1:0'}}]\nroutes: [{{service: nowhere}}]\n\
             services: {{other: {{endpoints: ['{}']}}}}\n",
            other.addr()
        ),
        format!(
            "{COMMON}listeners: [{{address: '127.0.0.1:0'}}, {{address: '{}'}}]\n\
             services: {{shop: {{endpoints: ['{}']}}}}\n",
            taken.local_addr().unwrap(),
            other.addr()
        ),
        good.replace("workers: 2", "access_log: {to: {file: /nonexistent/access.log}}"),
    ];
    for (number, text) in bad.iter().enumerate() {
        seawall.rewrite(text);
        seawall.signal(SIGHUP);
        let refused = |count| count >= (number + 1) as f64;
        seawall.wait_for_metric("seawall_config_reload_failures_total", &[], refused);
        assert_eq!(seawall.metric("seawall_config_current", &[]), Some(0.0), "{text}");
        assert_eq!(seawall.metric(CONFIG_VERSION, &[]), Some(1.0), "{text}");
        assert_eq!(client.get("/").text(), "here", "{text}");
    }
    fs::remove_file(seawall.config_path()).unwrap();
    seawall.signal(SIGHUP);
    let refused = |count| count > bad.len() as f64;
    seawall.wait_for_metric("seawall_config_reload_failures_total", &[], refused);
    let status = request(seawall.admin(), "GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n").text();
    assert!(status.contains("\"refusal\":\"") && status.contains("seawall.yaml"), "{status}");
    assert_eq!(client.get("/").text(), "here");
    seawall.reload(&config(&[other.addr()], ""));
    assert_eq!(seawall.metric("seawall_config_current", &[]), Some(1.0));
    assert_eq!(client.get("/").text(), "there", "the kept connection sees the new file");
    seawall.stop();
}

/// Kubernetes mounts a ConfigMap as links: file → ..data/file, ..data → a directory, which is swapped as a whole.
#[test]
fn a_swapped_symbolic_link_is_noticed_without_a_signal() {
    let (old, new) = (Upstream::constant("old"), Upstream::constant("new"));
    let mount = TempDir::new("mount");
    let lay = |version: &str, upstream: &Upstream| {
        let directory = mount.path().join(version);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("seawall.yaml"), config(&[upstream.addr()], "")).unwrap();
    };
    let point = |version: &str| {
        let draft = mount.path().join("..tmp");
        symlink(version, &draft).unwrap();
        fs::rename(draft, mount.path().join("..data")).unwrap();
    };
    lay("..1", &old);
    point("..1");
    let file = mount.path().join("seawall.yaml");
    symlink(Path::new("..data/seawall.yaml"), &file).unwrap();
    let seawall = Seawall::try_run(SEAWALL, &["up", file.to_str().unwrap()]).expect("it serves");
    assert_eq!(get(seawall.addr(), "/").text(), "old");
    lay("..2", &new);
    point("..2");
    fs::remove_dir_all(mount.path().join("..1")).unwrap();
    seawall.wait_for_metric(CONFIG_VERSION, &[], |version| version == 2.0);
    assert_eq!(get(seawall.addr(), "/").text(), "new");
    seawall.stop();
}

#[test]
fn what_was_learnt_of_endpoints_and_counted_for_routes_survives_a_reload() {
    let good = Upstream::constant("here");
    let leaving = Upstream::start(|_| Reply::ok("bye").header("seawall-lame-duck", "1"));
    let endpoints = [good.addr(), leaving.addr()];
    let seawall = gateway(&endpoints, "");
    let mut sent = 0.0;
    wait_until("both have been asked", PATIENCE, || {
        let _ = get(seawall.addr(), "/");
        sent += 1.0;
        leaving.request_count() > 0
    });
    let unavailable = "seawall_gateway_endpoint_unavailable";
    let reason = format!("endpoint=\"{}\",reason=\"lame_duck\"", leaving.addr());
    seawall.wait_for_metric(unavailable, &[&reason], |value| value == 1.0);
    seawall.wait_for_metric("seawall_gateway_requests_total", &[], |counted| counted == sent);
    let asked = leaving.request_count();
    seawall.reload(&config(&endpoints, "    via: false\n    timeouts: {attempt: 7s}\n"));
    assert_eq!(seawall.metric(unavailable, &[&reason]), Some(1.0));
    assert_eq!(seawall.metric("seawall_gateway_requests_total", &[]), Some(sent));
    for _ in 0..20 {
        assert_eq!(get(seawall.addr(), "/").text(), "here");
    }
    assert_eq!(leaving.request_count(), asked);
    seawall.stop();
}

/// Signals before anything runs must not end the process: a supervisor may be quick.
#[test]
fn a_hang_up_right_after_the_start_is_a_reload() {
    let upstream = Upstream::constant("here");
    let seawall = gateway(&[upstream.addr()], "");
    seawall.signal(SIGHUP);
    seawall.wait_for_line("configuration reloaded");
    assert_eq!(get(seawall.addr(), "/").status, 200);
    seawall.stop();
}

#[test]
fn flags_stay_in_force_over_a_changed_file() {
    let (old, new) = (Upstream::constant("old"), Upstream::constant("new"));
    let listen = own_addr().to_string();
    let seawall = Seawall::start_with(SEAWALL, &["--listen", &listen], &config(&[old.addr()], ""));
    let mut client = Client::connect(seawall.addr());
    assert_eq!(client.get("/").text(), "old");
    seawall.reload(&config(&[new.addr()], ""));
    assert_eq!(client.get("/").text(), "new");
    assert_eq!(seawall.addr().to_string(), listen);
    assert!(client.is_quiet_for(Duration::from_millis(1)));
    seawall.stop();
}
