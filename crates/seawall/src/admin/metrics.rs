//! The metrics page: the gateway's families and those of the process around it, in the format that the scraper prefers.

use gateway::metrics::{Exporter, Kind, Metric};

use crate::app::ConfigFigures;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.0.
    OpenMetrics,
}

impl Format {
    /// OpenMetrics for whoever accepts it at least as much as plain text; plain text for everybody else.
    pub(super) fn negotiate(accept: &str) -> Self {
        let quality = |kind: &str| {
            let parts = accept.split(',').filter_map(|part| {
                let mut parameters = part.split(';').map(str::trim);
                let matches = parameters.next()?.eq_ignore_ascii_case(kind);
                let quality = parameters.find_map(|parameter| parameter.strip_prefix("q="));
                matches.then(|| quality.map_or(1.0, |quality| quality.parse::<f64>().unwrap_or(0.0)))
            });
            parts.fold(0.0, f64::max)
        };
        let openmetrics = quality("application/openmetrics-text");
        if openmetrics > 0.0 && openmetrics >= quality("text/plain") {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What the process around the gateway adds.
pub(crate) const METRICS: &[Metric] = &[
    metric("seawall_config_version", Kind::Gauge, "Counts the configurations that took effect, from 1."),
    metric(
        "seawall_config_loaded_timestamp_seconds",
        Kind::Gauge,
        "When the configuration in force took effect.",
    ),
    metric(
        "seawall_config_current",
        Kind::Gauge,
        "1 when the newest file is in force, 0 when it was refused.",
    ),
    metric("seawall_config_reload_failures_total", Kind::Counter, "Times that a changed file was refused."),
    #[cfg(feature = "count-allocations")]
    metric(
        "seawall_process_allocations_total",
        Kind::Counter,
        "Allocations and reallocations of the process since it started.",
    ),
];

const fn metric(name: &'static str, kind: Kind, help: &'static str) -> Metric {
    Metric { name, kind, labels: &[], help }
}

/// Writes the figures of [`METRICS`].
pub(super) fn export(out: &mut Exporter, config: ConfigFigures) {
    let values = [
        config.version,
        config.since,
        u64::from(config.current),
        config.refused,
        #[cfg(feature = "count-allocations")]
        testkit::alloc::allocations(),
    ];
    for (metric, value) in METRICS.iter().zip(values) {
        out.begin(metric);
        out.sample(metric, &[], value as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn the_scraper_chooses_the_format() {
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        assert_eq!(Format::negotiate(prometheus), Format::OpenMetrics);
        for plain in [
            "",
            "*/*",
            "text/plain",
            "text/plain;q=1,application/openmetrics-text;q=0.5",
            "application/openmetrics-text;q=0",
            "text/html",
        ] {
            assert_eq!(Format::negotiate(plain), Format::Prometheus, "{plain}");
        }
    }

    #[test]
    fn both_formats_end_as_they_must() {
        let figures = ConfigFigures { version: 3, since: 1_700_000_000, refused: 2, current: false };
        let page = |openmetrics| {
            let mut out = Exporter::new(openmetrics);
            export(&mut out, figures);
            out.finish()
        };
        expect![[r#"
            # HELP seawall_config_version Counts the configurations that took effect, from 1.
            # TYPE seawall_config_version gauge
            seawall_config_version 3
            # HELP seawall_config_loaded_timestamp_seconds When the configuration in force took effect.
            # TYPE seawall_config_loaded_timestamp_seconds gauge
            seawall_config_loaded_timestamp_seconds 1700000000
            # HELP seawall_config_current 1 when the newest file is in force, 0 when it was refused.
            # TYPE seawall_config_current gauge
            seawall_config_current 0
            # HELP seawall_config_reload_failures Times that a changed file was refused.
            # TYPE seawall_config_reload_failures counter
            seawall_config_reload_failures_total 2
            # EOF
        "#]]
        .assert_eq(&page(true));
        let prometheus = page(false);
        assert!(prometheus.contains("# TYPE seawall_config_reload_failures_total counter\n"), "{prometheus}");
        assert!(!prometheus.contains("EOF"));
    }
}
