//! Randomised exponential back-off with full jitter.

use model::Span;
use serde::{Deserialize, Serialize};

/// How long to wait before a retry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BackoffParams {
    /// Upper bound of the wait before the first retry; it doubles with every further one.
    pub delay_base: Span,
    /// Upper bound that doubling stops at.
    pub delay_max: Span,
}

impl Default for BackoffParams {
    fn default() -> Self {
        Self { delay_base: Span::from_millis(25), delay_max: Span::from_millis(250) }
    }
}
