//! Rows as tables, and as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::judge::{CLASSES, PATIENCE};
use super::peers::Peer;
use super::trial::{CALM, Plan, Recovery, Row};
use crate::bench::machine;

/// Says who is measured, and how.
pub(super) fn print_method(plan: &Plan, peers: &[Peer]) {
    let capacity = &plan.capacity;
    println!(
        "- method: back end with {} workers of {} ms ({}), first come first served, queue without bound: {:.0} \
         requests/s; open loop (Poisson) of four classes, patience {} s; {} s of each load between phases at {CALM} × \
         the capacity; fresh processes each time; proxy on CPU {}, load and back end on CPU {}",
        capacity.workers,
        capacity.service.as_millis(),
        capacity.spread,
        capacity.per_second(),
        PATIENCE.as_secs(),
        plan.overload.as_secs_f64(),
        machine::PROXY_CPU,
        machine::load_cpu(),
    );
    for peer in peers {
        let Peer { kind, about, .. } = peer;
        println!("- {}: {about} (bench/overload/{}); set by hand: {}", kind.name, kind.file, kind.hand_set);
    }
    println!();
}

/// A table for each number of attempts.
pub(super) fn print(plan: &Plan, attempts: &[u32], rows: &[Row]) {
    println!(
        "Unloaded, without a proxy: p50 {} ms, p99 {} ms.\n",
        millis(plan.unloaded.p50),
        millis(plan.unloaded.p99)
    );
    println!(
        "Goodput is in % of the capacity, in brackets the share of the class's own requests that were answered in time; \
         `back end` is what it was sent, in multiples of its capacity, and how much of what it served nobody waited for \
         any more; `set by hand` is what the configuration knows of the capacity."
    );
    for attempts_max in attempts {
        match attempts_max {
            1 => println!("\n## Clients that do not retry\n"),
            more => println!("\n## Clients that retry, {more} attempts\n"),
        }
        println!(
            "| load | proxy | set by hand | goodput | {} | p50 ms | p99 ms | p50, p99 × unloaded | back end | proxy, load CPU | recovers s | |",
            CLASSES.join(" | ")
        );
        println!("|{}", "---|".repeat(CLASSES.len() + 11));
        for row in rows.iter().filter(|row| row.attempts_max == *attempts_max) {
            println!("{}", line(plan, row));
        }
    }
}

fn line(plan: &Plan, row: &Row) -> String {
    let figures = Figures::of(plan, row);
    let classes: Vec<String> = figures
        .classes
        .iter()
        .map(|(goodput, share)| format!("{:.1} ({})", 100.0 * goodput, percent(*share)))
        .collect();
    let or_dash = |span: Option<Duration>| span.map_or_else(|| "–".to_owned(), millis);
    let times = |span: Option<Duration>, unloaded: Duration| {
        span.map_or_else(|| "–".to_owned(), |span| format!("{:.1}", ratio(span, unloaded)))
    };
    let recovers = match row.recovery {
        Recovery::None => "–".to_owned(),
        Recovery::After(after) => format!("{:.1}", after.as_secs_f64()),
        Recovery::NotWithin(limit) => format!("> {:.0}", limit.as_secs_f64()),
    };
    format!(
        "| {} | {} | {} | {:.1} | {} | {} | {} | {}, {} | {:.2} × ({:.0} % wasted) | {:.0} %, {:.0} % | {recovers} | {} |",
        row.load,
        row.peer.name,
        row.peer.hand_set,
        100.0 * figures.goodput,
        classes.join(" | "),
        or_dash(figures.p50),
        or_dash(figures.p99),
        times(figures.p50, plan.unloaded.p50),
        times(figures.p99, plan.unloaded.p99),
        figures.backend,
        100.0 * figures.wasted,
        100.0 * row.proxy_cpu,
        100.0 * row.load_cpu,
        row.invalid.as_ref().map_or_else(String::new, |why| format!("**invalid**: {why}")),
    )
}

