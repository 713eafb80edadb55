//! What the store counts.

use std::sync::atomic::Ordering::Relaxed;

use gateway::metrics::{Exporter, Kind, Metric};
use gateway::service::Clock;

use super::Keeper;

/// Every metric of the store; written when there is one.
pub(crate) const METRICS: &[Metric] = &[
    metric("seawall_store_commits_total", Kind::Counter, "Transactions acknowledged."),
    metric("seawall_store_failures_total", Kind::Counter, "Transactions that failed and were not run again."),
    metric(
        "seawall_store_conflicts_total",
        Kind::Counter,
        "Transactions run again because another came first.",
    ),
    metric(
        "seawall_store_commit_seconds_total",
        Kind::Counter,
        "Time that acknowledged transactions took, in sum.",
    ),
    metric(
        "seawall_store_drills_succeeded_total",
        Kind::Counter,
        "Back-ups that were restored and compared.",
    ),
    metric(
        "seawall_store_drills_failed_total",
        Kind::Counter,
        "Back-ups that could not be made or restored.",
    ),
    metric(
        "seawall_store_last_restore_timestamp_seconds",
        Kind::Gauge,
        "When a back-up was last restored successfully; 0 when none ever was.",
    ),
    metric(
        "seawall_store_restore_stale",
        Kind::Gauge,
        "1 when back-ups are wanted and the last successful restore is longer ago than stale_after. File a ticket.",
    ),
    metric(
        "seawall_store_rules_broken",
        Kind::Gauge,
        "Rules that the newest check of the records found broken.",
    ),
    metric(
        "seawall_store_rows_removed_total",
        Kind::Counter,
        "Rows removed because of age, or purged after deletion.",
    ),
];

const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, labels: &[], help }
}

/// Writes the figures of [`METRICS`].
pub(crate) fn export(out: &mut Exporter, keeper: &Keeper) {
    let figures = keeper.store().figures();
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Relaxed) as f64;
    let restored = keeper.last_restore().map_or(0, |at| at.as_unix_nanos() / 1_000_000_000);
    let values = [
        count(&figures.committed),
        count(&figures.failed),
        count(&figures.conflicts),
        count(&figures.commit_nanos) / 1e9,
        count(&keeper.drills_succeeded),
        count(&keeper.drills_failed),
        restored as f64,
        f64::from(u8::from(keeper.is_stale(Clock::wall()))),
        count(&keeper.rules_broken),
        count(&keeper.rows_removed),
    ];
    for (metric, value) in METRICS.iter().zip(values) {
        out.begin(metric);
        out.sample(metric, &[], value);
    }
}
