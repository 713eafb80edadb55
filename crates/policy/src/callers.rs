//! What callers are told when a request is refused for overload, by how often they have tried already.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::{Instant, Ratio, Span};
use serde::{Deserialize, Serialize};

use crate::sharded::Padded;
use crate::slots::{LIVE, STEPS, Slots};

/// When callers are told not to retry what was refused for overload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryAdviceParams {
    /// Span over which arriving requests are counted.
    pub window: Span,
    /// Share of retries among arriving requests from which on callers are told not to retry. Callers that keep to a
    /// retry budget of 10 % send at most 0.09.
    pub retry_share: Ratio,
    /// Requests in the window below which callers are told to retry elsewhere, whatever the share.
    pub requests_min: u32,
}

impl Default for RetryAdviceParams {
    fn default() -> Self {
        Self { window: Span::from_secs(5), retry_share: Ratio::percent(15), requests_min: 20 }
    }
}

impl RetryAdviceParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.window.is_zero() {
            wrong.push(("window", "must be longer than 0, such as 5s".into()));
        }
        if self.retry_share == Ratio::ZERO {
            let why = "must be more than 0, such as 0.15: with 0 nobody ever retries elsewhere";
            wrong.push(("retry_share", why.into()));
        }
        if self.requests_min == 0 {
            wrong.push(("requests_min", "must be at least 1, such as 20".into()));
        }
        wrong
    }
}

/// What to tell the caller of a request that is refused for overload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// Others seem to have room: another back end may do it at once.
    RetryElsewhere,
    /// Many of the requests that arrive were refused elsewhere already: retrying would only add to the load.
    Never,
}

/// Attempt numbers told apart: the first, the second, the third, and all later ones.
pub const ATTEMPTS: usize = 4;

/// Judged anew every so much of the window.
const TICKS: u32 = 10 * STEPS as u32;

/// Counts the attempt numbers of the requests that arrive at a service, to tell a back end that is overloaded alone
/// from one among many.
///
/// The advice is [`Advice::Never`] while at least `requests_min` requests arrived in the window and at least
/// `retry_share` of them were no first attempts. A request counts whether it is then refused or not. The window is
/// between `window` and a tenth more, and the advice at most a hundredth of it old as long as requests arrive.
///
/// Shared by all workers of the process; a request costs one addition on the worker's own cache lines and one load.
/// Fails towards [`Advice::RetryElsewhere`], which the callers' own retry budgets bound: a caller that does not say
/// which attempt it makes counts as making its first.
///
/// Source: SRE book, ch. 21, "Deciding to Retry".
#[derive(Debug)]
pub struct Callers {
    hot: Padded<Hot>,
    slots: Slots<ATTEMPTS>,
    tick: Duration,
    retry_share: f64,
    requests_min: u64,
}

/// What every request reads and hardly any writes.
#[derive(Debug)]
struct Hot {
    never: AtomicBool,
    judge_at: AtomicU64,
}

impl Callers {
    /// Counts nothing yet; shared by `workers` workers.
    #[must_use]
    pub fn new(params: &RetryAdviceParams, workers: usize, now: Instant) -> Self {
        let window = params.window.get();
        Self {
            hot: Padded(Hot { never: AtomicBool::new(false), judge_at: AtomicU64::new(now.as_nanos()) }),
            slots: Slots::new(workers, window, now),
            tick: window / TICKS,
            retry_share: params.retry_share.get(),
            requests_min: u64::from(params.requests_min.max(1)),
        }
    }

    /// A request arrived with its caller's attempt number, counted from 1; 0 counts as 1. `shard` is the number of the
    /// calling worker.
    pub fn on_request(&self, shard: usize, attempt: u32, now: Instant) {
        self.judge_if_due(now);
        let attempt = attempt.clamp(1, ATTEMPTS as u32) as usize;
        self.slots.count(shard, attempt - 1, now);
    }

    /// What to tell the caller of a request that is refused for overload at `now`.
    #[must_use]
    pub fn advice(&self, now: Instant) -> Advice {
        self.judge_if_due(now);
        if self.hot.0.never.load(Relaxed) { Advice::Never } else { Advice::RetryElsewhere }
    }

