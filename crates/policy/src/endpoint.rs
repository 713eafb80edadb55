//! One endpoint as every policy sees it: what is known of its load, its errors and whether it may be used.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::{Instant, Verdict};

use crate::Report;
use crate::fading::Fading;
use crate::report::Reported;

/// A reason why an endpoint gets no new requests. Several can hold at once; each is lifted by whoever set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Unavailable {
    /// Active health checks fail.
    Unhealthy = 1,
    /// Taken out because of what real requests met there.
    Ejected = 2,
    /// It asked for no new requests and finishes what it has.
    LameDuck = 4,
    /// An operator took it out.
    Disabled = 8,
}

impl Unavailable {
    /// Every reason.
    pub const ALL: [Unavailable; 4] = [Self::Unhealthy, Self::Ejected, Self::LameDuck, Self::Disabled];
}

/// How one attempt ended, as its endpoint is told.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// From sending the request to the first byte of the answer's head, or to the failure.
    pub latency: Duration,
    /// What it says about the endpoint.
    pub verdict: Verdict,
}

/// What an endpoint's attempts came to since it was made. Each figure only grows, so that whoever keeps the last
/// reading has an interval's figures by [`Totals::since`]. Attempts that ended [`Verdict::Unknown`] are in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Attempts answered as they should be.
    pub successes: u64,
    /// Attempts answered "overloaded": load, not illness.
    pub overloads: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Latency of the successful attempts, summed. Failures are left out, because a fast one would flatter.
    pub latency: Duration,
}

impl Totals {
    /// What was added after `earlier` was read.
    #[must_use]
    pub fn since(self, earlier: Totals) -> Totals {
        Totals {
            successes: self.successes.saturating_sub(earlier.successes),
            overloads: self.overloads.saturating_sub(earlier.overloads),
            failures: self.failures.saturating_sub(earlier.failures),
            latency: self.latency.saturating_sub(earlier.latency),
        }
    }

    /// Mean latency of the successful attempts; `None` without any.
    #[must_use]
    pub fn latency_mean(&self) -> Option<Duration> {
        let nanos = self.latency.as_nanos().checked_div(u128::from(self.successes))?;
        Some(Duration::from_nanos(nanos as u64))
    }
}

/// Half-life of remembered errors.
const ERROR_HALF_LIFE: Duration = Duration::from_secs(5);
/// One attempt moves the error share by at least this much of the way, so that a burst of failures shows at once …
const ERROR_STEP_MIN: f32 = 1.0 / 32.0;
/// … and by at most this much, so that one failure after an idle hour is not the whole truth.
const ERROR_STEP_MAX: f32 = 1.0 / 4.0;
/// An error share below this counts as none, so that an old error does not decide between idle endpoints.
const ERROR_SHARE_MIN: f32 = 1.0 / 64.0;
/// How many times its load an endpoint that only fails seems to carry, less one.
const ERROR_PENALTY: f32 = 16.0;
/// Half-life of a remembered latency.
const LATENCY_HALF_LIFE: Duration = Duration::from_secs(7);

/// One endpoint of a service, shared by every worker of the process.
///
/// Its facts are changed by any thread through relaxed atomics: counts are exact, while of two observations that
/// race for the error share or the latency one may be lost. What every pick reads fills one cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct Endpoint {
    hot: Hot,
    key: u64,
    name: Box<str>,
    overloads: AtomicU64,
    failures: AtomicU64,
    reported: Reported,
}

#[derive(Debug)]
#[repr(C, align(64))]
struct Hot {
    active: AtomicU32,
    active_max: AtomicU32,
    weight: AtomicU32,
    unavailable: AtomicU8,
    errors: Fading,
    latency: Fading,
    joined: AtomicU64,
    successes: AtomicU64,
    latency_nanos: AtomicU64,
}

impl Endpoint {
    /// An endpoint called `name` (unique in its service, such as `10.0.0.1:8080`) that joined at `now`.
    ///
    /// `weight` is relative to the other endpoints of the service, 0 means no requests; `active_max` bounds its
    /// active requests.
    #[must_use]
    pub fn new(name: &str, weight: u32, active_max: u32, now: Instant) -> Self {
        Self {
            hot: Hot {
                active: AtomicU32::new(0),
                active_max: AtomicU32::new(active_max),
                weight: AtomicU32::new(weight),
                unavailable: AtomicU8::new(0),
                errors: Fading::default(),
                latency: Fading::default(),
                joined: AtomicU64::new(now.as_nanos()),
                successes: AtomicU64::new(0),
                latency_nanos: AtomicU64::new(0),
            },
            key: crate::hash(name.as_bytes()),
            name: name.into(),
            overloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            reported: Reported::default(),
        }
    }

