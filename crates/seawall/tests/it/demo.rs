//! The demo's processes.

use std::process::{Child, Stdio};
use testkit::wait::{PATIENCE, wait_for, wait_until};

use crate::seawall;

/// Two copies of ten endpoints and one gateway.
const PROCESSES: usize = 22;

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start() -> (Demo, Vec<u32>) {
    let demo = seawall(&["demo", "--fast", "--json"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("started");
    let demo = Demo(demo);
    let all = wait_for("every process of the demo runs", PATIENCE, || {
        let children = children(demo.0.id());
        (children.len() == PROCESSES).then_some(children)
    });
    (demo, all)
}

fn children(of: u32) -> Vec<u32> {
    let list = std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|child| child.parse().ok()).collect()
}

/// Whether a process still runs, and is not merely waiting for its parent to take note of its end.
fn runs(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next());
    state.is_some_and(|state| state != "Z" && state != "X")
}

fn none_is_left(processes: &[u32]) {
    wait_until("no process is left", PATIENCE, || !processes.iter().any(|process| runs(*process)));
}

#[test]
fn no_process_outlives_an_interrupted_demo() {
    let (mut demo, processes) = start();
    let sent = std::process::Command::new("kill")
        .args(["-s", "INT", &demo.0.id().to_string()])
        .status()
        .expect("kill");
    assert!(sent.success());
    assert_eq!(demo.0.wait().expect("ended").code(), Some(1));
    none_is_left(&processes);
}

#[test]
fn no_process_outlives_a_killed_demo() {
    let (mut demo, processes) = start();
    demo.0.kill().expect("killed");
    demo.0.wait().expect("ended");
    none_is_left(&processes);
}
