//! Bulkhead: bounded resources for each dependency.

use model::Span;
use serde::{Deserialize, Serialize};

/// How many requests of a service may be under way, and how many may wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BulkheadParams {
    /// Requests under way at once.
    pub active_max: u32,
    /// Requests that may wait for a place; more are refused at once.
    pub waiting_max: u32,
    /// Longest wait for a place.
    pub wait_max: Span,
}

impl Default for BulkheadParams {
    fn default() -> Self {
        Self { active_max: 10_000, waiting_max: 0, wait_max: Span::from_millis(100) }
    }
}