    /// Its name, unique in its service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A stable hash of its name, for placements that must survive restarts.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Its configured weight.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.hot.weight.load(Relaxed)
    }

    /// Changes its weight; all that was learnt about it stays. Takes effect with the next [`Fleet`](crate::Fleet).
    pub fn set_weight(&self, weight: u32) {
        self.hot.weight.store(weight, Relaxed);
    }

    /// The most active requests that it may have.
    #[must_use]
    pub fn active_max(&self) -> u32 {
        self.hot.active_max.load(Relaxed)
    }

    /// Changes the most active requests that it may have. Those above a lowered bound finish.
    pub fn set_active_max(&self, active_max: u32) {
        self.hot.active_max.store(active_max, Relaxed);
    }

    /// Requests that it is working on for this process.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.hot.active.load(Relaxed)
    }

    /// Whether no reason speaks against new requests.
    #[must_use]
    pub fn available(&self) -> bool {
        self.hot.unavailable.load(Relaxed) == 0
    }

    /// Whether `reason` speaks against new requests.
    #[must_use]
    pub fn is_unavailable(&self, reason: Unavailable) -> bool {
        self.hot.unavailable.load(Relaxed) & reason as u8 != 0
    }

    /// Whether its active requests leave room for one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.active() < self.active_max()
    }

    /// The reasons that speak against new requests.
    pub fn reasons(&self) -> impl Iterator<Item = Unavailable> + use<> {
        let flags = self.hot.unavailable.load(Relaxed);
        Unavailable::ALL.into_iter().filter(move |reason| flags & *reason as u8 != 0)
    }

    /// Sets or lifts one reason; answers whether that changed anything.
    pub fn set_unavailable(&self, reason: Unavailable, holds: bool) -> bool {
        let bit = reason as u8;
        let before = if holds {
            self.hot.unavailable.fetch_or(bit, Relaxed)
        } else {
            self.hot.unavailable.fetch_and(!bit, Relaxed)
        };
        (before & bit != 0) != holds
    }

    /// A request was sent to it, whether it had room or not.
    pub fn on_start(&self, _now: Instant) {
        self.hot.active.fetch_add(1, Relaxed);
    }

    /// Takes a place for one request unless all are taken, counted over the whole process: threads that race for
    /// the last place get it once. What it grants counts as an [`Endpoint::on_start`].
    #[must_use]
    pub fn try_start(&self, now: Instant) -> bool {
        let granted = self.hot.active.fetch_add(1, Relaxed) < self.active_max();
        if !granted {
            self.on_end(now, Ended { latency: Duration::ZERO, verdict: Verdict::Unknown });
        }
        granted
    }

    /// A request that was sent to it ended. Called exactly once per [`Endpoint::on_start`], cancelled ones included.
    ///
    /// [`Verdict::Unknown`] frees the place and teaches nothing.
    pub fn on_end(&self, now: Instant, ended: Ended) {
        let before = self.hot.active.fetch_sub(1, Relaxed);
        debug_assert_ne!(before, 0, "{} ended a request that it had not started", self.name);
        match ended.verdict {
            Verdict::Unknown => return,
            Verdict::Success => {
                self.hot.successes.fetch_add(1, Relaxed);
                let nanos = u64::try_from(ended.latency.as_nanos()).unwrap_or(u64::MAX);
                self.hot.latency_nanos.fetch_add(nanos, Relaxed);
            }
            Verdict::Overloaded => _ = self.overloads.fetch_add(1, Relaxed),
            Verdict::Failure => _ = self.failures.fetch_add(1, Relaxed),
        }
        let failed = ended.verdict != Verdict::Success;
        self.learn_error(now, failed);
        self.learn_latency(now, ended.latency, failed);
    }

    fn learn_error(&self, now: Instant, failed: bool) {
        if !failed && self.hot.errors.written() == 0.0 {
            return;
        }
        let (_, left) = self.hot.errors.get(now, ERROR_HALF_LIFE);
        let keep = left.min(1.0 - ERROR_STEP_MIN);
        let added = if failed { (1.0 - keep).min(ERROR_STEP_MAX) } else { 0.0 };
        let share = self.hot.errors.written() * keep + added;
        self.hot.errors.set(if share < ERROR_SHARE_MIN / 16.0 { 0.0 } else { share }, now);
    }

    fn learn_latency(&self, now: Instant, latency: Duration, failed: bool) {
        let nanos = (latency.as_nanos() as f32).max(1.0);
        let written = self.hot.latency.written();
        if failed {
            if written != 0.0 {
                self.hot.latency.set(nanos.max(written), now);
            }
            return;
        }
        let (mean, left) = self.hot.latency.get(now, LATENCY_HALF_LIFE);
        if nanos > mean {
            self.hot.latency.set(nanos, now);
        } else if left < 1.0 {
            self.hot.latency.set(mean + nanos * (1.0 - left), now);
        }
    }

    /// It reported its load. Replaces what it reported before.
    pub fn on_report(&self, now: Instant, report: &Report) {
        self.reported.set(now, report);
    }

    /// It starts anew (joined, restarted, recovered): slow start counts from `now`, with the next
    /// [`Fleet`](crate::Fleet). Errors of its past life count no more: that it starts slowly is caution enough.
    pub fn on_join(&self, now: Instant) {
        self.hot.joined.store(now.as_nanos(), Relaxed);
        self.hot.errors.set(0.0, now);
    }

    /// When it joined.
    #[must_use]
    pub fn joined(&self) -> Instant {
        Instant::from_nanos(self.hot.joined.load(Relaxed))
    }

    /// The recent share of attempts that failed or were refused for overload, 0 to 1. Follows the last 32 attempts,
    /// and without any halves every 5 s, so that an endpoint that nobody tries any more is tried again.
    #[must_use]
    pub fn error_share(&self, now: Instant) -> f64 {
        f64::from(self.hot.errors.get(now, ERROR_HALF_LIFE).0)
    }

    /// By how much its recent errors multiply its load in a balancer's eyes: 1 without any, 17 when it only fails.
    /// An endpoint that fails fast has few active requests and short latencies; this keeps it from attracting more.
    #[must_use]
    pub fn penalty(&self, now: Instant) -> f32 {
        if self.hot.errors.written() == 0.0 {
            return 1.0;
        }
        let (share, _) = self.hot.errors.get(now, ERROR_HALF_LIFE);
        if share < ERROR_SHARE_MIN { 1.0 } else { 1.0 + ERROR_PENALTY * share }
    }

    /// Its recent latency, sensitive to peaks: a slower attempt shows at once, faster ones bring it down with a
    /// half-life of 7 s, and so does silence. A failure raises it or holds it where it was, because failing fast is
    /// not being fast. `None` before the first success.
    ///
    /// Source: Finagle's peak EWMA.
    #[must_use]
    pub fn latency(&self, now: Instant) -> Option<Duration> {
        (self.hot.latency.written() != 0.0).then(|| Duration::from_nanos(self.latency_nanos(now) as u64))
    }

    fn latency_nanos(&self, now: Instant) -> f32 {
        self.hot.latency.get(now, LATENCY_HALF_LIFE).0
    }

    /// Its latency as a cost, in nanoseconds. An endpoint that has not succeeded yet costs nothing while it is idle and
    /// has no errors, else more than any other: it is tried with one request at a time until it is known.
    pub(crate) fn latency_cost(&self, now: Instant) -> f32 {
        const UNKNOWN: f32 = 1e15;
        let known = self.latency_nanos(now);
        let suspect = || self.active() > 0 || self.penalty(now) > 1.0;
        if self.hot.latency.written() == 0.0 && suspect() { UNKNOWN } else { known }
    }

    /// What its attempts came to since it was made.
    #[must_use]
    pub fn totals(&self) -> Totals {
        Totals {
            successes: self.hot.successes.load(Relaxed),
            overloads: self.overloads.load(Relaxed),
            failures: self.failures.load(Relaxed),
            latency: Duration::from_nanos(self.hot.latency_nanos.load(Relaxed)),
        }
    }

    /// The share of look-ups that its cache answers, if it has said so since it joined.
    #[must_use]
    pub fn cache_hit_ratio(&self) -> Option<f64> {
        self.reported.cache_hit_ratio(self.joined())
    }

    /// Its last load report and when it came. `None` when it never sent one.
    #[must_use]
    pub fn report(&self) -> Option<(Instant, Report)> {
        self.reported.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    fn attempt(endpoint: &Endpoint, now: Instant, latency: Duration, verdict: Verdict) {
        endpoint.on_start(now);
        endpoint.on_end(now, Ended { latency, verdict });
    }

    fn verdict() -> impl Strategy<Value = Verdict> {
        prop::sample::select(std::vec![
            Verdict::Success,
            Verdict::Overloaded,
            Verdict::Failure,
            Verdict::Unknown,
        ])
    }

    proptest! {
        #[test]
        fn what_it_learns_stays_in_bounds_whatever_the_order_of_time(
            ops in prop::collection::vec((0u64..100_000, 0u64..1 << 40, verdict()), 1..200),
        ) {
            let endpoint = Endpoint::new("a", 1, 10, at(0));
            let mut expected = Totals::default();
            let mut slowest = Duration::ZERO;
            for (millis, nanos, verdict) in ops {
                let (now, latency) = (at(millis), Duration::from_nanos(nanos));
                attempt(&endpoint, now, latency, verdict);
                match verdict {
                    Verdict::Success => {
                        expected.successes += 1;
                        expected.latency += latency;
                    }
                    Verdict::Overloaded => expected.overloads += 1,
                    Verdict::Failure => expected.failures += 1,
                    Verdict::Unknown => {}
                }
                if verdict != Verdict::Unknown {
                    slowest = slowest.max(latency).max(Duration::from_nanos(1));
                }
                prop_assert_eq!(endpoint.active(), 0);
                prop_assert!((0.0..=1.0).contains(&endpoint.error_share(now)));
                prop_assert!((1.0..=17.0).contains(&endpoint.penalty(now)));
                prop_assert!(endpoint.latency(now).unwrap_or_default().as_secs_f64() <= slowest.as_secs_f64() * 1.001);
            }
            prop_assert_eq!(endpoint.totals(), expected);
        }

        #[test]
        fn the_error_share_follows_the_true_share(percent in 0u32..=100, gap_ms in 0u64..1_000) {
            let endpoint = Endpoint::new("a", 1, 10, at(0));
            let mut rng = crate::Rng::with_seed(u64::from(percent));
            let (mut sum, mut seen) = (0.0, 0.0);
            for step in 0..2_000 {
                let now = at(step * gap_ms);
                let failed = rng.u32(..100) < percent;
                attempt(&endpoint, now, MS, if failed { Verdict::Failure } else { Verdict::Success });
                if step >= 200 {
                    sum += endpoint.error_share(now);
                    seen += 1.0;
                }
            }
            prop_assert!((sum / seen - f64::from(percent) / 100.0).abs() < 0.06, "{}", sum / seen);
        }
    }

    #[test]
    fn our_own_refusals_and_callers_that_leave_teach_nothing() {
        let endpoint = Endpoint::new("a", 1, 10, at(0));
        for _ in 0..100 {
            attempt(&endpoint, at(1), Duration::from_secs(9), Verdict::Unknown);
        }
        assert_eq!((endpoint.active(), endpoint.totals()), (0, Totals::default()));
        assert_eq!((endpoint.penalty(at(1)), endpoint.latency(at(1))), (1.0, None));
    }

    #[test]
    fn an_overload_answer_counts_against_it_in_balancing_but_not_as_illness() {
        let endpoint = Endpoint::new("a", 1, 10, at(0));
        for millis in 0..100 {
            attempt(&endpoint, at(millis), MS, Verdict::Overloaded);
        }
        assert!(endpoint.penalty(at(100)) > 10.0);
        assert_eq!((endpoint.totals().overloads, endpoint.totals().failures), (100, 0));
    }

    #[test]
    fn a_past_error_is_forgotten() {
        let endpoint = Endpoint::new("a", 1, 10, at(0));
        for _ in 0..200 {
            attempt(&endpoint, at(0), MS, Verdict::Failure);
        }
        assert!(endpoint.penalty(at(5_000)) > 8.0);
        assert_eq!(endpoint.penalty(at(40_000)), 1.0);
    }

    #[test]
    fn latency_jumps_up_at_once_and_comes_down_slowly() {
        let endpoint = Endpoint::new("a", 1, 10, at(0));
        attempt(&endpoint, at(0), MS * 10, Verdict::Success);
        attempt(&endpoint, at(100), MS * 500, Verdict::Success);
        assert!(endpoint.latency(at(100)).is_some_and(|latency| latency >= MS * 499));
        attempt(&endpoint, at(200), MS, Verdict::Success);
        assert!(endpoint.latency(at(200)).is_some_and(|latency| latency >= MS * 450));
        assert!(endpoint.latency(at(7_100)).is_some_and(|latency| latency < MS * 260 && latency > MS * 240));
    }

    #[test]
    fn a_fast_failure_does_not_make_it_look_fast() {
        let endpoint = Endpoint::new("a", 1, 10, at(0));
        attempt(&endpoint, at(0), MS * 100, Verdict::Success);
        let before = endpoint.latency(at(0));
        for millis in 0..30_000 {
            attempt(&endpoint, at(millis), MS, Verdict::Overloaded);
            assert_eq!(endpoint.latency(at(millis)), before);
        }
        let stranger = Endpoint::new("b", 1, 10, at(0));
        attempt(&stranger, at(0), MS, Verdict::Failure);
        assert_eq!(stranger.latency(at(0)), None);
        assert!(stranger.latency_cost(at(0)) > endpoint.latency_cost(at(0)));
    }

    #[test]
    fn the_last_place_is_given_once() {
        let endpoint = Endpoint::new("a", 1, 2, at(0));
        assert!(endpoint.try_start(at(0)) && endpoint.try_start(at(0)));
        assert!(!endpoint.try_start(at(0)));
        assert_eq!(endpoint.active(), 2);
        endpoint.set_active_max(3);
        assert!(endpoint.try_start(at(0)));
    }

    #[test]
    fn a_report_is_read_back_and_replaced_whole() {
        let endpoint = Endpoint::new("a", 1, 2, at(0));
        assert_eq!(endpoint.report(), None);
        let first = Report { cpu_utilization: Some(0.5), requests_in_flight: Some(3), ..Report::default() };
        let second = Report { latency: Some(MS * 5), eps: Some(0.0), ..Report::default() };
        for (millis, report) in [(1, first), (2, second)] {
            endpoint.on_report(at(millis), &report);
            assert_eq!(endpoint.report(), Some((at(millis), report)));
        }
    }

    #[test]
    fn two_readings_of_the_totals_give_an_interval() {
        let endpoint = Endpoint::new("a", 1, 10, at(0));
        attempt(&endpoint, at(0), MS * 100, Verdict::Success);
        let earlier = endpoint.totals();
        attempt(&endpoint, at(1), MS * 10, Verdict::Success);
        attempt(&endpoint, at(1), MS * 30, Verdict::Success);
        attempt(&endpoint, at(1), MS, Verdict::Failure);
        let interval = endpoint.totals().since(earlier);
        assert_eq!((interval.successes, interval.failures, interval.latency_mean()), (2, 1, Some(MS * 20)));
        assert_eq!(earlier.since(endpoint.totals()), Totals::default());
        assert_eq!(Totals::default().latency_mean(), None);
    }

    #[test]
    fn racing_threads_never_exceed_the_limit_and_lose_no_place() {
        const THREADS: u32 = 4;
        let endpoint = Endpoint::new("a", 1, THREADS - 1, at(0));
        let most = AtomicU32::new(0);
        let granted = AtomicU32::new(0);
        let held = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        if endpoint.try_start(at(1)) {
                            most.fetch_max(held.fetch_add(1, Relaxed) + 1, Relaxed);
                            granted.fetch_add(1, Relaxed);
                            held.fetch_sub(1, Relaxed);
                            endpoint.on_end(at(2), Ended { latency: MS, verdict: Verdict::Success });
                        }
                    }
                });
            }
        });
        assert!(most.into_inner() < THREADS);
        assert_eq!(endpoint.active(), 0);
        assert_eq!(endpoint.totals().successes, u64::from(granted.into_inner()));
    }

    #[test]
    fn what_a_pick_reads_fills_one_cache_line() {
        assert_eq!(size_of::<Hot>(), 64);
    }
}
