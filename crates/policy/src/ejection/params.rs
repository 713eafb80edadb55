//! What a user may say about ejection.

use alloc::string::String;
use alloc::vec::Vec;

use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

/// When an endpoint is ejected, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct EjectionParams {
    /// Off: endpoints are never ejected.
    pub enabled: bool,
    /// Failures in a row that eject at once; 0 turns this rule off.
    pub consecutive_failures: u32,
    /// How often success rates and latencies are compared.
    pub interval: Span,
    /// Calls an endpoint needs in an interval to be compared.
    pub calls_min: u32,
    /// Endpoints with enough calls that a comparison needs.
    pub endpoints_min: u32,
    /// Ejects whoever lies this many standard deviations below the mean success rate; 0 turns this rule off.
    pub success_rate_deviations: f64,
    /// Ejects whoever is this many times slower than the median endpoint; 0 turns this rule off.
    pub latency_factor: f64,
    /// No endpoint faster than this is ejected for its latency.
    pub latency_min: Span,
    /// How long the first ejection lasts; doubles with every further one, and halves again in good times.
    pub time_base: Span,
    /// Upper bound that doubling stops at.
    pub time_max: Span,
    /// Largest share of endpoints that may be out by ejection; one endpoint may always be.
    pub share_max: Ratio,
}

impl Default for EjectionParams {
    fn default() -> Self {
        Self {
            enabled: true,
            consecutive_failures: 5,
            interval: Span::from_secs(10),
            calls_min: 50,
            endpoints_min: 3,
            success_rate_deviations: 1.9,
            latency_factor: 5.0,
            latency_min: Span::from_millis(50),
            time_base: Span::from_secs(10),
            time_max: Span::from_secs(300),
            share_max: Ratio::percent(50),
        }
    }
}

impl EjectionParams {
    /// What is senseless, field by field. Rules are turned off with 0.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut refuse = |field, why: &str| wrong.push((field, String::from(why)));
        if self.interval.is_zero() {
            refuse("interval", "must be longer than 0, such as 10s");
        }
        if self.calls_min == 0 {
            refuse("calls_min", "must be at least 1, such as 50");
        }
        if self.endpoints_min < 2 {
            refuse("endpoints_min", "must be at least 2: one endpoint cannot be compared");
        }
        if !(self.success_rate_deviations >= 0.0 && self.success_rate_deviations.is_finite()) {
            refuse("success_rate_deviations", "must be 0 (off) or more, such as 1.9");
        }
        let factor = self.latency_factor;
        if !(factor == 0.0 || (factor > 1.0 && factor.is_finite())) {
            refuse("latency_factor", "must be 0 (off) or more than 1, such as 5");
        }
        if self.time_base.is_zero() {
            refuse("time_base", "must be longer than 0, such as 10s");
        }
        if self.time_max < self.time_base {
            refuse("time_max", "must be at least time_base");
        }
        wrong
    }
}
