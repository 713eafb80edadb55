//! What a user may say about a breaker.

use alloc::string::String;
use alloc::vec::Vec;

use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

use super::Force;

/// When a breaker opens, and how it probes its way back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BreakerParams {
    /// Off: always closed, counts nothing.
    pub enabled: bool,
    /// `open` refuses every call and `closed` lets every call through, whatever happens; for operators in an incident.
    pub force: Force,
    /// Span over which calls are counted.
    pub window: Span,
    /// Calls in the window below which it never opens, so that a quiet service is not cut off by bad luck.
    pub calls_min: u32,
    /// Share of failed calls at which it opens.
    pub failure_rate: Ratio,
    /// A call not answered within this counts as slow, even before it ends; no longer than `window`. Absent: none is.
    pub slow_after: Option<Span>,
    /// Share of slow calls at which it opens.
    pub slow_rate: Ratio,
    /// How long it stays open the first time, jittered down to at least half; doubles each time that it opens again
    /// before it has proved itself.
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
            force: Force::Auto,
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

/// Far more than anybody needs, and within what a packed state can count.
const PROBES_LIMIT: u32 = 10_000;

impl BreakerParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut refuse = |field, why: &str| wrong.push((field, String::from(why)));
        if self.window.is_zero() {
            refuse("window", "must be longer than 0, such as 10s");
        }
        if self.calls_min == 0 {
            refuse("calls_min", "must be at least 1, such as 20");
        }
        if self.failure_rate == Ratio::ZERO {
            refuse("failure_rate", "must be more than 0, such as 0.5: with 0 it opens on healthy traffic");
        }
        if self.slow_rate == Ratio::ZERO {
            refuse("slow_rate", "must be more than 0, such as 0.8: with 0 it opens on healthy traffic");
        }
        match self.slow_after {
            Some(slow_after) if slow_after.is_zero() => {
                refuse("slow_after", "must be longer than 0, or absent")
            }
            Some(slow_after) if slow_after > self.window => {
                refuse(
                    "slow_after",
                    "must not be longer than window: a call that hangs would not be noticed",
                );
            }
            _ => {}
        }
        if self.open_base.is_zero() {
            refuse("open_base", "must be longer than 0, such as 1s");
        }
        if self.open_max < self.open_base {
            refuse("open_max", "must be at least open_base");
        }
        for (field, probes) in [("probes_max", self.probes_max), ("probes_to_close", self.probes_to_close)] {
            if !(1..=PROBES_LIMIT).contains(&probes) {
                refuse(field, "must be between 1 and 10000, such as 3");
            }
        }
        wrong
    }
}
