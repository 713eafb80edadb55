//! The demo as a user runs it. How it is stopped is tested beside the demo.

use std::process::Stdio;

use serde_json::Value;

use crate::{seawall, text};

#[test]
fn the_demo_ends_well_and_its_users_are_better_off_with_seawall() {
    let child = seawall(&["demo", "--fast", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let demo = child.id();
    let output = child.wait_with_output().expect("it ends");
    let progress = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{progress}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    let phases = report["phases"].as_array().unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(phases.len(), 7, "{report:#}");
    let mut sum = [0.0; 2];
    for phase in phases {
        let of =
            |side: &str, figure: &str| phase[side][figure].as_f64().unwrap_or_else(|| panic!("{phase:#}"));
        let [ours, theirs] = ["seawall", "round_robin"].map(|side| of(side, "success_percent"));
        // What was cut off to save the others comes back a moment later than what was not: a few users.
        assert!(ours + 2.0 >= theirs, "{}: {ours} % against {theirs} %\n{progress}", phase["phase"]);
        sum = [sum[0] + ours, sum[1] + theirs];
    }
    assert!(sum[0] > sum[1], "over all phases: {sum:?}\n{progress}");
    // Children that outlived it would have been given to somebody else, but they name it in their configuration.
    let left = std::env::temp_dir().join(format!("seawall-demo-{demo}-Seawall.yaml"));
    assert!(!left.exists(), "{} was left behind", left.display());
    assert!(!still_mentions(&left.display().to_string()), "a gateway of the demo still runs");
}

/// Whether the command line of any process contains `word`.
fn still_mentions(word: &str) -> bool {
    let processes = std::fs::read_dir("/proc").expect("processes");
    processes
        .filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok())
        .any(|command| String::from_utf8_lossy(&command).contains(word))
}
