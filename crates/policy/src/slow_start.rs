//! Slow start: ramps traffic to a newcomer.

use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

/// How an endpoint that just joined is ramped up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SlowStartParams {
    /// How long the ramp lasts; 0 turns it off.
    pub window: Span,
    /// Share of its weight that it starts with, so that it always gets some traffic.
    pub weight_min: Ratio,
}

impl Default for SlowStartParams {
    fn default() -> Self {
        Self { window: Span::from_secs(10), weight_min: Ratio::percent(10) }
    }
}
