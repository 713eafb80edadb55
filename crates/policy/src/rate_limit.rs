//! Rate limits per route and customer, in requests or cost.

use serde::{Deserialize, Serialize};

/// How much a customer may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitParams {
    /// Cost per second that is granted in the long run. A request costs 1 unless it says more.
    pub per_sec: f64,
    /// Cost that may be saved up and spent at once.
    pub burst: f64,
    /// Customers told apart at a time; the least recently seen is forgotten first.
    pub customers_max: u32,
}

impl Default for RateLimitParams {
    fn default() -> Self {
        Self { per_sec: 100.0, burst: 100.0, customers_max: 16_384 }
    }
}
