//! Slow start: ramps traffic to a newcomer, by its age or by how warm its cache is.

use core::time::Duration;

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

impl SlowStartParams {
    /// No ramp: newcomers get their full share at once.
    pub const OFF: Self = Self { window: Span::from_millis(0), weight_min: Ratio::ONE };

    /// The share of its weight that an endpoint which joined `age` ago counts with: grows evenly from
    /// [`SlowStartParams::weight_min`] to 1 over the window, and never falls.
    ///
    /// One that reports how many look-ups its cache answers is ramped by that instead, compared with those that are
    /// ramped up and report it too, within the same bounds. How much of the traffic that is depends on the others: see
    /// [`Fleet::with_slow_start`](crate::Fleet::with_slow_start).
    #[must_use]
    pub fn share(&self, age: Duration) -> f64 {
        Slope::new(self).share(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// [`SlowStartParams::share`] without its divisions, for every draw of every pick. Times are nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slope {
    floor: f64,
    per_nano: f64,
    window: u64,
}

impl Slope {
    pub(crate) fn new(params: &SlowStartParams) -> Self {
        let floor = params.weight_min.get();
        let window = u64::try_from(params.window.get().as_nanos()).unwrap_or(u64::MAX);
        Self { floor, per_nano: (1.0 - floor) / window as f64, window }
    }

    /// The share at this age.
    pub(crate) fn share(self, age: u64) -> f64 {
        if age >= self.window { 1.0 } else { (self.floor + self.per_nano * age as f64).min(1.0) }
    }

    /// The share at this age of an endpoint whose cache is as `warm` as this, compared with the others: 1 is as warm.
    /// The window bounds that too, so that a cache that never warms up does not keep its endpoint out for ever.
    pub(crate) fn share_by_warmth(self, age: u64, warm: f64) -> f64 {
        if age >= self.window { 1.0 } else { warm.min(1.0).max(self.floor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn grows_from_the_floor_to_one(
            window in 0u64..100_000, floor in 0u8..=100, age in 0u64..200_000, more in 0u64..1_000,
        ) {
            let params = SlowStartParams { window: Span::from_millis(window), weight_min: Ratio::percent(floor) };
            let share = params.share(Duration::from_millis(age));
            prop_assert!((params.weight_min.get()..=1.0).contains(&share));
            prop_assert!(params.share(Duration::from_millis(age + more)) >= share);
            prop_assert!(age < window || share == 1.0);
        }
    }

    #[test]
    fn off_means_no_ramp() {
        assert_eq!(SlowStartParams::OFF.share(Duration::ZERO), 1.0);
    }
}