    /// Requests in the window by attempt number, the last for that number and all later ones; for metrics. `None` while
    /// another thread slides the window, so that a reading is never half old and half new.
    #[must_use]
    pub fn counts(&self, now: Instant) -> Option<[u64; ATTEMPTS]> {
        self.slots.slide(now, window)
    }

    fn judge_if_due(&self, now: Instant) {
        if now.as_nanos() < self.hot.0.judge_at.load(Relaxed) {
            return;
        }
        // Whoever finds another thread at it goes on with the advice that stands.
        self.slots.slide(now, |slots| {
            let [first, later @ ..] = window(slots);
            let retries: u64 = later.iter().sum();
            let requests = first + retries;
            let many = retries as f64 >= self.retry_share * requests as f64;
            self.hot.0.never.store(requests >= self.requests_min && many, Relaxed);
            self.hot.0.judge_at.store(now.after(self.tick).as_nanos(), Relaxed);
        });
    }
}

fn window(slots: &Slots<ATTEMPTS>) -> [u64; ATTEMPTS] {
    LIVE.fold([0; ATTEMPTS], |mut sums, back| {
        sums.iter_mut().zip(slots.slot(back)).for_each(|(sum, count)| *sum += u64::from(count));
        sums
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn callers() -> Callers {
        Callers::new(&RetryAdviceParams::default(), 4, Instant::ORIGIN)
    }

    /// A point that is judged anew, however soon after `now` was.
    fn judged(now: Instant) -> Instant {
        now.after(Duration::from_millis(50))
    }

    proptest! {
        /// The advice follows from the requests of the window, whatever arrived before it.
        #[test]
        fn says_never_exactly_when_many_requests_are_retries(
            past in prop::collection::vec(0..6u32, 0..300),
            attempts in prop::collection::vec(prop_oneof![4 => Just(1u32), 1 => 0..9u32], 0..200),
            gap in 5_500..20_000u64,
        ) {
            let callers = callers();
            past.iter().for_each(|attempt| callers.on_request(0, *attempt, Instant::ORIGIN));
            let now = Instant::from_millis(gap);
            for (shard, attempt) in attempts.iter().enumerate() {
                callers.on_request(shard, *attempt, now);
            }
            let retries = attempts.iter().filter(|attempt| **attempt > 1).count();
            let many = attempts.len() >= 20 && retries as f64 >= 0.15 * attempts.len() as f64;
            let expected = if many { Advice::Never } else { Advice::RetryElsewhere };
            prop_assert_eq!(callers.advice(judged(now)), expected);
            let counts = callers.counts(judged(now)).unwrap();
            prop_assert_eq!(counts.iter().sum::<u64>(), attempts.len() as u64);
            prop_assert_eq!(counts[0] as usize, attempts.len() - retries);
            prop_assert_eq!(counts[3] as usize, attempts.iter().filter(|attempt| **attempt >= 4).count());
        }
    }

    #[test]
    fn callers_within_their_retry_budget_are_told_to_retry_elsewhere() {
        let callers = callers();
        for nth in 0..1_100 {
            callers.on_request(nth, if nth % 11 == 0 { 2 } else { 1 }, Instant::ORIGIN);
        }
        assert_eq!(callers.advice(judged(Instant::ORIGIN)), Advice::RetryElsewhere);
    }

    #[test]
    fn retries_long_ago_are_forgotten_without_new_requests() {
        let callers = callers();
        (0..100).for_each(|shard| callers.on_request(shard, 2, Instant::ORIGIN));
        assert_eq!(callers.advice(judged(Instant::ORIGIN)), Advice::Never);
        assert_eq!(callers.advice(Instant::from_secs(60)), Advice::RetryElsewhere);
        assert_eq!(callers.counts(Instant::from_secs(60)), Some([0; ATTEMPTS]));
    }

    #[test]
    fn senseless_thresholds_are_named() {
        let params = RetryAdviceParams { window: Span::default(), retry_share: Ratio::ZERO, requests_min: 0 };
        let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["window", "retry_share", "requests_min"]);
        assert!(RetryAdviceParams::default().check().is_empty());
    }
}
