//! Wrong input at the command line: said once, precisely, with nothing half-started.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;

use testkit::process::Process;
use testkit::sys::{SIGINT, SIGTERM};
use testkit::wait::PATIENCE;
use testkit::{Seawall, TempDir, Upstream, get};

use super::{COMMON, SEAWALL, own_addr};
use crate::{File, run, text};

/// What `up` says to a file with this content; it must end with 2, and have announced nothing.
#[track_caller]
fn refused(content: &str) -> String {
    let file = File::new(content);
    let output = run(&["up", file.path()]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{content}\n{said}");
    assert!(output.stdout.is_empty(), "it announced {:?}", text(&output.stdout));
    said
}

#[track_caller]
fn assert_mentions(said: &str, wanted: &[&str]) {
    for word in wanted {
        assert!(said.contains(word), "`{word}` is missing in:\n{said}");
    }
}

#[test]
fn every_wrong_value_is_named_with_its_place_and_a_remedy() {
    let cases: [(&str, &[&str]); 6] = [
        ("services: {shop: {endpoints: ['127.0.0.1:1'], colour: red}}\n", &["seawall.yaml:1:", "colour"]),
        (
            "workers: several\nservices: {shop: {endpoints: ['127.0.0.1:1']}}\n",
            &["seawall.yaml:1:10", "several"],
        ),
        (
            "services:\n  shop: {endpoints: ['127.0.0.1:1'], panic_below: 7}\n",
            &["seawall.yaml:2:", "panic_below", "7"],
        ),
        ("services: [\n", &["seawall.yaml:"]),
        ("", &["seawall.yaml", "service"]),
        (
            "drain: {finish: soon}\nservices: {shop: {endpoints: ['127.0.0.1:1']}}\n",
            &["seawall.yaml:1:", "soon"],
        ),
    ];
    for (content, wanted) in cases {
        assert_mentions(&refused(content), wanted);
    }
}

#[test]
fn all_errors_of_a_file_are_told_at_once() {
    let said = refused(
        "workerz: 3\ndrain: {finish: soon}\nservices:\n  shop:\n    endpoints: ['127.0.0.1:1']\n    panic_below: 7\n",
    );
    assert_mentions(&said, &["workerz", "workers", "soon", "panic_below", ":1:1", ":2:", ":6:", "3 errors"]);
}

#[test]
fn a_route_to_a_service_that_is_not_there_names_both_and_a_remedy() {
    let said = refused(
        "services: {shop: {endpoints: ['127.0.0.1:1']}}\nroutes:\n  - service: shop\n  - {match: {path: /x}, service: shoop}\n",
    );
    assert_mentions(&said, &["routes[1].service", "shoop"]);
}

#[test]
fn the_same_listener_twice_is_refused() {
    let addr = own_addr();
    let said = refused(&format!(
        "{COMMON}listeners: [{{address: '{addr}'}}, {{address: '{addr}'}}]\n\
         services: {{shop: {{endpoints: ['127.0.0.1:1']}}}}\n"
    ));
    assert_mentions(&said, &[&addr.to_string()]);
    assert!(TcpListener::bind(addr).is_ok());
}

#[test]
fn what_is_no_readable_file_is_refused_with_its_name() {
    let dir = TempDir::new("input");
    let directory = dir.path().to_str().expect("text");
    let binary = dir.path().join("binary.yaml");
    std::fs::write(&binary, [0xff, 0xfe, 0, 1]).expect("written");
    for path in [directory, "/nonexistent/seawall.yaml", binary.to_str().expect("text")] {
        for command in ["up", "check"] {
            let output = run(&[command, path]);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command} {path}: {said}");
            assert!(said.contains(path) && output.stdout.is_empty(), "{command} {path}: {said}");
        }
    }
}