/// Everything that was measured.
pub(super) fn json(plan: &Plan, peers: &[Peer], rows: &[Row]) -> Value {
    let facts = machine::facts().into_iter().map(|(name, fact)| (name.to_owned(), Value::from(fact)));
    let capacity = &plan.capacity;
    json!({
        "machine": Value::Object(facts.collect()),
        "capacity": {
            "workers": capacity.workers,
            "service_ms": in_millis(capacity.service),
            "spread": capacity.spread.to_string(),
            "per_s": capacity.per_second(),
        },
        "patience_ms": in_millis(PATIENCE),
        "overload_s": plan.overload.as_secs_f64(),
        "unloaded_ms": { "p50": in_millis(plan.unloaded.p50), "p99": in_millis(plan.unloaded.p99) },
        "peers": peers.iter().map(|peer| json!({
            "name": peer.kind.name,
            "about": peer.about,
            "config": format!("bench/overload/{}", peer.kind.file),
            "set_by_hand": peer.kind.hand_set,
        })).collect::<Vec<_>>(),
        "rows": rows.iter().map(|row| json_row(plan, row)).collect::<Vec<_>>(),
    })
}

fn json_row(plan: &Plan, row: &Row) -> Value {
    let figures = Figures::of(plan, row);
    let judgement = &row.judgement;
    let classes = CLASSES.iter().enumerate().map(|(class, name)| {
        let (goodput, share) = figures.classes[class];
        let figures = json!({
            "offered": judgement.offered[class],
            "good": judgement.good[class],
            "goodput": goodput,
            "share": share,
        });
        ((*name).to_owned(), figures)
    });
    let (recovery_s, recovered) = match row.recovery {
        Recovery::None => (Value::Null, Value::Null),
        Recovery::After(after) => (after.as_secs_f64().into(), true.into()),
        Recovery::NotWithin(limit) => (limit.as_secs_f64().into(), false.into()),
    };
    json!({
        "peer": row.peer.name,
        "load": row.load,
        "attempts_max": row.attempts_max,
        "invalid": row.invalid,
        "goodput": figures.goodput,
        "classes": Value::Object(classes.collect()),
        "latency_ms": { "p50": figures.p50.map(in_millis), "p99": figures.p99.map(in_millis) },
        "requests": judgement.offered(),
        "attempts": judgement.attempts,
        "failed": {
            "refused": judgement.refused,
            "timed_out": judgement.timed_out,
            "broken": judgement.broken,
            "too_late": judgement.too_late,
            "unsent": judgement.unsent,
        },
        "backend": {
            "arrived": row.backend.arrived,
            "served": row.backend.served,
            "wasted": row.backend.wasted,
            "waiting_at_end": row.backend.waiting,
            "times_capacity": figures.backend,
        },
        "cpu": { "proxy": row.proxy_cpu, "load": row.load_cpu },
        "late_share": judgement.late_share(),
        "recovery_s": recovery_s,
        "recovered": recovered,
    })
}

/// What follows from a row, as shares of the capacity.
struct Figures {
    goodput: f64,
    /// By class: goodput, and the share of its own requests.
    classes: Vec<(f64, Option<f64>)>,
    p50: Option<Duration>,
    p99: Option<Duration>,
    backend: f64,
    wasted: f64,
}

impl Figures {
    fn of(plan: &Plan, row: &Row) -> Self {
        let could = plan.capacity.per_second() * row.span.as_secs_f64();
        let judgement = &row.judgement;
        let quantile =
            |quantile| (judgement.latency.count() > 0).then(|| judgement.latency.quantile(quantile));
        Self {
            goodput: judgement.good() as f64 / could,
            classes: judgement
                .good
                .iter()
                .zip(judgement.offered)
                .map(|(good, offered)| {
                    let share = (offered > 0).then(|| *good as f64 / offered as f64);
                    (*good as f64 / could, share)
                })
                .collect(),
            p50: quantile(0.5),
            p99: quantile(0.99),
            backend: row.backend.arrived as f64 / could,
            wasted: row.backend.wasted as f64 / (row.backend.served as f64).max(1.0),
        }
    }
}

/// Never rounded up to 100: one lost request must show.
fn percent(share: Option<f64>) -> String {
    match share {
        None => "–".to_owned(),
        Some(share) if share >= 1.0 => "100".to_owned(),
        Some(share) => format!("{:.1}", (1000.0 * share).floor() / 10.0),
    }
}

fn millis(span: Duration) -> String {
    format!("{:.0}", in_millis(span))
}

fn in_millis(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

fn ratio(span: Duration, to: Duration) -> f64 {
    span.as_secs_f64() / to.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_request_is_never_rounded_away() {
        assert_eq!(percent(Some(1.0)), "100");
        assert_eq!(percent(Some(0.99999)), "99.9");
        assert_eq!(percent(Some(0.0)), "0.0");
        assert_eq!(percent(None), "–");
    }
}
