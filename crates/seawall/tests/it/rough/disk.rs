//! The access log, and disks that fill.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::sys::signal;
use testkit::wait::PATIENCE;
use testkit::{Client, Seawall, TempDir, Upstream, wait_until};

use super::{SEAWALL, config};

const DROPPED: &str = "seawall_gateway_access_log_dropped_total";

fn with_log(upstream: &Upstream, log: &str) -> Seawall {
    Seawall::start(SEAWALL, &format!("access_log: {log}\n{}", config(&[upstream.addr()], "")))
}

/// The lines of a log, each of which must be an object of JSON.
fn lines(file: &Path) -> Vec<Value> {
    let bytes = fs::read(file).expect("a log");
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "the last line is cut");
    let text = String::from_utf8(bytes).expect("a log is text");
    let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(parse).inspect(|line: &Value| assert!(line.is_object(), "{line}")).collect()
}

fn wait_for_lines(file: &Path, count: usize) -> Vec<Value> {
    let written = || fs::read(file).map_or(0, |bytes| bytes.iter().filter(|byte| **byte == b'\n').count());
    wait_until(&format!("{count} lines are written"), PATIENCE, || written() >= count);
    lines(file)
}

#[test]
fn whatever_clients_send_each_line_is_json() {
    let upstream = Upstream::constant("here");
    let dir = TempDir::new("log");
    let file = dir.path().join("access.log");
    let mut seawall = with_log(&upstream, &format!("{{to: {{file: '{}'}}}}", file.display()));
    let mut requests = vec![
        b"GET /?q=%22%5C\"'{}<>|^` HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: \"\\\x80\xff\t{}\r\n\r\n"
            .to_vec(),
        b"GET /\"},{\"a\":\"b HTTP/1.1\r\nHost: shop.example\r\n\r\n".to_vec(),
        "GET /é HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: ü\r\n\r\n".as_bytes().to_vec(),
        b"GET / HTTP/1.1\r\nHost: \"quoted\".example\r\n\r\n".to_vec(),
        b"GET /good HTTP/1.1\r\nHost: shop.example\r\n\r\n".to_vec(),
    ];
    for byte in 0u8..=255 {
        let byte = &[byte][..];
        requests.push([b"GET /a", byte, b"b HTTP/1.1\r\nHost: shop.example\r\n\r\n"].concat());
        requests
            .push([b"GET / HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: x", byte, b"y\r\n\r\n"].concat());
    }
    for request in &requests {
        let mut client = Client::connect(seawall.addr());
        // Answered or refused; either way with an answer.
        let _ = client.request(request);
    }
    seawall.signal(testkit::sys::SIGTERM);
    assert!(seawall.wait().success());
    let lines = lines(&file);
    assert!(lines.len() > 250, "only {} lines", lines.len());
    let good = lines.iter().find(|line| line["path"] == "/good").expect("the good one");
    assert_eq!(
        (&good["status"], &good["outcome"], &good["route"]),
        (&200.into(), &"success".into(), &"/".into())
    );
}

#[test]
fn no_line_is_lost_when_the_process_ends() {
    const REQUESTS: usize = 500;
    let upstream = Upstream::constant("here");
    let dir = TempDir::new("log");
    let file = dir.path().join("access.log");
    let seawall = with_log(&upstream, &format!("{{to: {{file: '{}'}}}}", file.display()));
    let mut client = Client::connect(seawall.addr());
    for _ in 0..REQUESTS / 100 {
        client.send("GET / HTTP/1.1\r\nHost: shop.example\r\n\r\n".repeat(100));
        for _ in 0..100 {
            assert_eq!(client.response().status, 200);
        }
    }
    assert_eq!(seawall.metric(DROPPED, &[]), Some(0.0));
    seawall.stop();
    assert_eq!(lines(&file).len(), REQUESTS);
}

