//! What an endpoint says of its own load: ORCA's `endpoint-load-metrics` header.

use core::str;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::Instant;

/// What an endpoint says of its own load. Absent figures were not reported.
///
/// Source: `xds.data.orca.v3.OrcaLoadReport`. [`Report::requests_in_flight`] and [`Report::latency`] (for Prequal) and
/// [`Report::cache_hit_ratio`] (for slow start) are not part of it; they travel as named metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Utilisation that the application vouches for; 1.0 is its capacity, more is possible.
    pub application_utilization: Option<f64>,
    /// CPU utilisation; 1.0 is all it may use.
    pub cpu_utilization: Option<f64>,
    /// Memory utilisation.
    pub mem_utilization: Option<f64>,
    /// Requests per second that it serves.
    pub rps_fractional: Option<f64>,
    /// Errors per second that it answers.
    pub eps: Option<f64>,
    /// Requests in flight (`named_metrics.requests_in_flight`, or `named_metrics.rif`).
    pub requests_in_flight: Option<u32>,
    /// Its own estimate of the latency at that number in flight (`named_metrics.latency_ms`).
    pub latency: Option<Duration>,
    /// Share of look-ups that its cache answers, at most 1 (`named_metrics.cache_hit_ratio`).
    pub cache_hit_ratio: Option<f64>,
}

/// Longer header values are not looked at.
const LEN_MAX: usize = 4096;
/// Nobody is believed to take longer than this.
const LATENCY_MAX_MS: f64 = 1e9;

impl Report {
    /// Reads the value of an `endpoint-load-metrics` header: `TEXT cpu_utilization=0.3, named_metrics.rif=4`, or
    /// `JSON {"cpu_utilization": 0.3, "named_metrics": {"rif": 4}}`. Without a prefix a value that begins with `{`
    /// is JSON and any other one text; both `=` and `:` separate a name from its number in text, since both are met.
    ///
    /// Never fails: what is unknown, not a number, negative or infinite is skipped, and the binary form (`BIN`) is
    /// skipped whole. Allocates nothing. `None` when no figure is left.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = str::from_utf8(value.get(..value.len().min(LEN_MAX))?).ok()?.trim();
        let mut report = Self::default();
        match text.split_once(' ') {
            Some(("TEXT", rest)) => report.read_text(rest),
            Some(("JSON", rest)) => report.read_json(rest),
            Some(("BIN", _)) => {}
            _ if text.starts_with('{') => report.read_json(text),
            _ => report.read_text(text),
        }
        (report != Self::default()).then_some(report)
    }

    /// The utilisation to balance by: the application's own figure, else the CPU's.
    #[must_use]
    pub fn utilization(&self) -> Option<f64> {
        self.application_utilization.filter(|share| *share > 0.0).or(self.cpu_utilization)
    }

    fn read_text(&mut self, text: &str) {
        for metric in text.split(',') {
            if let Some((name, number)) = metric.split_once(['=', ':']) {
                match name.trim().strip_prefix("named_metrics.") {
                    Some(name) => self.set_named(name, number),
                    None => self.set(name.trim(), number),
                }
            }
        }
    }

    /// Reads two levels of an object of numbers. Deeper or other values are stepped over token by token, so that no
    /// input can nest the reader.
    fn read_json(&mut self, text: &str) {
        let mut rest = text;
        let mut depth = 0u32;
        let mut named = false;
        while let Some(at) = rest.find(['{', '}', '[', ']', '"']) {
            let (token, tail) = (rest.as_bytes()[at], &rest[at + 1..]);
            rest = tail;
            match token {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    named &= depth > 1;
                }
                _ => {
                    let Some((name, tail)) = string(rest) else { return };
                    rest = tail;
                    let Some(value) = rest.trim_start().strip_prefix(':') else { continue };
                    rest = value.trim_start();
                    if depth == 1 {
                        named = name == "named_metrics" || name == "namedMetrics";
                    }
                    if rest.starts_with(['{', '[', '"']) {
                        continue;
                    }
                    let number = &rest[..rest.find([',', '}', ']']).unwrap_or(rest.len())];
                    match depth {
                        1 => self.set(name, number),
                        2 if named => self.set_named(name, number),
                        _ => {}
                    }
                }
            }
        }
    }

    fn set(&mut self, name: &str, number: &str) {
        let figure = match name {
            "application_utilization" | "applicationUtilization" => &mut self.application_utilization,
            "cpu_utilization" | "cpuUtilization" => &mut self.cpu_utilization,
            "mem_utilization" | "memUtilization" => &mut self.mem_utilization,
            "rps_fractional" | "rpsFractional" => &mut self.rps_fractional,
            "eps" => &mut self.eps,
            _ => return,
        };
        *figure = figure_of(number).or(*figure);
    }

    fn set_named(&mut self, name: &str, number: &str) {
        let Some(figure) = figure_of(number) else { return };
        match name {
            "requests_in_flight" | "rif" => self.requests_in_flight = Some(figure as u32),
            "latency_ms" => {
                self.latency = Some(Duration::from_secs_f64(figure.min(LATENCY_MAX_MS) / 1e3));
            }
            "cache_hit_ratio" => self.cache_hit_ratio = Some(figure.min(1.0)),
            _ => {}
        }
    }
}

