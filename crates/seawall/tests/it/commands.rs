//! Commands that end by themselves.

use std::net::TcpListener;

use crate::{File, run, text};

const GOOD: &str = "services:\n  cart:\n    endpoints: [10.0.0.1:8080]\n";

#[test]
fn check_says_what_a_good_file_amounts_to() {
    let file = File::new(GOOD);
    let output = run(&["check", file.path()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout), format!("{}: ok, 1 listener, 1 route, 1 service\n", file.path()));
}

#[test]
fn check_names_place_value_and_remedy_of_every_error_and_exits_with_2() {
    let file =
        File::new("workerz: 3\nservices:\n  cart:\n    endpoints: [10.0.0.1:8080]\n    panic_below: 7\n");
    let output = run(&["check", file.path()]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    for expected in [":1:1", "workerz", "workers", ":5:18", "7", "2 errors"] {
        assert!(errors.contains(expected), "`{expected}` is missing in:\n{errors}");
    }
    assert!(output.stdout.is_empty());

    let json = run(&["check", "--format", "json", file.path()]);
    assert_eq!(json.status.code(), Some(2));
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(document["errors"].as_array().map(Vec::len), Some(2), "{document}");
}

#[test]
fn what_cannot_be_used_exits_with_2_and_says_why() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let several = File::new("services:\n  a: {endpoints: [10.0.0.1:1]}\n  b: {endpoints: [10.0.0.1:2]}\n");
    let empty = File::new("");
    let cases: [(&[&str], &str); 10] = [
        (&["check", "/nonexistent/seawall.yaml"], "/nonexistent/seawall.yaml"),
        (&["up", "/nonexistent/seawall.yaml"], "/nonexistent/seawall.yaml"),
        (&["up"], "FILE"),
        (&["up", "--to", "127.0.0.1:1", "seawall.yaml"], "--to"),
        (&["up", "--to", "127.0.0.1:1", "--listen", &address, "--admin", "off"], &address),
        (&["up", "--to", "127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin", &address], &address),
        (&["up", "--to", "127.0.0.1:1", "--admin", "nowhere"], "off"),
        (&["check", several.path()], "several services but no route"),
        (&["check", empty.path()], "service"),
        (&["--log-level", "a=b=c", "schema"], "a=b=c"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: `{expected}` is missing in:\n{errors}");
        assert!(output.stdout.is_empty(), "{arguments:?} announced something");
    }
}

#[test]
fn without_a_command_it_prints_help() {
    let output = run(&[]);
    assert_eq!(output.status.code(), Some(2));
    let help = text(&output.stderr);
    for command in ["up", "check", "schema", "explain", "status", "sim", "demo"] {
        assert!(help.contains(&format!("\n  {command}")), "{command} is missing in:\n{help}");
    }
    for hidden in ["reference", "shop"] {
        assert!(!help.contains(&format!("\n  {hidden}")), "{hidden} is shown in:\n{help}");
    }
}

#[test]
fn the_schema_is_json_and_knows_every_root_key() {
    let output = run(&["schema"]);
    assert!(output.status.success());
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["additionalProperties"], false);
    for key in [
        "listeners",
        "routes",
        "services",
        "retry_budget",
        "limits",
        "access_log",
        "drain",
        "workers",
        "admin",
    ] {
        assert!(schema["properties"][key].is_object(), "{key}");
    }
}

#[test]
fn references_are_generated() {
    assert!(text(&run(&["reference", "config"]).stdout).contains("`endpoints`"));
    assert!(text(&run(&["reference", "metrics"]).stdout).contains("`seawall_config_reload_failures_total`"));
}

#[test]
fn status_says_clearly_that_nobody_answers() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&["status", "--admin", &format!("http://{free}")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains(&format!("nobody answers at http://{free}")),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(run(&["status", "--admin", "ftp://x"]).status.code(), Some(2));
}
