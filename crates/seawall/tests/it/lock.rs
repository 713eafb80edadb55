//! `seawall lock`: commands under a lease, on the engine that a running Seawall keeps.

use std::process::Command;

use testkit::process::Process;
use testkit::sys::{SIGCONT, SIGSTOP};
use testkit::wait::PATIENCE;
use testkit::{Seawall, TempDir};

const BIN: &str = env!("CARGO_BIN_EXE_seawall");

/// A Seawall that keeps leases, and where it is asked.
fn keeper(dir: &TempDir) -> (Seawall, String) {
    let records = dir.path().join("records.db");
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nadmin: {{address: 127.0.0.1:0}}\nstore: {{url: \"{}\"}}\n\
         coord: {{engine: sqlite}}\nservices: {{s: {{endpoints: [127.0.0.1:9]}}}}\n",
        records.display()
    );
    let seawall = Seawall::start(BIN, &config);
    (seawall, format!("{}.sock", records.display()))
}

fn lock(socket: &str, action: &[&str], rest: &[&str]) -> Process {
    let mut command = Command::new(BIN);
    command.arg("lock").args(action).args(["--socket", socket]).args(rest).env("NO_COLOR", "1");
    Process::start(&mut command).expect("seawall starts")
}

fn ended(mut process: Process) -> (Option<i32>, String) {
    let code = process.wait(PATIENCE).code();
    (code, process.output().lines().join("\n"))
}

fn says(process: &Process, text: &str) {
    assert!(
        process.output().find(PATIENCE, |line| line.contains(text).then_some(())).is_some(),
        "never said {text}: {:?}",
        process.output().lines()
    );
}

#[test]
fn the_command_gets_a_token_and_its_exit_code_is_passed_on() {
    let dir = TempDir::new("lock");
    let (seawall, socket) = keeper(&dir);
    let script = "echo $SEAWALL_LOCK_NAME token=$SEAWALL_FENCING_TOKEN; exit 7";
    let (code, first) = ended(lock(&socket, &["run", "nightly"], &["--", "sh", "-c", script]));
    assert_eq!(code, Some(7), "{first}");
    let (_, second) = ended(lock(&socket, &["run", "nightly"], &["--", "sh", "-c", script]));
    let token = |text: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix("nightly token=")).expect(text);
        line.parse().expect("a number")
    };
    assert!(token(&second) > token(&first));
    let (code, list) = ended(lock(&socket, &["list"], &[]));
    assert_eq!((code, list.as_str()), (Some(0), "no lease is held"));
    seawall.stop();
}

#[test]
fn one_at_a_time_and_an_operator_can_break_it() {
    let dir = TempDir::new("lock");
    let (seawall, socket) = keeper(&dir);
    let holder = lock(&socket, &["run", "nightly"], &["--", "sh", "-c", "echo begun; exec sleep 1000"]);
    says(&holder, "begun");
    let (code, refused) = ended(lock(&socket, &["run", "nightly", "--wait", "0"], &["--", "true"]));
    assert_eq!(code, Some(75), "{refused}");
    assert!(refused.contains("lease `nightly` is held by "), "{refused}");
    let (_, list) = ended(lock(&socket, &["list", "--json"], &[]));
    assert!(list.contains("\"name\": \"nightly\""), "{list}");
    let (code, broken) = ended(lock(&socket, &["release", "nightly"], &[]));
    assert_eq!(code, Some(0), "{broken}");
    assert_eq!(ended(holder).0, Some(76), "its command was stopped");
    seawall.stop();
}

/// Whoever cannot renew stops its command before the lease can be had by another.
#[test]
fn trap_31_the_command_is_stopped_when_the_lease_cannot_be_renewed() {
    let dir = TempDir::new("lock");
    let (mut seawall, socket) = keeper(&dir);
    seawall.expect_errors();
    let script = "trap '' TERM; echo begun; while :; do sleep 0.05; done";
    let holder = lock(&socket, &["run", "nightly", "--ttl", "2s"], &["--", "sh", "-c", script]);
    says(&holder, "begun");
    seawall.signal(SIGSTOP);
    let (code, said) = ended(holder);
    seawall.signal(SIGCONT);
    assert_eq!(code, Some(76), "{said}");
    let (code, next) =
        ended(lock(&socket, &["run", "nightly", "--ttl", "30s", "--wait", "20s"], &["--", "true"]));
    assert_eq!(code, Some(0), "{next}");
    seawall.stop();
}

#[test]
fn without_an_engine_it_says_so() {
    let dir = TempDir::new("lock");
    let socket = dir.path().join("nobody.sock").display().to_string();
    let (code, said) = ended(lock(&socket, &["run", "nightly"], &["--", "true"]));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("is `seawall up` running there?"), "{said}");
}

#[test]
fn an_unknown_engine_and_records_elsewhere_are_refused() {
    let dir = TempDir::new("lock");
    let check = |extra: &str| {
        let file =
            dir.write("seawall.yaml", &format!("services: {{s: {{endpoints: [127.0.0.1:9]}}}}\n{extra}\n"));
        let output = Command::new(BIN).arg("check").arg(file).output().expect("seawall starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = check("coord: {engine: zookeeper}");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("zookeeper") && said.contains("sqlite"), "{said}");
    let (code, said) = check("coord: {etcd: [10.0.0.1]}");
    assert!(code == Some(2) && said.contains("is not the address of an etcd member"), "{said}");
    let (code, said) = check("coord: {engine: sqlite}\nstore: {url: \"postgres://db/seawall\"}");
    assert!(code == Some(2) && said.contains("name the members of an etcd cluster"), "{said}");
}