#[test]
fn a_port_that_is_taken_is_named_and_the_others_are_free_again() {
    let taken = TcpListener::bind(own_addr()).expect("ours");
    let (busy, free, admin) = (taken.local_addr().expect("an address"), own_addr(), own_addr());
    let said = refused(&format!(
        "listeners: [{{address: '{free}'}}, {{address: '{busy}'}}]\nadmin: {{address: '{admin}'}}\n\
         services: {{shop: {{endpoints: ['127.0.0.1:1']}}}}\n"
    ));
    assert_mentions(&said, &[&busy.to_string(), "in use"]);
    assert!(!said.contains(&free.to_string()), "{said}");
    for addr in [free, admin] {
        assert!(TcpListener::bind(addr).is_ok(), "{addr} is not free");
    }
}

#[test]
fn every_port_that_is_taken_is_named() {
    let taken: Vec<_> = (0..2).map(|_| TcpListener::bind(own_addr()).expect("ours")).collect();
    let busy: Vec<SocketAddr> = taken.iter().map(|taken| taken.local_addr().expect("an address")).collect();
    let said = refused(&format!(
        "{COMMON}listeners: [{{address: '{}'}}, {{address: '{}'}}]\n\
         services: {{shop: {{endpoints: ['127.0.0.1:1']}}}}\n",
        busy[0], busy[1]
    ));
    assert_mentions(&said, &[&busy[0].to_string(), &busy[1].to_string()]);
}

#[test]
fn wrong_endpoints_on_the_command_line_are_refused() {
    for endpoint in
        ["127.0.0.1", "127.0.0.1:99999", ":80", "http://127.0.0.1:80", "127.0.0.1:80 ", "a b:80", "", "-"]
    {
        let to = format!("--to={endpoint}");
        let output = run(&["up", &to, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{endpoint:?}: {said}");
        assert!(output.stdout.is_empty() && !said.is_empty(), "{endpoint:?}: {said}");
    }
    for arguments in [["--listen", "localhost"], ["--listen", "127.0.0.1:70000"], ["--admin", "127.0.0.1"]] {
        let output = run(&["up", "--to", "127.0.0.1:1", arguments[0], arguments[1]]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(arguments[1]), "{}", text(&output.stderr));
    }
}

#[test]
fn flags_alone_are_enough_for_several_endpoints() {
    let upstreams = [Upstream::constant("one"), Upstream::constant("two")];
    let to = format!("{},{}", upstreams[0].addr(), upstreams[1].addr());
    let arguments =
        ["up", "--to", &to, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--workers", "1"];
    let mut seawall = Seawall::try_run(SEAWALL, &arguments).expect("it serves");
    for _ in 0..20 {
        assert_eq!(get(seawall.addr(), "/").status, 200);
    }
    assert!(upstreams.iter().all(|upstream| upstream.request_count() > 0));
    // The drain of whoever gave no file lasts for seconds: the second signal ends it.
    seawall.signal(SIGTERM);
    seawall.wait_for_line("draining: lame duck");
    seawall.signal(SIGTERM);
    assert!(seawall.wait().success());
}

/// Whether it had begun or not: an interrupted start ends, and leaves no port taken.
#[test]
fn an_interrupted_start_ends_and_leaves_every_port_free() {
    let (listen, admin) = (own_addr(), own_addr());
    let file = File::new(&format!(
        "listeners: [{{address: '{listen}'}}]\nadmin: {{address: '{admin}'}}\n\
         drain: {{lame_duck: 0s, finish: 1s}}\nservices: {{shop: {{endpoints: ['127.0.0.1:1']}}}}\n"
    ));
    for round in 0..20 {
        let mut process = Process::start(Command::new(SEAWALL).args(["up", file.path()])).expect("started");
        let started = std::time::Instant::now();
        // From right after the fork to well after the start.
        while started.elapsed() < std::time::Duration::from_millis(2 * round) {
            std::hint::spin_loop();
        }
        process.signal(SIGINT);
        process.wait(PATIENCE);
        for addr in [listen, admin] {
            assert!(TcpListener::bind(addr).is_ok(), "{addr} is not free");
        }
    }
}
