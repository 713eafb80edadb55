//! A sliding window over calls that many threads count into.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::Instant;

use crate::backoff::nanos;
use crate::sharded::Sharded;

/// What one worker counted, ever. Sums over a window are differences between two readings.
#[derive(Debug, Default)]
struct Counters {
    starts: AtomicU64,
    ends: AtomicU64,
    ignored: AtomicU64,
    failures: AtomicU64,
    slow: AtomicU64,
    bad: AtomicU64,
}

/// A reading of all workers' counters.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    starts: u64,
    ends: u64,
    ignored: u64,
    failures: u64,
    slow: u64,
}

/// A reading that is remembered, and when it was taken.
#[derive(Debug, Default)]
struct Reading {
    at: AtomicU64,
    starts: AtomicU64,
    ends: AtomicU64,
    ignored: AtomicU64,
    failures: AtomicU64,
    slow: AtomicU64,
}

impl Reading {
    fn store(&self, at: u64, totals: Totals) {
        self.at.store(at, Relaxed);
        self.starts.store(totals.starts, Relaxed);
        self.ends.store(totals.ends, Relaxed);
        self.ignored.store(totals.ignored, Relaxed);
        self.failures.store(totals.failures, Relaxed);
        self.slow.store(totals.slow, Relaxed);
    }

    fn load(&self) -> Totals {
        Totals {
            starts: self.starts.load(Relaxed),
            ends: self.ends.load(Relaxed),
            ignored: self.ignored.load(Relaxed),
            failures: self.failures.load(Relaxed),
            slow: self.slow.load(Relaxed),
        }
    }
}

/// How a call ended, as far as counting goes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
    /// Neither good nor bad: not counted as a call.
    pub(crate) ignored: bool,
}

/// What happened in the window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    /// Calls that ended in the window, and those that hang.
    pub(crate) calls: u64,
    pub(crate) failures: u64,
    /// Slow calls, and those that hang.
    pub(crate) slow: u64,
}

/// A reading is taken every so much of the window.
const STEPS: u64 = 10;

/// Two readings lie at least a step apart when another one lies between them (see [`CallWindow::advance`]), so this
/// many always reach back to the far end of the window.
const READINGS: usize = 2 * STEPS as usize + 2;

/// Counts calls over a sliding window of a length between `window` and an eighth more.
///
/// Counting is one or two relaxed additions on the worker's own cache lines. [`CallWindow::advance`] remembers a
/// reading of all counters every tenth of the window; it and [`CallWindow::restart`] are for one thread at a time.
#[derive(Debug)]
pub(crate) struct CallWindow {
    counters: Sharded<Counters>,
    /// The reading from which on calls count at all.
    base: Reading,
    /// A ring; slot `taken % READINGS` is the next to be overwritten.
    readings: [Reading; READINGS],
    taken: AtomicU32,
    advanced: AtomicU64,
    window: u64,
}

impl CallWindow {
    pub(crate) fn new(workers: usize, window: Duration, now: Instant) -> Self {
        let base = Reading::default();
        base.store(now.as_nanos(), Totals::default());
        Self {
            counters: Sharded::new(workers),
            base,
            readings: Default::default(),
            taken: AtomicU32::new(0),
            advanced: AtomicU64::new(now.as_nanos()),
            window: nanos(window).max(STEPS),
        }
    }

    /// Copies of the counters.
    pub(crate) fn shards(&self) -> usize {
        self.counters.len()
    }

    pub(crate) fn on_start(&self, shard: usize) {
        self.counters.get(shard).starts.fetch_add(1, Relaxed);
    }

    /// For a failed or slow call, how many of those this worker has counted with it.
    pub(crate) fn on_end(&self, shard: usize, ended: Ended) -> Option<u64> {
        let counters = self.counters.get(shard);
        counters.ends.fetch_add(1, Relaxed);
        if ended.ignored {
            counters.ignored.fetch_add(1, Relaxed);
        }
        if ended.failed {
            counters.failures.fetch_add(1, Relaxed);
        }
        if ended.slow {
            counters.slow.fetch_add(1, Relaxed);
        }
        (ended.failed || ended.slow).then(|| counters.bad.fetch_add(1, Relaxed) + 1)
    }

    /// Forgets everything counted before `now`.
    pub(crate) fn restart(&self, now: Instant) {
        self.base.store(now.as_nanos(), self.totals());
        self.taken.store(0, Relaxed);
        self.advanced.store(now.as_nanos(), Relaxed);
    }

    /// Remembers a reading if a tenth of the window has passed. Called at least every `tick` while calls are counted,
    /// before the call that leads here is counted: so whatever is read happened within a `tick` of the last time, and
    /// after a long silence the reading is dated back to when it began.
    pub(crate) fn advance(&self, now: Instant, tick: Duration) {
        let advanced = Instant::from_nanos(self.advanced.load(Relaxed));
        let taken = self.taken.load(Relaxed);
        let newest = match taken {
            0 => self.base.at.load(Relaxed),
            _ => self.reading(taken - 1).at.load(Relaxed),
        };
        let happened = now.min(advanced.after(tick));
        if now.as_nanos().saturating_sub(newest) >= self.window / STEPS {
            self.reading(taken).store(happened.as_nanos(), self.totals());
            self.taken.store(taken.wrapping_add(1), Relaxed);
        }
        self.advanced.store(now.max(advanced).as_nanos(), Relaxed);
    }

