//! Ejection: takes an endpoint out because of what real requests met there.

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
