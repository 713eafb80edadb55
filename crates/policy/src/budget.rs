//! Retry budget: caps retries at a share of first attempts.

use core::num::NonZeroU32;

use model::Ratio;
use serde::{Deserialize, Serialize};

/// Bounds of a retry budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudgetParams {
    /// Retries earned per first attempt.
    pub ratio: Ratio,
    /// Retries per second allowed whatever the traffic, so that a quiet client can still retry.
    pub floor_per_sec: u32,
    /// Most retries that can be saved up.
    pub burst: NonZeroU32,
}

impl Default for RetryBudgetParams {
    fn default() -> Self {
        Self { ratio: Ratio::percent(10), floor_per_sec: 1, burst: const { NonZeroU32::new(100).unwrap() } }
    }
}
