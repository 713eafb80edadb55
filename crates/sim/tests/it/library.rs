//! The scenarios that ship: what their first lines say to expect, with the policies of the file and without any.

use config::{Environment, Source};
use model::Criticality::{Critical, CriticalPlus, Sheddable};
use sim::{Report, Scenario, run};

fn load(text: &str) -> Scenario {
    let source = Source::new("scenario", text);
    match config::load(&source, &Environment::without_files()) {
        Ok(loaded) => loaded.value,
        Err(errors) => panic!("{errors}"),
    }
}

/// A scenario with its policies, and without any.
macro_rules! played {
    ($name:literal) => {
        played(include_str!(concat!("../../../../scenarios/", $name, ".yaml")))
    };
}

fn played(text: &str) -> (Report, Report) {
    let mut scenario = load(text);
    let with = run(&scenario);
    for service in scenario.services.values_mut() {
        service.policies.enabled = false;
    }
    let without = run(&scenario);
    assert_eq!(with.total.requests, without.total.requests, "the same requests arrive");
    (with, without)
}

fn p99(report: &Report) -> f64 {
    report.total.latency_ms.unwrap().p99
}

/// The share of what arrived that was answered well, from one second to another.
fn success(report: &Report, from: usize, to: usize) -> f64 {
    let sum = |series: &[f64]| series[from..to].iter().sum::<f64>();
    sum(&report.series.goodput_per_s) / sum(&report.series.offered_per_s)
}

fn class(report: &Report, class: model::Criticality) -> f64 {
    report.classes[&class].figures.success_ratio
}

#[test]
fn lost_zone() {
    let (with, without) = played!("lost-zone");
    assert!(with.total.success_ratio >= 0.985, "{}", with.total.success_ratio);
    assert!(with.total.amplification <= 1.02, "{}", with.total.amplification);
    assert!(p99(&with) <= 600.0 && p99(&without) >= 700.0, "{} ms, {} ms", p99(&with), p99(&without));
    assert!(success(&with, 23, 60) >= 0.985, "{}", success(&with, 23, 60));
}

#[test]
fn retry_storm() {
    let (with, without) = played!("retry-storm");
    assert!(success(&with, 25, 60) >= 0.97, "{}", success(&with, 25, 60));
    assert!(success(&without, 25, 60) <= 0.2, "{}", success(&without, 25, 60));
    assert!(with.total.amplification <= 1.1, "{}", with.total.amplification);
    assert!(without.total.amplification >= 3.0, "{}", without.total.amplification);
}

#[test]
fn slow_dependency() {
    let (with, without) = played!("slow-dependency");
    assert!(with.total.success_ratio >= 0.94, "{}", with.total.success_ratio);
    assert!(success(&with, 28, 60) >= 0.98, "{}", success(&with, 28, 60));
    assert!(success(&without, 28, 40) <= 0.2, "{}", success(&without, 28, 40));
}

#[test]
fn cold_cache() {
    let (with, without) = played!("cold-cache");
    assert!(success(&with, 25, 90) >= 0.4, "{}", success(&with, 25, 90));
    assert!(success(&with, 85, 90) >= 0.9, "{}", success(&with, 85, 90));
    assert!(success(&without, 25, 90) <= 0.1, "{}", success(&without, 25, 90));
    assert!(class(&with, Critical) >= class(&with, Sheddable) + 0.1);
}

#[test]
fn thundering_herd() {
    let (with, without) = played!("thundering-herd");
    assert!(class(&with, CriticalPlus) >= 0.98, "{}", class(&with, CriticalPlus));
    assert!(class(&without, CriticalPlus) <= 0.7, "{}", class(&without, CriticalPlus));
    assert!(with.total.recovery_s.is_some_and(|secs| secs <= 6.0), "{:?}", with.total.recovery_s);
}

#[test]
fn traffic_spike() {
    let (with, without) = played!("traffic-spike");
    assert!(class(&with, CriticalPlus) >= 0.9, "{}", class(&with, CriticalPlus));
    assert!(class(&with, CriticalPlus) >= class(&with, Sheddable) + 0.4);
    // Most of what the service can do is done: 400 a second.
    let goodput = with.series.goodput_per_s[22..40].iter().sum::<f64>() / 18.0;
    assert!(goodput >= 340.0, "{goodput}");
    assert!(success(&with, 44, 60) >= 0.98, "{}", success(&with, 44, 60));
    assert!(success(&without, 44, 60) <= 0.2, "{}", success(&without, 44, 60));
}

#[test]
fn bad_push() {
    let (with, without) = played!("bad-push");
    assert!(with.total.success_ratio >= 0.985, "{}", with.total.success_ratio);
    assert!((0.9..0.95).contains(&without.total.success_ratio), "{}", without.total.success_ratio);
}

#[test]
fn gc_pauses() {
    let (with, without) = played!("gc-pauses");
    assert!(p99(&with) <= 0.5 * p99(&without), "{} ms, {} ms", p99(&with), p99(&without));
    assert!(with.total.amplification <= 1.1, "{}", with.total.amplification);
}

#[test]
fn black_hole() {
    let (with, without) = played!("black-hole");
    assert!(with.total.success_ratio >= 0.998, "{}", with.total.success_ratio);
    assert!(p99(&with) <= 150.0 && p99(&without) >= 400.0, "{} ms, {} ms", p99(&with), p99(&without));
}

#[test]
fn what_a_scenario_gets_wrong_is_named() {
    let source = Source::new(
        "scenario",
        "traffic: {web: {service: shp, timeout: 0s}}\n\
         services: {shop: {endpoints: 0, calls: [{service: shop}]}}\n\
         faults: [{at: 1s, service: shop, endpoints: {zone: x}, what: die, traffic: web}]\n",
    );
    let loaded = config::load::<Scenario>(&source, &Environment::without_files());
    let errors = loaded.unwrap_err().to_string();
    for part in [
        "no service is called `shp`",
        "did you mean `shop`?",
        "nobody waits for an answer",
        "a service without endpoints answers nobody",
        "`shop` calls itself by way of `shop`",
        "`shop` has no zone `x`",
        "can be limited to one traffic",
    ] {
        assert!(errors.contains(part), "{part} is missing in\n{errors}");
    }
}
