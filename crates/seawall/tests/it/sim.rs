//! `seawall sim`: what it plays, shows and refuses.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::{File, run, seawall, text};

/// Half of the shop's endpoints die for two of six seconds.
const SCENARIO: &str = "\
title: Half of the shop is gone
duration: 6s
traffic:
  web:
    service: shop
    arrival: {constant: {per_sec: 100}}
    timeout: 1s
    classes: [{class: CRITICAL, share: 3}, {class: SHEDDABLE, share: 1}]
services:
  shop:
    endpoints: 4
    backend: {workers: 2, service_time: {exponential: {mean: 10ms}}}
faults:
  - {at: 2s, for: 2s, service: shop, endpoints: {count: 2}, what: die}
";

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn a_scenario_is_played_and_shown() {
    let file = File::new(SCENARIO);
    let output = run(&["sim", file.path()]);
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for expected in [
        "Half of the shop is gone\n6 s simulated, seed 1\n",
        "\nall ",
        "\nCRITICAL ",
        "\nSHEDDABLE ",
        "\nshop ",
        "\ngoodput ",
        "A 2–4 s",
        "shop: 2 of 4 endpoints die",
    ] {
        assert!(shown.contains(expected), "`{expected}` is missing in:\n{shown}");
    }
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    assert!(!shown.contains('\u{1b}'), "no colours where there is no terminal:\n{shown}");
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn json_has_the_figures_and_a_seed_repeats_them() {
    let file = File::new(SCENARIO);
    let first = run(&["sim", file.path(), "--json", "--seed", "7"]);
    let report = json(&first);
    for key in [
        "requests",
        "attempts",
        "amplification",
        "success_ratio",
        "goodput_per_s",
        "shed",
        "latency_ms",
        "recovery_s",
        "classes",
        "series",
    ] {
        assert!(report.get(key).is_some(), "{key} is missing");
    }
    assert_eq!(report["seed"], 7);
    assert!(report["latency_ms"]["p999"].is_number() && report["shed"]["SHEDDABLE"].is_number());
    assert_eq!(report["series"]["goodput_per_s"].as_array().map(Vec::len), Some(6));
    assert_eq!(first.stdout, run(&["sim", "--scenario", file.path(), "--json", "--seed", "7"]).stdout);
    assert_ne!(first.stdout, run(&["sim", file.path(), "--json", "--seed", "8"]).stdout);
}

#[test]
fn pages_and_pictures_are_written_to_files() {
    let file = File::new(SCENARIO);
    let (html, svg) = (file.path().replace(".yaml", ".html"), file.path().replace(".yaml", ".svg"));
    assert!(run(&["sim", file.path(), "--html", &html, "--svg", &svg]).status.success());
    let page = std::fs::read_to_string(&html).expect("a page");
    assert!(
        page.starts_with("<!doctype html>")
            && page.contains("Half of the shop is gone")
            && page.contains("duration: 6s")
    );
    assert!(page.len() < 300 << 10, "{} bytes", page.len());
    assert!(std::fs::read_to_string(&svg).expect("a picture").starts_with("<svg "));
    // A longer file of an earlier run leaves nothing behind.
    std::fs::write(&html, "x".repeat(1 << 20)).expect("written");
    assert!(run(&["sim", file.path(), "--html", &html]).status.success());
    assert_eq!(std::fs::read_to_string(&html).expect("a page"), page);
}

#[test]
fn two_scenarios_stand_side_by_side() {
    let (base, other) = (File::new(SCENARIO), File::new(&SCENARIO.replace("endpoints: 4", "endpoints: 8")));
    let shown = text(&run(&["sim", base.path(), "--compare", other.path()]).stdout);
    for expected in ["FIGURE", "RATIO", "seawall.yaml (other)", "\namplification ", "\nCRITICAL success "] {
        assert!(shown.contains(expected), "`{expected}` is missing in:\n{shown}");
    }
    let both = json(&run(&["sim", base.path(), "--compare", other.path(), "--json"]));
    assert_eq!(both["base"]["requests"], both["other"]["requests"], "the same seed asks the same");
}

#[test]
fn a_sweep_plays_each_value() {
    let file = File::new(SCENARIO);
    let html = file.path().replace(".yaml", ".html");
    let arguments = ["sim", file.path(), "--sweep", "endpoints=2,4,8", "--html", &html];
    let shown = text(&run(&arguments).stdout);
    let rows: Vec<_> = shown.lines().take(4).filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(rows, ["endpoints", "2", "4", "8"], "{shown}");
    assert!(shown.contains("set: services.shop.endpoints"), "{shown}");
    assert_eq!(std::fs::read_to_string(&html).expect("a page").matches("<section").count(), 3);

    let rows = json(&run(&["sim", file.path(), "--json", "--sweep", "retry_budget.ratio=0,0.5"]));
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["key"], &rows[1]["value"]), (&"retry_budget.ratio".into(), &0.5.into()));
    assert!(rows.iter().all(|row| row["amplification"].is_number()));
}

