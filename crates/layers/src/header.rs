//! The headers by which the gateway, the layers and everybody between them understand one another.

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue};
use policy::Report;

/// Deadline that is left, in milliseconds.
pub const DEADLINE_MS: HeaderName = HeaderName::from_static("seawall-deadline-ms");
/// The same, as gRPC writes it.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Criticality class of the request.
pub const CRITICALITY: HeaderName = HeaderName::from_static("seawall-criticality");
/// Which attempt of the request this is, from 1 on. Whoever sends it counts attempts, and so owns retries.
pub const ATTEMPT: HeaderName = HeaderName::from_static("seawall-attempt");
/// On an answer: `never` when trying again at once would do harm.
pub const RETRY: HeaderName = HeaderName::from_static("seawall-retry");
/// On an answer: why it is a refusal and not the application's own answer.
pub const REASON: HeaderName = HeaderName::from_static("seawall-reason");
/// On an answer: `1` when the endpoint asks for no new requests.
pub const LAME_DUCK: HeaderName = HeaderName::from_static("seawall-lame-duck");
/// On an answer: ORCA's load report.
pub const LOAD: HeaderName = HeaderName::from_static("endpoint-load-metrics");

pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Marks an answer, so that whoever called does not try again.
pub(crate) fn forbid_retry(headers: &mut HeaderMap) {
    headers.insert(RETRY, HeaderValue::from_static("never"));
}

/// Whether the message is gRPC's.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// A short text of ASCII letters and digits as a value.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

/// Writes a load report in ORCA's text form, which [`Report::parse`] reads; `None` when it has no figures.
#[must_use]
pub fn format_report(report: &Report) -> Option<HeaderValue> {
    let figures = [
        ("application_utilization", report.application_utilization),
        ("cpu_utilization", report.cpu_utilization),
        ("mem_utilization", report.mem_utilization),
        ("rps_fractional", report.rps_fractional),
        ("eps", report.eps),
        ("named_metrics.requests_in_flight", report.requests_in_flight.map(f64::from)),
        ("named_metrics.latency_ms", report.latency.map(|latency| latency.as_secs_f64() * 1e3)),
    ];
    let mut text = String::from("TEXT");
    let known = figures.into_iter().filter_map(|(name, figure)| Some((name, figure?)));
    for (index, (name, figure)) in
        known.filter(|(_, figure)| figure.is_finite() && *figure >= 0.0).enumerate()
    {
        let separator = if index == 0 { " " } else { ", " };
        let _ = write!(text, "{separator}{name}={}", (figure * 1e6).round() / 1e6);
    }
    (text.len() > "TEXT".len()).then(|| value(&text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn the_names_are_the_gateways() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/src/codec/field.rs");
        let gateway = std::fs::read_to_string(path).unwrap();
        for name in [DEADLINE_MS, GRPC_TIMEOUT, CRITICALITY, ATTEMPT, RETRY, REASON, LAME_DUCK, LOAD] {
            assert!(gateway.contains(&format!("= {:?};", name.as_str())), "the gateway does not know {name}");
        }
    }

    proptest! {
        #[test]
        fn a_report_reads_back(
            application in prop::option::of(0u32..5_000), cpu in prop::option::of(0u32..1_000),
            in_flight in prop::option::of(0u32..1_000_000), latency_us in prop::option::of(0u64..1 << 39),
        ) {
            let report = Report {
                application_utilization: application.map(|share| f64::from(share) / 1e3),
                cpu_utilization: cpu.map(|share| f64::from(share) / 1e3),
                requests_in_flight: in_flight,
                latency: latency_us.map(Duration::from_micros),
                ..Report::default()
            };
            let read = format_report(&report).map(|value| Report::parse(value.as_bytes()).unwrap());
            let mut read = read.unwrap_or_default();
            if let (Some(read), Some(written)) = (&mut read.latency, report.latency) {
                prop_assert!(read.abs_diff(written) < Duration::from_micros(2));
                *read = written;
            }
            prop_assert_eq!(read, report);
        }
    }

    #[test]
    fn impossible_figures_are_not_sent() {
        let report = Report { eps: Some(f64::NAN), rps_fractional: Some(-1.0), ..Report::default() };
        assert_eq!(format_report(&report), None);
    }
}