/// The string that begins here (its opening quote is read), and what follows it. Escapes are kept as they stand.
fn string(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    let end = text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })?;
    Some((&text[..end], &text[end + 1..]))
}

/// A load figure: a finite number that is not negative.
fn figure_of(number: &str) -> Option<f64> {
    number.trim().parse().ok().filter(|figure: &f64| figure.is_finite() && *figure >= 0.0)
}

/// An endpoint's last report, figure by figure: a reader that races with a new report may see some figures of each.
#[derive(Debug)]
pub(crate) struct Reported {
    /// Nanoseconds; [`Instant::NEVER`] before the first report.
    at: AtomicU64,
    /// In the order of [`Report`]'s fields; not a number where absent; latency in seconds.
    figures: [AtomicU64; 8],
}

impl Default for Reported {
    fn default() -> Self {
        let absent = f64::NAN.to_bits();
        Self {
            at: AtomicU64::new(Instant::NEVER.as_nanos()),
            figures: core::array::from_fn(|_| AtomicU64::new(absent)),
        }
    }
}

impl Reported {
    pub(crate) fn set(&self, now: Instant, report: &Report) {
        let figures = [
            report.application_utilization,
            report.cpu_utilization,
            report.mem_utilization,
            report.rps_fractional,
            report.eps,
            report.requests_in_flight.map(f64::from),
            report.latency.map(|latency| latency.as_secs_f64()),
            report.cache_hit_ratio,
        ];
        for (cell, figure) in self.figures.iter().zip(figures) {
            cell.store(figure.unwrap_or(f64::NAN).to_bits(), Relaxed);
        }
        self.at.store(now.as_nanos(), Relaxed);
    }

    pub(crate) fn get(&self) -> Option<(Instant, Report)> {
        let at = Instant::from_nanos(self.at.load(Relaxed));
        if at == Instant::NEVER {
            return None;
        }
        let figure = |index: usize| self.figure(index);
        let report = Report {
            application_utilization: figure(0),
            cpu_utilization: figure(1),
            mem_utilization: figure(2),
            rps_fractional: figure(3),
            eps: figure(4),
            requests_in_flight: figure(5).map(|figure| figure as u32),
            latency: figure(6).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
            cache_hit_ratio: figure(7),
        };
        Some((at, report))
    }

    /// The share of look-ups that its cache answers, if it has said so since `joined`.
    pub(crate) fn cache_hit_ratio(&self, joined: Instant) -> Option<f64> {
        let at = Instant::from_nanos(self.at.load(Relaxed));
        if at == Instant::NEVER || at < joined { None } else { self.figure(7) }
    }

