//! Hedging: a second attempt while the first one is late.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use core::time::Duration;

use model::{Instant, Ratio, Span};
use serde::{Deserialize, Serialize};

use crate::backoff::nanos;
use crate::histogram::{Histogram, Quantile};
use crate::sharded::{Padded, Sharded};

/// When to send a second attempt beside a late first one. It spends the retry budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HedgeParams {
    /// A fixed delay; not used while half of recent attempts take longer. When absent, the delay is the latency
    /// `quantile` of recent attempts of the route.
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

impl HedgeParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.delay.is_some_and(Span::is_zero) {
            wrong.push((
                "delay",
                "must be longer than 0, or absent: with 0 every request is sent twice".into(),
            ));
        }
        if !(0.5..1.0).contains(&self.quantile.get()) {
            wrong.push(("quantile", "must be at least 0.5 and less than 1, such as 0.95".into()));
        }
        wrong
    }
}

/// How long samples are gathered before the older half of them is dropped.
const PERIOD: Duration = Duration::from_secs(10);

/// How often the delay is computed anew.
const REFRESH: Duration = Duration::from_millis(500);

/// Below this many samples nothing is known, and nothing is hedged.
const SAMPLES_MIN: u64 = 100;

/// Marks the absence of a delay.
const NO_DELAY: u64 = u64::MAX;

/// Says how late an attempt must be to be worth a second one.
///
/// The delay is the `quantile` of the latencies of the last ten to twenty seconds, rounded up by at most an eighth,
/// and never less than `delay_min`: while latencies are stationary, at most `1 - quantile` of the attempts are
/// late, however slow all of them are. A fixed delay is not used while half of the attempts take longer than it:
/// what everybody exceeds is no sign of lateness. When latencies rise, the delay follows within half a second of
/// the first slow answers; until then the retry budget is what bounds hedges. Fails towards not hedging: without
/// [enough samples](HedgeTimer::delay) there is no delay.
///
/// Shared by all workers of the process: a sample costs one addition on the worker's own cache lines, the delay one
/// load. Twice a second one sample pays for computing the delay, some microseconds.
///
/// Source: Dean and Barroso, "The Tail at Scale".
#[derive(Debug)]
pub struct HedgeTimer {
    /// The two halves of the samples of each worker; one grows, the other is a period older.
    samples: Sharded<[Histogram; 2]>,
    growing: Padded<AtomicUsize>,
    rotate_at: AtomicU64,
    refresh_at: AtomicU64,
    delay: AtomicU64,
    params: HedgeParams,
}

impl HedgeTimer {
    /// A timer without samples, shared by `workers` workers.
    #[must_use]
    pub fn new(params: &HedgeParams, workers: usize, now: Instant) -> Self {
        Self {
            samples: Sharded::new(workers),
            growing: Padded::default(),
            rotate_at: AtomicU64::new(now.after(PERIOD).as_nanos()),
            refresh_at: AtomicU64::new(now.after(REFRESH).as_nanos()),
            delay: AtomicU64::new(NO_DELAY),
            params: params.clone(),
        }
    }

    /// An attempt took `latency`. `shard` is the number of the calling worker.
    ///
    /// An attempt that was cancelled because its hedge was faster counts with the time that it had waited: left out,
    /// it would make the route look faster than it is, and hedging would feed on itself.
    pub fn on_latency(&self, shard: usize, now: Instant, latency: Duration) {
        let half = self.growing.0.load(Relaxed) & 1;
        self.samples.get(shard)[half].record(latency);
        if claim(&self.refresh_at, now, REFRESH) {
            self.delay.store(self.compute().map_or(NO_DELAY, nanos), Relaxed);
            if claim(&self.rotate_at, now, PERIOD) {
                let older = 1 - (self.growing.0.load(Relaxed) & 1);
                self.samples.iter().for_each(|halves| halves[older].clear());
                self.growing.0.store(older, Relaxed);
            }
        }
    }

    /// How long to wait before a hedge is sent. `None`: do not hedge, because fewer than a hundred attempts, or than
    /// ten beyond the quantile, were seen lately, or because a fixed delay is shorter than what is usual.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        match self.delay.load(Relaxed) {
            NO_DELAY => None,
            nanos => Some(Duration::from_nanos(nanos)),
        }
    }

    fn compute(&self) -> Option<Duration> {
        let quantile = |share: f64| {
            let samples_min = SAMPLES_MIN.max((10.0 / (1.0 - share)) as u64);
            Histogram::quantile(self.samples.iter().flatten(), share, samples_min)
        };
        let delay = match self.params.delay {
            Some(fixed) => match quantile(0.5) {
                Quantile::AtMost(usual) if usual <= fixed.get() => fixed.get(),
                _ => return None,
            },
            None => match quantile(self.params.quantile.get()) {
                Quantile::AtMost(late) => late,
                Quantile::OutOfRange | Quantile::TooFewSamples => return None,
            },
        };
        Some(delay.max(self.params.delay_min.get()))
    }
}