    /// What happened in the window that ends at `now`. With `hang_after`, calls unanswered for longer than that count
    /// as slow although they have not ended. Their number is understated by at most the calls that were both started
    /// and answered within the last `hang_after` and a tenth of the window.
    pub(crate) fn counts(&self, now: Instant, hang_after: Option<Duration>) -> Counts {
        let totals = self.totals();
        let begin = self.totals_at(now.as_nanos().saturating_sub(self.window));
        let ended = since(totals.ends, begin.ends).saturating_sub(since(totals.ignored, begin.ignored));
        let hanging = hang_after.map_or(0, |hang_after| {
            let base = self.base.load();
            let old = self.totals_at(now.before(hang_after).as_nanos());
            since(old.starts, base.starts).saturating_sub(since(totals.ends, base.ends))
        });
        Counts {
            calls: ended + hanging,
            failures: since(totals.failures, begin.failures),
            slow: since(totals.slow, begin.slow) + hanging,
        }
    }

    /// The latest reading not taken after `at`; the earliest there is when all were.
    fn totals_at(&self, at: u64) -> Totals {
        let taken = self.taken.load(Relaxed);
        let kept = taken.min(READINGS as u32);
        let found = (1..=kept).map(|back| self.reading(taken - back)).find(|r| r.at.load(Relaxed) <= at);
        match found {
            Some(reading) => reading.load(),
            None if kept < READINGS as u32 => self.base.load(),
            None => self.reading(taken - kept).load(),
        }
    }

    fn reading(&self, number: u32) -> &Reading {
        &self.readings[number as usize % READINGS]
    }

    fn totals(&self) -> Totals {
        self.counters.iter().fold(Totals::default(), |sum, counters| Totals {
            // Ends first: a call that ends while we read then counts as under way, not as ended before it began.
            ends: sum.ends + counters.ends.load(Relaxed),
            ignored: sum.ignored + counters.ignored.load(Relaxed),
            failures: sum.failures + counters.failures.load(Relaxed),
            slow: sum.slow + counters.slow.load(Relaxed),
            starts: sum.starts + counters.starts.load(Relaxed),
        })
    }
}

/// The growth of a counter between two readings, taken by racing threads.
fn since(now: u64, then: u64) -> u64 {
    now.saturating_sub(then)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const WINDOW: Duration = Duration::from_secs(10);
    const TICK: Duration = Duration::from_millis(100);

    /// Silences of all kinds, among them pairs that last a step together, which put readings close to each other.
    fn gaps() -> impl Strategy<Value = Vec<u64>> {
        let any = (0..4_000u64, 0..300u64).prop_map(|(long, short)| [long, short]);
        let step = (700..1_000u64, 0..20u64).prop_map(|(part, more)| [part, 1_000 - part + more]);
        let short = (0..300u64, 0..300u64).prop_map(|(one, other)| [one, other]);
        let pairs = prop_oneof![
            prop::collection::vec(any, 1..100),
            prop::collection::vec(step, 1..100),
            prop::collection::vec(short, 1..150),
        ];
        pairs.prop_map(|pairs| pairs.into_flattened())
    }

    proptest! {
        /// Whatever ended within the window is counted; whatever ended before it and its slack is not.
        #[test]
        fn counts_what_ended_in_the_window(gaps in gaps(), shards in 1..5usize) {
            let window = CallWindow::new(shards, WINDOW, Instant::ORIGIN);
            let mut ended: Vec<u64> = Vec::new();
            let mut millis = 0;
            for (shard, gap) in gaps.into_iter().enumerate() {
                millis += gap;
                let now = Instant::from_millis(millis);
                window.advance(now, TICK);
                window.on_start(shard);
                window.on_end(shard, Ended { failed: true, ..Ended::default() });
                ended.push(millis);
                let counts = window.counts(now, None);
                let within = |span: u64| ended.iter().filter(|at| *at + span > millis).count() as u64;
                prop_assert!(counts.failures >= within(10_000), "{counts:?}");
                prop_assert!(counts.failures <= within(11_200), "{counts:?} > {}", within(11_200));
                prop_assert_eq!(counts.calls, counts.failures);
            }
        }
    }

    #[test]
    fn what_happened_before_a_long_silence_is_forgotten() {
        let window = CallWindow::new(1, WINDOW, Instant::ORIGIN);
        window.advance(Instant::ORIGIN, TICK);
        (0..19).for_each(|_| {
            window.on_start(0);
            window.on_end(0, Ended { failed: true, ..Ended::default() });
        });
        let later = Instant::from_secs(1_000);
        window.advance(later, TICK);
        assert_eq!(window.counts(later, None), Counts::default());
    }
}
