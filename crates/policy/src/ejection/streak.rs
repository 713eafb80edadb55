//! Failures in a row, counted where requests end.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use model::Verdict;

/// Counts an endpoint's failures in a row. While it answers well, its cache line is only read.
///
/// A refusal for overload is load, not illness, and what says nothing about the endpoint says nothing here: neither
/// lengthens nor breaks a streak. Racing answers may be counted in another order than they came.
#[derive(Debug)]
pub struct Streak {
    failures: AtomicU32,
    trips_at: u32,
}

impl Streak {
    /// A streak that trips after `consecutive_failures` failures; never when that is 0.
    #[must_use]
    pub fn new(consecutive_failures: u32) -> Self {
        Self { failures: AtomicU32::new(0), trips_at: consecutive_failures }
    }

    /// An attempt ended. Answers whether the streak has tripped: at its threshold and at every multiple of it, so that
    /// an ejection that the bounds did not allow is asked for again. One thread is told so each time.
    pub fn on_end(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Success => {
                self.reset();
                false
            }
            Verdict::Failure if self.trips_at > 0 => {
                let failures = self.failures.fetch_add(1, Relaxed).wrapping_add(1);
                failures.is_multiple_of(self.trips_at)
            }
            Verdict::Failure | Verdict::Overloaded | Verdict::Unknown => false,
        }
    }

    /// Forgets the failures counted, as when the endpoint returns.
    pub fn reset(&self) {
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
        }
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }
}