    fn figure(&self, index: usize) -> Option<f64> {
        Some(f64::from_bits(self.figures[index].load(Relaxed))).filter(|figure| !figure.is_nan())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::format;

    #[test]
    fn reads_text_and_json_alike() {
        let expected = Report {
            application_utilization: Some(0.7),
            cpu_utilization: Some(0.3),
            mem_utilization: Some(0.8),
            rps_fractional: Some(10.0),
            eps: Some(1.0),
            requests_in_flight: Some(4),
            latency: Some(Duration::from_millis(12)),
            cache_hit_ratio: Some(0.25),
        };
        for header in [
            "TEXT cpu_utilization=0.3, mem_utilization=0.8,application_utilization=0.7, rps_fractional=10.0, eps=1, \
             named_metrics.custom=3, named_metrics.rif=4, named_metrics.latency_ms=12, named_metrics.cache_hit_ratio=0.25",
            "cpu_utilization:0.3, mem_utilization:0.8, application_utilization:7e-1, rps_fractional:10, eps:1, \
             named_metrics.requests_in_flight:4, named_metrics.latency_ms:12.0, named_metrics.cache_hit_ratio:25e-2",
            r#"JSON {"cpu_utilization": 0.3, "mem_utilization": 0.8, "application_utilization": 0.7, "rps_fractional":
             10.0, "eps": 1, "request_cost": {"rif": 99}, "named_metrics": {"custom": 3, "rif": 4, "latency_ms": 12,
             "cache_hit_ratio": 0.25}}"#,
            r#"{"namedMetrics":{"rif":4,"latency_ms":12,"cache_hit_ratio":0.25},"cpuUtilization":0.3,"memUtilization":0.8,"eps":1,
             "applicationUtilization":0.7,"utilization":{"eps":0.5},"rpsFractional":10}"#,
        ] {
            assert_eq!(Report::parse(header.as_bytes()), Some(expected), "{header}");
        }
    }

    #[test]
    fn junk_is_skipped_and_the_rest_kept() {
        let cpu = Some(Report { cpu_utilization: Some(0.5), ..Report::default() });
        for header in [
            "TEXT cpu_utilization=0.5, eps=NaN, rps_fractional=-3, mem_utilization=inf, what, =, x=y",
            "TEXT cpu_utilization=0.5, cpu_utilization=NaN, named_metrics.rif=-1",
            r#"JSON {"cpu_utilization":0.5,"eps":"1","rps_fractional":null,"named_metrics":{"rif":[4]}}"#,
            r#"JSON {"a\"eps":7,"deep":{"deep":{"eps":7}},"list":["eps",7,{"eps":7}],"cpu_utilization":0.5"#,
        ] {
            assert_eq!(Report::parse(header.as_bytes()), cpu, "{header}");
        }
        for header in
            ["", "TEXT", "JSON ", "JSON {", "BIN CgQ=", "TEXT eps", "\u{fe}", "{\"eps\":{\"eps\":1}}"]
        {
            assert_eq!(Report::parse(header.as_bytes()), None, "{header}");
        }
        assert_eq!(Report::parse(&[0xff, 0xfe]), None);
    }

    proptest! {
        #[test]
        fn never_panics_and_never_believes_the_impossible(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in r#"(TEXT |JSON )?[{}\[\]":,=. a-z_0-9\\-]{0,200}"#,
            number in any::<f64>(),
        ) {
            let named = format!("{{\"latency_ms\":{number},\"rif\":{number}}}");
            let spelled = format!("JSON {{\"eps\":{number},\"named_metrics\":{named}}}");
            for input in [&bytes[..], text.as_bytes(), spelled.as_bytes()] {
                if let Some(report) = Report::parse(input) {
                    for figure in [report.cpu_utilization, report.eps, report.rps_fractional, report.utilization()] {
                        prop_assert!(figure.is_none_or(|figure| figure.is_finite() && figure >= 0.0));
                    }
                }
            }
        }
    }
}
