//! What a user may say about throttling.

use alloc::string::String;
use alloc::vec::Vec;

use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

/// When requests are refused on behalf of a back end that refuses or fails them anyway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ThrottleParams {
    /// Off: sends everything, counts nothing.
    pub enabled: bool,
    /// Requests sent for each one that an overloaded back end accepts. So an overloaded back end sees this many times
    /// what it can do, and throttling begins when less than 1 in this many is accepted. Lower wastes less of a back
    /// end's time on refusing; higher bears more failures and notices a recovery sooner. More than 1.
    pub multiplier: f64,
    /// Span over which requests and accepts are counted.
    pub window: Span,
    /// A request not answered yet is held against the back end once it is this old, so that calls that hang are
    /// noticed. Healthy answers should take no longer; at most half of `window`.
    pub answer_within: Span,
    /// Largest share of requests that is refused; the rest finds out when it is over.
    pub rejection_max: Ratio,
    /// Requests per second of a class that are sent whatever happens to them, so that a few failures do not shed a
    /// quiet service, and so that there is always something to notice a recovery by.
    pub requests_per_sec_min: f64,
}

impl Default for ThrottleParams {
    fn default() -> Self {
        Self {
            enabled: true,
            multiplier: 1.3,
            window: Span::from_secs(10),
            answer_within: Span::from_secs(2),
            rejection_max: Ratio::percent(99),
            requests_per_sec_min: 1.0,
        }
    }
}

/// Beyond it a service fails at ten times its load without being throttled.
const MULTIPLIER_MAX: f64 = 10.0;

/// With it, probing takes a thousand times as long as without.
const REJECTION_LIMIT: f64 = 0.999;

impl ThrottleParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if !(self.multiplier > 1.0 && self.multiplier <= MULTIPLIER_MAX) {
            let why = alloc::format!(
                "{} must be more than 1 and at most 10, such as 1.3: with 1 nothing ever recovers",
                self.multiplier
            );
            wrong.push(("multiplier", why));
        }
        if self.window.is_zero() {
            wrong.push(("window", "must be longer than 0, such as 10s".into()));
        }
        if self.answer_within.get() > self.window.get() / 2 {
            let why = "must be at most half of window: a call that hangs would leave the window unnoticed";
            wrong.push(("answer_within", why.into()));
        }
        if !(self.rejection_max > Ratio::ZERO && self.rejection_max.get() <= REJECTION_LIMIT) {
            let why =
                "must be more than 0 and at most 0.999: something must get through to notice a recovery";
            wrong.push(("rejection_max", why.into()));
        }
        if !(self.requests_per_sec_min >= 0.0 && self.requests_per_sec_min.is_finite()) {
            wrong.push(("requests_per_sec_min", "must be a rate of 0 or more, such as 1".into()));
        }
        wrong
    }
}
