//! Reports as a reader or a program gets them.

use std::time::Duration;

use expect_test::expect;
use model::{Criticality, Instant, Ratio, Span};

use super::*;
use crate::Scenario;
use crate::scenario::{Endpoints, Fault, Service, What};

const CLASSES: [Criticality; 2] = [Criticality::CriticalPlus, Criticality::Sheddable];

/// A minute of 100 requests a second of two classes. From 20 s to 30 s half of them are refused and the others slow.
fn sample(title: &str) -> Report {
    let fault = Fault {
        at: Span::from_secs(20),
        r#for: Some(Span::from_secs(10)),
        service: "cart".to_owned(),
        endpoints: Endpoints::Share(Ratio::percent(50)),
        stagger: Span::from_millis(0),
        traffic: None,
        what: What::Die,
    };
    let service = Service { endpoints: 4, ..Service::default() };
    let scenario = Scenario {
        title: title.to_owned(),
        seed: 7,
        services: [("cart".to_owned(), service)].into(),
        faults: vec![fault],
        ..Scenario::default()
    };
    let mut recorder = Recorder::new(&scenario);
    for step in 0..6_000u64 {
        let (at, who) = (step * 10, Who { traffic: 0, class: CLASSES[step as usize % 2] });
        let ill = (20_000..30_000).contains(&at);
        let now = Instant::from_millis(at);
        recorder.on_arrival(now, who);
        recorder.on_load(now, 3.0, if ill { 4.0 } else { 10.0 });
        if ill && who.class == Criticality::Sheddable {
            recorder.on_shed(now, who, 0, Shed::Admission);
            recorder.on_end(now, who, Ending::Refused, Duration::ZERO);
            continue;
        }
        recorder.on_attempt(now, who, 0, step as usize % 4, false);
        recorder.on_served(now, 0, step as usize % 4, true);
        recorder.on_end(now, who, Ending::Success, Duration::from_millis(if ill { 400 } else { 20 }));
    }
    recorder.finish(Instant::from_secs(60))
}

