//! Circuit breaker: fails at once while trying is useless.

use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

/// When a breaker opens, and how it probes its way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BreakerParams {
    /// Off: always closed, counts nothing.
    pub enabled: bool,
    /// Span over which calls are counted.
    pub window: Span,
    /// Calls in the window below which it never opens, so that a quiet service is not cut off by bad luck.
    pub calls_min: u32,
    /// Share of failed calls at which it opens.
    pub failure_rate: Ratio,
    /// A call slower than this counts as slow. Absent: none is.
    pub slow_after: Option<Span>,
    /// Share of slow calls at which it opens.
    pub slow_rate: Ratio,
    /// How long it stays open the first time; doubles each time that probes fail again.
    pub open_base: Span,
    /// Upper bound that doubling stops at.
    pub open_max: Span,
    /// Calls let through at once while half-open.
    pub probes_max: u32,
    /// Successful probes in a row that close it.
    pub probes_to_close: u32,
}

impl Default for BreakerParams {
    fn default() -> Self {
        Self {
            enabled: true,
            window: Span::from_secs(10),
            calls_min: 20,
            failure_rate: Ratio::percent(50),
            slow_after: None,
            slow_rate: Ratio::percent(80),
            open_base: Span::from_secs(1),
            open_max: Span::from_secs(30),
            probes_max: 3,
            probes_to_close: 3,
        }
    }
}
