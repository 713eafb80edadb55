//! Randomised exponential back-off with full jitter.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use model::Span;
use serde::{Deserialize, Serialize};

use crate::Rng;

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

impl BackoffParams {
    /// What is senseless, field by field. A base of zero is not: it retries at once.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.delay_max < self.delay_base {
            wrong.push(("delay_max", alloc::format!("must be at least delay_base ({})", self.delay_base)));
        }
        wrong
    }
}

/// The wait before retry number `retry`, counted from 0: uniform between nothing and
/// `min(delay_max, delay_base × 2^retry)`, so that callers that failed together do not come back together.
///
/// Source: AWS Architecture Blog, "Exponential Backoff And Jitter" (full jitter).
#[must_use]
pub fn delay(params: &BackoffParams, retry: u32, rng: &mut Rng) -> Duration {
    let longest = doubled(params.delay_base.get(), retry, params.delay_max.get());
    Duration::from_nanos(rng.u64(0..=nanos(longest)))
}

/// `min(max, base × 2^times)`.
pub(crate) fn doubled(base: Duration, times: u32, max: Duration) -> Duration {
    // 2^63 ns is 292 years; whoever asks for more gets `max`.
    let factor = 1u64.checked_shl(times).unwrap_or(u64::MAX);
    Duration::from_nanos(nanos(base).saturating_mul(factor)).min(max)
}

/// A span between `share` of `span` and all of it, so that what was put off together does not happen together.
pub(crate) fn jittered(span: Duration, share: f64, rng: &mut Rng) -> Duration {
    let longest = nanos(span);
    let shortest = (longest as f64 * share) as u64;
    Duration::from_nanos(rng.u64(shortest.min(longest)..=longest))
}

/// `span` in nanoseconds; the largest number past 584 years.
pub(crate) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_within_the_doubling_bound(base in 0u64..10_000, max in 0u64..100_000, retry in 0u32..200, seed: u64) {
            let params =
                BackoffParams { delay_base: Span::from_millis(base), delay_max: Span::from_millis(max) };
            let bound = (u128::from(base) << retry.min(60)).min(u128::from(max));
            let delay = delay(&params, retry, &mut Rng::with_seed(seed));
            prop_assert!(delay.as_nanos() <= bound * 1_000_000);
        }
    }

    #[test]
    fn full_jitter_uses_the_whole_range_evenly() {
        let params = BackoffParams::default();
        let mut rng = Rng::with_seed(1);
        let mut quarters = [0u32; 4];
        for _ in 0..4_000 {
            let share = delay(&params, 1, &mut rng).as_secs_f64() / 0.050;
            quarters[((share * 4.0) as usize).min(3)] += 1;
        }
        assert!(quarters.iter().all(|count| (850..1_150).contains(count)), "{quarters:?}");
    }
}
