//! What the metrics page says of the registry and of ids.

use gateway::metrics::{Exporter, Kind, Metric};

use super::Fleet;

pub(crate) const METRICS: &[Metric] = &[
    metric("seawall_coord_registry_services", Kind::Gauge, "Registered services."),
    metric("seawall_coord_registry_instances", Kind::Gauge, "Registered instances, held ones included."),
    metric(
        "seawall_coord_registry_held_instances",
        Kind::Gauge,
        "Instances that vanished together with many others and are held until that is confirmed.",
    ),
    metric("seawall_coord_registry_stale", Kind::Gauge, "1 while the coordination engine cannot be reached."),
    metric("seawall_coord_registry_changes_total", Kind::Counter, "Registrations and departures seen."),
    metric("seawall_coord_registry_refused_total", Kind::Counter, "Registrations that made no sense."),
    metric("seawall_coord_id_workers", Kind::Gauge, "Worker numbers leased to give out ids."),
    metric("seawall_coord_ids_total", Kind::Counter, "Ids given out over HTTP."),
];

const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, labels: &[], help }
}

/// Writes the figures of [`METRICS`], if this process keeps anything for its fleet.
pub(crate) fn export(out: &mut Exporter, fleet: &Fleet) {
    if !fleet.config.coordinates() {
        return;
    }
    let (registry, ids) = (fleet.directory.figures(), fleet.ids.figures());
    let values = [
        registry.services,
        registry.instances,
        registry.held,
        u64::from(registry.stale),
        registry.changes,
        registry.refused,
        ids.numbers,
        ids.given,
    ];
    for (metric, value) in METRICS.iter().zip(values) {
        out.begin(metric);
        out.sample(metric, &[], value as f64);
    }
}
