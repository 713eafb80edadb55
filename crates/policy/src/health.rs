//! Health: turns the answers of active checks into a state.

use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

/// How many answers it takes to change an opinion, and how often to ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HealthParams {
    /// Time between checks of one endpoint; jittered so that endpoints are not asked at once.
    pub interval: Span,
    /// An answer later than this is a failure.
    pub timeout: Span,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_after: u32,
    /// Share of the interval by which a check may come earlier or later.
    pub jitter: Ratio,
}

impl Default for HealthParams {
    fn default() -> Self {
        Self {
            interval: Span::from_secs(5),
            timeout: Span::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
            jitter: Ratio::percent(20),
        }
    }
}