#[test]
fn the_keys_of_the_json_are_stable() {
    let value = serde_json::to_value(sample("two classes")).unwrap();
    let mut keys = String::new();
    fn walk(keys: &mut String, indent: usize, value: &serde_json::Value) {
        let serde_json::Value::Object(entries) = value else { return };
        for (key, value) in entries {
            keys.push_str(&format!("{}{key}\n", "  ".repeat(indent)));
            walk(keys, indent + 1, value);
        }
    }
    walk(&mut keys, 0, &value);
    expect![[r#"
        amplification
        attempts
        classes
          CRITICAL_PLUS
            amplification
            attempts
            goodput_per_s
            latency_ms
              p50
              p99
              p999
            recovery_s
            requests
            shed
            success_ratio
          SHEDDABLE
            amplification
            attempts
            goodput_per_s
            latency_ms
              p50
              p99
              p999
            recovery_s
            requests
            shed
            success_ratio
        client_retries
        duration_s
        errors
          refused
        events
        goodput_per_s
        latency_ms
          p50
          p99
          p999
        notes
        recovery_s
        refusals
          admission
        requests
        scenario
        seed
        series
          active
          at_s
          attempts_per_s
          classes
            CRITICAL_PLUS
              goodput_per_s
              offered_per_s
            SHEDDABLE
              goodput_per_s
              offered_per_s
          errors_per_s
            refused
          goodput_per_s
          limit
          offered_per_s
          p50_ms
          p99_ms
          shed_per_s
            CRITICAL_PLUS
            SHEDDABLE
          slot_s
          wasted_per_s
        services
          cart
            attempts
            busiest
            refusals
            served
            wasted
        shed
          CRITICAL_PLUS
          SHEDDABLE
        success_ratio
    "#]]
    .assert_eq(&keys);
}

#[test]
fn the_order_of_the_json_is_that_of_importance() {
    let json = sample("two classes").to_json();
    let at = |key: &str| json.find(&format!("\"{key}\"")).unwrap();
    let wanted = [
        "scenario",
        "seed",
        "requests",
        "attempts",
        "amplification",
        "success_ratio",
        "goodput_per_s",
        "latency_ms",
        "recovery_s",
        "shed",
        "errors",
        "classes",
        "events",
        "series",
    ];
    assert!(wanted.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{json}");
    assert!(json.find("CRITICAL_PLUS").unwrap() < json.find("SHEDDABLE").unwrap());
}

#[test]
fn a_terminal_shows_figures_and_how_they_went() {
    let shown = text(&sample("two classes"), Paint::Plain);
    assert!(shown.lines().all(|line| line.chars().count() <= 100), "{shown}");
    expect![[r#"
        two classes
        60 s simulated, seed 7

        CLASS          REQUESTS   AMPL.  SUCCESS  GOODPUT  SHED      P50      P99    P99.9  RECOVERY
        all                6000  0.92 ×  91.67 %  91.7 /s   500  20.2 ms   398 ms   398 ms       0 s
        CRITICAL_PLUS      3000  1.00 ×    100 %    50 /s     0  20.2 ms   398 ms   398 ms       0 s
        SHEDDABLE          3000  0.83 ×  83.33 %  41.7 /s   500  20.2 ms  20.2 ms  20.2 ms       0 s

        failures        refused 500
        refused by      admission 500
        client retries  0

        SERVICE  ATTEMPTS  SERVED  FOR NOBODY  REFUSED  BUSIEST/MEAN
        cart         5500    5500           0      500        1.09 ×

        offered        ████████████████████████████████████████████████████████████  up to 100 /s
        attempts       ████████████████████▄▄▄▄▄▄▄▄▄▄██████████████████████████████  up to 100 /s
        goodput        ████████████████████▄▄▄▄▄▄▄▄▄▄██████████████████████████████  up to 100 /s
        refused                            ▄▄▄▄▄▄▄▄▄▄                                up to 50 /s
        p50            ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁██████████▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  up to 398 ms
        p99            ▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁██████████▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁▁  up to 398 ms
        active         ▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃▃  up to 3
        limit          ████████████████████▄▄▄▄▄▄▄▄▄▄██████████████████████████████  up to 10
        CRITICAL_PLUS  ████████████████████████████████████████████████████████████  good, 100 % at worst
        SHEDDABLE      ████████████████████          ██████████████████████████████  good, 0 % at worst
                       0 s                                                     60 s
                       ····················━━━━━━━━━━······························  A
          A 20–30 s       cart: 2 of 4 endpoints die
    "#]]
    .assert_eq(&shown);
}

#[test]
fn two_runs_stand_side_by_side() {
    let (base, mut other) = (sample("a"), sample("b"));
    other.total.recovery_s = None;
    other.total.goodput_per_s /= 2.0;
    let shown = comparison(("base.yaml", &base), ("other.yaml", &other), Paint::Plain);
    expect![[r#"
        FIGURE                       base.yaml  other.yaml   RATIO
        requests                          6000        6000  1.00 ×
        attempts                          5500        5500  1.00 ×
        amplification                   0.92 ×      0.92 ×  1.00 ×
        success                        91.67 %     91.67 %  1.00 ×
        goodput                        91.7 /s     45.8 /s  0.50 ×
        p50                            20.2 ms     20.2 ms  1.00 ×
        p99                             398 ms      398 ms  1.00 ×
        p99.9                           398 ms      398 ms  1.00 ×
        recovery                           0 s       never       –
        requests shed                      500         500  1.00 ×
        client retries                       0           0       –
        served for nobody                    0           0       –
        CRITICAL_PLUS requests            3000        3000  1.00 ×
        CRITICAL_PLUS attempts            3000        3000  1.00 ×
        CRITICAL_PLUS amplification     1.00 ×      1.00 ×  1.00 ×
        CRITICAL_PLUS success            100 %       100 %  1.00 ×
        CRITICAL_PLUS goodput            50 /s       50 /s  1.00 ×
        CRITICAL_PLUS p50              20.2 ms     20.2 ms  1.00 ×
        CRITICAL_PLUS p99               398 ms      398 ms  1.00 ×
        CRITICAL_PLUS p99.9             398 ms      398 ms  1.00 ×
        CRITICAL_PLUS recovery             0 s         0 s       –
        SHEDDABLE requests                3000        3000  1.00 ×
        SHEDDABLE attempts                2500        2500  1.00 ×
        SHEDDABLE amplification         0.83 ×      0.83 ×  1.00 ×
        SHEDDABLE success              83.33 %     83.33 %  1.00 ×
        SHEDDABLE goodput              41.7 /s     41.7 /s  1.00 ×
        SHEDDABLE p50                  20.2 ms     20.2 ms  1.00 ×
        SHEDDABLE p99                  20.2 ms     20.2 ms  1.00 ×
        SHEDDABLE p99.9                20.2 ms     20.2 ms  1.00 ×
        SHEDDABLE recovery                 0 s         0 s       –
    "#]]
    .assert_eq(&shown);
    let rows =
        sweep("services.cart.endpoints", &[("4".to_owned(), &base), ("8".to_owned(), &other)], Paint::Plain);
    assert!(rows.lines().count() == 3 && rows.lines().all(|line| line.chars().count() <= 100), "{rows}");
}

#[test]
fn only_paint_brings_escape_sequences() {
    let hostile = sample("\u{1b}[2J\u{7}x");
    let plain = text(&hostile, Paint::Plain);
    assert!(plain.chars().all(|c| c == '\n' || !c.is_control()), "{plain}");
    assert!(text(&sample("x"), Paint::Ansi).contains("\u{1b}[1m"));
}

#[test]
fn a_page_needs_nothing_else_and_stays_small() {
    let report = sample("two classes");
    let run = Run { name: "base", report: &report, scenario: "title: two classes\n" };
    for runs in [vec![run], vec![run; 2], vec![run; 9]] {
        let html = page("two classes", &runs);
        assert!(html.len() < 300 << 10, "{} bytes of {} runs", html.len(), runs.len());
        for outside in ["src=", "href=", "@import", "url(", "http://", "https://"] {
            assert!(!html.contains(outside), "{outside}");
        }
        assert!(html.matches("<svg").count() >= 5 * runs.len().min(4));
    }
}

#[test]
fn the_longest_run_still_makes_a_small_page() {
    let mut report = sample("long");
    let columns = &mut report.series;
    let long = |column: &mut Vec<f64>| *column = (0..10_000).map(|slot| f64::from(slot) * 123.456).collect();
    long(&mut columns.at_s);
    long(&mut columns.offered_per_s);
    long(&mut columns.attempts_per_s);
    long(&mut columns.goodput_per_s);
    columns.errors_per_s.values_mut().chain(columns.shed_per_s.values_mut()).for_each(long);
    let text = "x".repeat(1 << 20);
    let run = Run { name: "base", report: &report, scenario: &text };
    for runs in [vec![run], vec![run; 4]] {
        assert!(page("long", &runs).len() < 300 << 10);
    }
}

#[test]
fn no_text_becomes_markup() {
    let attack = "\"'><script>alert(1)</script>&<img onerror=x>\u{0}";
    let build = |text: &str| {
        let mut report = sample(text);
        report.events[0].what = text.to_owned();
        report.notes.push(text.to_owned());
        report.services = report.services.into_values().map(|service| (text.to_owned(), service)).collect();
        let run = Run { name: text, report: &report, scenario: text };
        [page(text, &[run, run]), picture(&report)]
    };
    for (plain, hostile) in build("x").iter().zip(build(attack)) {
        for mark in ['<', '>', '"', '\''] {
            assert_eq!(plain.matches(mark).count(), hostile.matches(mark).count(), "{mark}");
        }
        assert!(hostile.contains("&lt;script&gt;") && !hostile.contains('\u{0}'));
    }
}

#[test]
fn a_picture_is_one_svg_file() {
    let svg = picture(&sample("two classes"));
    assert!(svg.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\"") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<svg").count(), 1);
    assert!(svg.contains("goodput") && svg.contains("p99"));
}

#[test]
fn a_run_without_anything_can_be_shown() {
    let report = Recorder::new(&Scenario::default()).finish(Instant::ORIGIN);
    let run = Run { name: "", report: &report, scenario: "" };
    assert!(page("", &[run]).ends_with("</html>\n"));
    assert!(text(&report, Paint::Plain).starts_with("simulation\n60 s simulated"));
    assert!(picture(&report).ends_with("</svg>\n"));
}