/// Whether `now` has reached the point in `at`; one thread is told so, and the point moves to `period` from now.
fn claim(at: &AtomicU64, now: Instant, period: Duration) -> bool {
    let due = at.load(Relaxed);
    now.as_nanos() >= due && at.compare_exchange(due, now.after(period).as_nanos(), Relaxed, Relaxed).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;

    /// Feeds a timer with a latency every 10 ms for `secs` seconds; answers the share of attempts that would have
    /// hedged, of those in the second half.
    fn hedged(timer: &HedgeTimer, secs: u64, mut latency: impl FnMut() -> Duration) -> f64 {
        let steps = secs * 100;
        let mut hedged = 0;
        for step in 0..steps {
            let latency = latency();
            let late = timer.delay().is_some_and(|delay| latency > delay);
            hedged += u64::from(late && step >= steps / 2);
            timer.on_latency(step as usize, Instant::from_millis(step * 10), latency);
        }
        hedged as f64 / (steps - steps / 2) as f64
    }

    proptest! {
        #[test]
        fn at_most_the_share_beyond_the_quantile_is_hedged(
            seed: u64, percent in 50..99u8, base in 1..5_000u64, spread in 0..4u32, workers in 1..5usize,
        ) {
            let params = HedgeParams { quantile: Ratio::percent(percent), ..HedgeParams::default() };
            let timer = HedgeTimer::new(&params, workers, Instant::ORIGIN);
            let mut rng = Rng::with_seed(seed);
            let share = hedged(&timer, 60, || {
                Duration::from_secs_f64(base as f64 / 1e3 * (1.0 + rng.f64()).powi(spread as i32))
            });
            let bound = 1.0 - f64::from(percent) / 100.0;
            // Sampling noise: the quantile of some thousand samples, tried on three thousand more.
            prop_assert!(share <= bound + 0.05, "{share} > {bound}");
        }
    }

    #[test]
    fn trap_11_an_ordinary_slow_route_does_not_hedge_everything() {
        for delay in [None, Some(Span::from_millis(10))] {
            let timer = HedgeTimer::new(&HedgeParams { delay, ..Default::default() }, 1, Instant::ORIGIN);
            let mut rng = Rng::with_seed(1);
            let share = hedged(&timer, 60, || Duration::from_millis(2_000 + rng.u64(0..500)));
            assert!(share <= 0.07, "{share} of all requests hedged with {delay:?}");
        }
    }

    #[test]
    fn a_fixed_delay_is_used_where_it_marks_the_late_ones() {
        let params = HedgeParams { delay: Some(Span::from_millis(50)), ..Default::default() };
        let timer = HedgeTimer::new(&params, 1, Instant::ORIGIN);
        assert_eq!(timer.delay(), None, "nothing is known yet");
        hedged(&timer, 3, || Duration::from_millis(10));
        assert_eq!(timer.delay(), Some(Duration::from_millis(50)));
    }

    #[test]
    fn the_delay_follows_when_everything_becomes_slow() {
        let timer = HedgeTimer::new(&HedgeParams::default(), 1, Instant::ORIGIN);
        hedged(&timer, 3, || Duration::from_millis(10));
        let before = timer.delay().unwrap();
        assert!((Duration::from_millis(10)..Duration::from_millis(12)).contains(&before), "{before:?}");
        // A tenth of the samples are slow: beyond the 95th percentile lie only slow ones.
        for step in 0..100 {
            timer.on_latency(0, Instant::from_millis(3_000 + step * 10), Duration::from_secs(1));
        }
        assert!(timer.delay().unwrap() >= Duration::from_secs(1));
    }

    #[test]
    fn old_samples_are_forgotten() {
        let timer = HedgeTimer::new(&HedgeParams::default(), 2, Instant::ORIGIN);
        hedged(&timer, 10, || Duration::from_secs(1));
        for step in 0..2_200 {
            timer.on_latency(0, Instant::from_millis(10_000 + step * 10), Duration::from_millis(10));
        }
        assert!(timer.delay().unwrap() < Duration::from_millis(12));
    }

    #[test]
    fn never_sooner_than_the_least_delay() {
        let timer = HedgeTimer::new(&HedgeParams::default(), 1, Instant::ORIGIN);
        hedged(&timer, 3, || Duration::from_micros(20));
        assert_eq!(timer.delay(), Some(Duration::from_millis(5)));
    }

    #[test]
    fn senseless_bounds_are_named() {
        assert!(HedgeParams::default().check().is_empty());
        let params = HedgeParams { delay: Some(Span::default()), quantile: Ratio::ONE, ..Default::default() };
        let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["delay", "quantile"]);
    }
}
