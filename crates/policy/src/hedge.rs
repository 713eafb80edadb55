//! Hedging: a second attempt while the first one is late.

use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

/// When to send a second attempt beside a late first one. It spends the retry budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HedgeParams {
    /// A fixed delay. When absent, the delay is the latency `quantile` of recent attempts of the route.
    pub delay: Option<Span>,
    /// The share of recent attempts that were faster than the delay.
    pub quantile: Ratio,
    /// Never hedges sooner than this.
    pub delay_min: Span,
}

impl Default for HedgeParams {
    fn default() -> Self {
        Self { delay: None, quantile: Ratio::percent(95), delay_min: Span::from_millis(5) }
    }
}
