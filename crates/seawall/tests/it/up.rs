//! `seawall up` while it runs: what it announces, its admin pages, reload, and how it ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use testkit::wait::{PATIENCE, wait_for};

use serde_json::Value;

use crate::{File, run, seawall, text};

/// A running gateway; killed when dropped.
struct Running {
    child: Child,
    admin: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = seawall(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("output")).lines().map_while(Result::ok);
        let listening = lines.next().expect("a line");
        assert!(listening.starts_with("listening on 127.0.0.1:"), "{listening}");
        let admin = lines.next().expect("a line");
        let admin = admin.strip_prefix("admin on http://").expect("the admin address").to_owned();
        Self { child, admin }
    }

    fn get(&self, path: &str, host: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.admin).expect("the admin pages answer");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answered");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer)
    }

    fn status(&self) -> Value {
        let (status, answer) = self.get("/api/status", &self.admin);
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
    }

    fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, || Some(self.status()).filter(&holds))
    }

    fn signal(&self, name: &str) {
        let sent =
            Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().expect("kill");
        assert!(sent.success());
    }

    fn ended(&mut self) -> ExitStatus {
        wait_for("it ends", PATIENCE, || self.child.try_wait().expect("a child"))
    }
}

fn config(endpoint: &str) -> String {
    format!(
        "listeners: [{{address: '127.0.0.1:0'}}]\nadmin: {{address: '127.0.0.1:0', hosts: [gate.internal]}}\n\
         drain: {{lame_duck: 0s, finish: 1s}}\nservices:\n  cart: {{endpoints: ['{endpoint}']}}\n"
    )
}

#[test]
fn flags_are_enough() {
    let running =
        Running::start(&["up", "--to", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let status = running.status();
    assert_eq!(status["services"][0]["endpoints"][0]["name"], "127.0.0.1:1", "{status:#}");
    assert_eq!((&status["phase"], &status["config"]["version"]), (&"serving".into(), &1.into()));
    let table = run(&["status", "--admin", &running.admin]);
    assert!(table.status.success() && text(&table.stdout).contains("127.0.0.1:1"), "{}", text(&table.stdout));
}

#[test]
fn admin_pages_answer_only_to_names_that_are_theirs() {
    let file = File::new(&config("127.0.0.1:1"));
    let running = Running::start(&["up", file.path()]);
    for path in [
        "/",
        "/fragment",
        "/page.css",
        "/page.js",
        "/metrics",
        "/api/status",
        "/api/config",
        "/healthz",
        "/readyz",
    ] {
        let (status, answer) = running.get(path, "gate.internal");
        assert_eq!(status, 200, "{path}: {answer}");
        let head = answer.to_ascii_lowercase();
        assert!(
            head.contains("content-security-policy: default-src 'none'") && !head.contains("access-control"),
            "{answer}"
        );
        assert_eq!(running.get(path, "rebound.example").0, 421, "{path}");
    }
    assert_eq!(running.get("/nowhere", &running.admin).0, 404);
}

#[test]
fn a_changed_file_takes_effect_and_a_bad_one_does_not() {
    let file = File::new(&config("127.0.0.1:1"));
    let running = Running::start(&["up", file.path()]);

    file.write("services: {cart: {endpoints: 7}}\n");
    let status = running.wait_for("the refusal", |status| status["config"]["refused"] == 1);
    assert!(status["config"]["refusal"].as_str().expect("why").contains("seawall.yaml:1:"), "{status:#}");
    assert_eq!(status["services"][0]["endpoints"][0]["name"], "127.0.0.1:1");
    assert!(running.get("/metrics", &running.admin).1.contains("seawall_config_reload_failures_total 1\n"));

    file.write(&config("127.0.0.1:2"));
    let status = running.wait_for("the new file", |status| status["config"]["version"] == 2);
    assert_eq!(status["config"]["refusal"], Value::Null);
    assert_eq!(status["services"][0]["endpoints"][0]["name"], "127.0.0.1:2");
    assert_eq!(status["changes"][0]["who"], "changed file");
}

#[test]
fn sighup_notices_a_changed_secret_and_nothing_shows_it() {
    let file = File::new("");
    let secret = File::new("first-secret");
    let route = "routes:\n  - service: cart\n    request_headers: {set: {authorization: '${file:PATH}'}}\n";
    file.write(&(config("127.0.0.1:1") + &route.replace("PATH", secret.path())));
    let running = Running::start(&["up", file.path()]);
    secret.write("second-secret");
    running.signal("HUP");
    let status = running.wait_for("the reload", |status| status["config"]["version"] == 2);
    assert_eq!(status["changes"][0]["who"], "SIGHUP", "{status:#}");
    for path in ["/api/config", "/api/status", "/"] {
        assert!(!running.get(path, &running.admin).1.contains("-secret"), "{path}");
    }
    assert!(running.get("/api/config", &running.admin).1.contains("${file:"));
}

#[test]
fn a_changed_admin_address_is_refused_with_its_reason() {
    let file = File::new(&config("127.0.0.1:1"));
    let running = Running::start(&["up", file.path()]);
    file.write(
        &config("127.0.0.1:1").replace("admin: {address: '127.0.0.1:0'", "admin: {address: '127.0.0.2:0'"),
    );
    let status = running.wait_for("the refusal", |status| status["config"]["refused"] == 1);
    assert!(status["config"]["refusal"].as_str().expect("why").contains("restart"), "{status:#}");
}

#[test]
fn sigterm_ends_it_well() {
    let file = File::new(&config("127.0.0.1:1"));
    let mut running = Running::start(&["up", file.path()]);
    running.signal("TERM");
    assert_eq!(running.ended().code(), Some(0));
}

#[test]
fn it_ends_with_its_parent_when_told_so() {
    let file = File::new(&config("127.0.0.1:1"));
    let mut running = Running::start(&["up", "--exit-with-parent", file.path()]);
    running.status();
    drop(running.child.stdin.take());
    assert_eq!(running.ended().code(), Some(0));
}