#[test]
fn scenarios_that_ship_are_listed_and_played_by_name() {
    let list = text(&run(&["sim", "--list"]).stdout);
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"lost-zone"), "{list}");
    let output = run(&["sim", "lost-zone", "--sweep", "duration=2s"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn the_own_configuration_takes_the_place_of_the_scenarios_policies() {
    let scenario = File::new(SCENARIO);
    let config = "\
routes: [{name: web, service: shop, retry: {attempts_max: 1}, timeout: 700ms}]
services:
  shop: {endpoints: ['10.0.0.1:80', '10.0.0.2:80'], sticky: {cookie: c}}
";
    let config = File::new(config);
    let output = run(&["sim", scenario.path(), "--config", config.path(), "--json"]);
    let report = json(&output);
    let notes = report["notes"].to_string();
    assert!(notes.contains("policies of shop are those of seawall.yaml"), "{notes}");
    assert!(notes.contains("shop: sticky is not simulated"), "{notes}");
    assert_eq!(
        report["events"][0]["what"], "shop: all 2 endpoints die",
        "the configuration has two endpoints"
    );
    let unchanged = json(&run(&["sim", scenario.path(), "--json"]));
    assert_ne!(report["success_ratio"], unchanged["success_ratio"]);

    // Another configuration beside it, and notes where people read them.
    let three = File::new("services: {shop: {endpoints: ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80']}}\n");
    let shown =
        text(&run(&["sim", scenario.path(), "--config", config.path(), "--compare", three.path()]).stdout);
    assert!(shown.contains("FIGURE") && shown.contains("shop: sticky is not simulated"), "{shown}");
}

#[test]
fn a_service_of_another_name_is_named_or_alone() {
    let scenario = File::new(SCENARIO);
    let only = File::new("services: {cart: {endpoints: ['10.0.0.1:80', '10.0.0.2:80', '10.0.0.3:80']}}\n");
    let report = json(&run(&["sim", "--config", only.path(), "--scenario", scenario.path(), "--json"]));
    assert_eq!(report["events"][0]["what"], "shop: 2 of 3 endpoints die");
    let two = File::new(
        "routes: [{service: cart}, {match: {path: /b}, service: bill}]\n\
         services: {cart: {endpoints: ['10.0.0.1:80']}, bill: {endpoints: ['10.0.0.1:80', '10.0.0.2:80']}}\n",
    );
    let report = json(&run(&["sim", scenario.path(), "--config", two.path(), "--service", "bill", "--json"]));
    assert_eq!(report["events"][0]["what"], "shop: all 2 endpoints die");
    for (arguments, expected) in [
        (&["--config", two.path()][..], "say with --service which of them is meant"),
        (&["--config", two.path(), "--service", "bil"], "did you mean `bill`?"),
        (&["--config", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (&["--service", "cart"], "--config"),
    ] {
        let output = run(&[&["sim", scenario.path()], arguments].concat());
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: `{expected}` is missing in:\n{errors}");
    }
}

#[test]
fn a_configuration_that_the_scenario_does_not_fit_is_refused() {
    let scenario = File::new(&SCENARIO.replace("{count: 2}", "{index: 3}"));
    let config = File::new("services: {shop: {endpoints: ['10.0.0.1:80', '10.0.0.2:80']}}\n");
    let output = run(&["sim", scenario.path(), "--config", config.path()]);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("does not fit") && errors.contains("faults[0]"), "{errors}");
}

#[test]
fn what_cannot_be_used_exits_with_2_and_says_why() {
    let good = File::new(SCENARIO);
    let typo = File::new(&SCENARIO.replace("duration", "duraton"));
    let value = File::new(&SCENARIO.replace("duration: 6s", "duration: 6 parsecs"));
    let stranger = File::new(&SCENARIO.replace("service: shop\n    arrival", "service: shopp\n    arrival"));
    let cases: [(&[&str], &str); 15] = [
        (&["sim"], "SCENARIO"),
        (&["sim", "/nonexistent/scenario.yaml"], "/nonexistent/scenario.yaml"),
        (&["sim", "lost-zon"], "did you mean `lost-zone`?"),
        (&["sim", "nothing-like-it"], "--list"),
        (&["sim", typo.path()], "seawall.yaml:2:1: "),
        (&["sim", typo.path()], "duration"),
        (&["sim", value.path()], "seawall.yaml:2:11: "),
        (&["sim", stranger.path()], "did you mean `shop`?"),
        (&["sim", good.path(), "--seed", "x"], "--seed"),
        (&["sim", good.path(), "--compare", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (&["sim", good.path(), "--sweep", "retry_budget.rati=1"], "did you mean `retry_budget.ratio`?"),
        (&["sim", good.path(), "--sweep", "retry_budget.ratio=7"], "retry_budget.ratio=7"),
        (&["sim", good.path(), "--sweep", "a=1", "--compare", good.path()], "--compare"),
        (&["sim", good.path(), "--html", "/nonexistent/page.html"], "/nonexistent/page.html"),
        (&["sim", good.path(), "--svg", "x.svg", "--sweep", "seed=1,2"], "--svg"),
    ];
    for (arguments, expected) in cases {
        let output = run(arguments);
        let errors = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: `{expected}` is missing in:\n{errors}");
        assert!(output.stdout.is_empty(), "{arguments:?} answered something");
    }
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure() {
    let file = File::new(SCENARIO);
    let mut child = seawall(&["sim", file.path(), "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output.stderr));
}

#[test]
fn ctrl_c_ends_it() {
    use std::io::Read;
    use std::os::unix::process::ExitStatusExt;
    // Far more than can be played before the signal comes.
    let file = File::new(&SCENARIO.replace("duration: 6s", "duration: 1000000s"));
    let mut child = seawall(&["sim", file.path()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary can be started");
    let sent = Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
    let status = child.wait().expect("it ends");
    let mut shown = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut shown).expect("text");
    assert_eq!((status.signal(), shown.as_str()), (Some(2), ""));
}