#[test]
fn the_log_goes_on_in_a_new_file_after_a_rotation() {
    let upstream = Upstream::constant("here");
    let dir = TempDir::new("log");
    let (file, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let seawall = with_log(&upstream, &format!("{{to: {{file: '{}'}}}}", file.display()));
    let mut client = Client::connect(seawall.addr());
    let _ = client.get("/before");
    wait_for_lines(&file, 1);
    fs::rename(&file, &old).expect("renamed");
    let _ = client.get("/between");
    wait_for_lines(&old, 2);
    signal(seawall.process().id(), 10).expect("SIGUSR1");
    seawall.wait_for_line("access log opened again");
    wait_until("there is a new file", PATIENCE, || file.exists());
    let _ = client.get("/after");
    let new = wait_for_lines(&file, 1);
    assert_eq!((new.len(), &new[0]["path"]), (1, &"/after".into()));
    assert_eq!(lines(&old).len(), 2);
    seawall.stop();
}

#[test]
fn a_sample_holds_some_successes_and_every_failure() {
    let upstream = Upstream::start(|request| match request.target {
        "/bad" => testkit::Reply::status(500),
        _ => testkit::Reply::ok("here"),
    });
    let dir = TempDir::new("log");
    let file = dir.path().join("access.log");
    let log = format!("{{to: {{file: '{}'}}, sample: 0.1}}", file.display());
    let off = "    ejection: {enabled: false}\n    breaker: {enabled: false}\n    endpoint_breaker: {enabled: false}\n";
    let text = format!("access_log: {log}\n{}", config(&[upstream.addr()], off));
    let seawall = Seawall::start(SEAWALL, &text);
    let mut client = Client::connect(seawall.addr());
    for _ in 0..1000 {
        assert_eq!(client.get("/").status, 200);
    }
    for _ in 0..20 {
        assert_eq!(client.get("/bad").status, 500);
    }
    seawall.stop();
    let lines = lines(&file);
    let good = lines.iter().filter(|line| line["status"] == 200).count();
    // Binomial with mean 100 and deviation 9.5: beyond ten deviations is no chance.
    assert!((10..200).contains(&good), "{good} of 1000");
    assert_eq!(lines.len() - good, 20);
}

#[test]
fn what_is_refused_before_it_is_understood_is_logged_with_what_is_known() {
    let upstream = Upstream::constant("here");
    let dir = TempDir::new("log");
    let file = dir.path().join("access.log");
    let text = |failures_per_sec: u32| {
        format!(
            "workers: 1\n\
             access_log: {{to: {{file: '{}'}}, failures_per_sec: {failures_per_sec}}}\n\
             listeners: [{{address: '127.0.0.1:0', timeouts: {{head: 100ms}}}}]\n\
             admin: {{address: '127.0.0.1:0'}}\n\
             routes:\n  - {{name: shop, match: {{path: /shop, methods: [GET, POST]}}, service: shop, body_max: 5}}\n\
             services: {{shop: {{endpoints: ['{}']}}}}\n",
            file.display(),
            upstream.addr()
        )
    };
    let requests = [
        "GET / HTTP/1.1\r\nHost: shop.example\r\nBad Name: x\r\n\r\n",
        "GET /%zz HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "GET /nowhere?x=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: me\r\n\r\n",
        "DELETE /shop HTTP/1.1\r\nHost: shop.example\r\n\r\n",
        "POST /shop HTTP/1.1\r\nHost: shop.example\r\nContent-Length: 6\r\n\r\nlarger",
        "GET / HTTP/1.1\r\nHost: sh",
    ];
    let seawall = Seawall::start(SEAWALL, &text(100));
    for request in requests {
        Client::connect(seawall.addr()).request(request);
    }
    let logged = wait_for_lines(&file, requests.len());
    let shown: Vec<String> = logged
        .iter()
        .map(|line| {
            assert!(line["time"].is_string() && line["seconds"].is_number(), "{line}");
            let keys =
                ["client", "status", "outcome", "reason", "method", "path", "user_agent", "route", "class"];
            let known = keys.iter().filter(|key| !line[**key].is_null());
            known.map(|key| line[*key].to_string().replace('"', "")).collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(
        shown,
        [
            "127.0.0.1 400 refused malformed",
            "127.0.0.1 400 refused bad_path GET /%zz",
            "127.0.0.1 404 refused no_route GET /nowhere?x=1 me",
            "127.0.0.1 405 refused method_not_allowed DELETE /shop",
            "127.0.0.1 413 refused body_too_large POST /shop shop CRITICAL",
            "127.0.0.1 408 refused head_timeout",
        ]
    );
    // They are bounded like every other failure.
    seawall.reload(&text(0));
    for request in requests {
        Client::connect(seawall.addr()).request(request);
    }
    seawall.wait_for_metric(DROPPED, &[], |dropped| dropped == requests.len() as f64);
    seawall.stop();
    assert_eq!(lines(&file).len(), requests.len());
}

#[test]
fn a_device_that_takes_nothing_costs_lines_which_are_counted_and_no_request() {
    let upstream = Upstream::constant("here");
    let seawall = with_log(&upstream, "{to: {file: /dev/full}}");
    let mut client = Client::connect(seawall.addr());
    for _ in 0..100 {
        assert_eq!(client.get("/").status, 200);
    }
    seawall.wait_for_metric(DROPPED, &[], |dropped| dropped == 100.0);
    seawall.wait_for_line("access log cannot be written");
    let warnings = seawall.lines().iter().filter(|line| line.contains("cannot be written")).count();
    assert_eq!(warnings, 1, "a full disk is said once");
    seawall.stop();
}

/// A file system of 64 KiB of our own.
struct Small(PathBuf);

impl Small {
    /// `None` where it may not be mounted: that needs an administrator.
    fn mount(dir: &TempDir) -> Option<Self> {
        let path = dir.path().join("small");
        fs::create_dir(&path).expect("a directory");
        let options = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        let mounted =
            Command::new("mount").args(options).arg(&path).output().is_ok_and(|done| done.status.success());
        mounted.then_some(Self(path))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

#[test]
fn a_full_disk_costs_whole_lines_and_the_log_goes_on_when_there_is_room_again() {
    let dir = TempDir::new("disk");
    let Some(small) = Small::mount(&dir) else {
        eprintln!("no file system may be mounted here: /dev/full has to do");
        return;
    };
    let upstream = Upstream::constant("here");
    let (file, filler) = (small.0.join("access.log"), small.0.join("filler"));
    fs::write(&filler, vec![0; 40 * 1024]).expect("room");
    let seawall = with_log(&upstream, &format!("{{to: {{file: '{}'}}}}", file.display()));
    let mut client = Client::connect(seawall.addr());
    let mut sent = 0;
    wait_until("the disk is full", PATIENCE, || {
        for _ in 0..20 {
            assert_eq!(client.get("/").status, 200);
            sent += 1;
        }
        seawall.metric(DROPPED, &[]).is_some_and(|dropped| dropped >= 20.0)
    });
    fs::remove_file(&filler).expect("removed");
    for _ in 0..20 {
        assert_eq!(client.get("/room-again").status, 200);
        sent += 1;
    }
    seawall.wait_for_line("access log can be written again");
    let dropped = seawall.metric(DROPPED, &[]).expect("a figure") as usize;
    seawall.stop();
    let lines = fs::read_to_string(&file).expect("a log");
    let whole = lines.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    assert_eq!(whole + dropped, sent, "every line is there or counted");
    // At most the one that was cut when the disk became full.
    assert!(lines.lines().count() <= whole + 1, "{} of {} lines are whole", whole, lines.lines().count());
    assert!(lines.contains("/room-again"));
}

/// Nobody reads what goes to standard output: requests go on.
#[test]
fn a_reader_that_reads_nothing_costs_lines_and_no_request() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let upstream = Upstream::constant("here");
    let dir = TempDir::new("log");
    let text = format!("access_log: {{to: stdout}}\n{}", config(&[upstream.addr()], ""));
    let file = dir.write("seawall.yaml", &text);
    let mut child = Command::new(SEAWALL)
        .arg("up")
        .arg(file)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    output.read_line(&mut line).expect("an address");
    let addr: std::net::SocketAddr =
        line.trim().strip_prefix("listening on ").expect("an address").parse().expect("an address");
    let stream = TcpStream::connect(addr).expect("it listens");
    let mut client = Client::over(stream).expect("a client");
    // A pipe holds 64 KiB, the queue 8192 lines: more than both.
    let long = format!("GET /{} HTTP/1.1\r\nHost: shop.example\r\n\r\n", "x".repeat(200));
    for _ in 0..100 {
        client.stream().write_all(long.repeat(100).as_bytes()).expect("sent");
        for _ in 0..100 {
            assert_eq!(client.response().status, 200);
        }
    }
    testkit::sys::signal(child.id(), testkit::sys::SIGTERM).expect("it runs");
    let mut ended = None;
    wait_until("it ends although nobody reads", PATIENCE, || {
        ended = child.try_wait().expect("a child");
        ended.is_some()
    });
    assert!(ended.expect("its status").success());
}
