//! Counters over a sliding window, kept by when a call began.

use core::array;
use core::ops::RangeInclusive;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use core::time::Duration;

use model::Instant;

use crate::backoff::nanos;
use crate::sharded::Sharded;

/// The window slides by so many steps.
pub(crate) const STEPS: u64 = 10;

/// Slots that are summed: those that the window reaches into, among them the one that has just begun.
pub(crate) const LIVE: RangeInclusive<u64> = 0..=STEPS;

/// One more than are live, so that a thread a little ahead of the others counts into a slot that nobody reads.
const RING: usize = STEPS as usize + 2;

/// `N` counters for each slot of a ring; they only grow, and a slot's content is the growth since it was opened.
#[derive(Debug)]
struct Ring<const N: usize>([[AtomicU32; N]; RING]);

impl<const N: usize> Default for Ring<N> {
    fn default() -> Self {
        Self(array::from_fn(|_| array::from_fn(|_| AtomicU32::new(0))))
    }
}

/// Counts `N` kinds of things over a sliding window of a length between `window` and a tenth more.
///
/// What is counted names the point it belongs to, so that a late answer lands beside the request that it answers and
/// the two leave the window together; what belongs to a point before the window is dropped. (`CallWindow` counts an
/// end when it happens, which is what a breaker needs and costs it no table per worker.)
///
/// Counting is one relaxed addition on the worker's own cache lines. At the border of two slots, things that other
/// threads count within the same few hundred nanoseconds may be missed. Fewer than 2³² of a kind fit in a slot.
#[derive(Debug)]
pub(crate) struct Slots<const N: usize> {
    rings: Sharded<Ring<N>>,
    /// What the workers' counters of a slot added up to when it was opened.
    opened_at: Ring<N>,
    /// The number of the latest slot; slot `n` begins at `n × step` and lies at `n % RING`.
    opened: AtomicU64,
    opening: AtomicBool,
    step: u64,
}

impl<const N: usize> Slots<N> {
    pub(crate) fn new(workers: usize, window: Duration, now: Instant) -> Self {
        let step = (nanos(window) / STEPS).max(1);
        Self {
            rings: Sharded::new(workers),
            opened_at: Ring::default(),
            opened: AtomicU64::new(now.as_nanos() / step),
            opening: AtomicBool::new(false),
            step,
        }
    }

    /// Counts one of `kind` that belongs to `at`.
    pub(crate) fn count(&self, shard: usize, kind: usize, at: Instant) {
        let slot = at.as_nanos() / self.step;
        if slot + STEPS >= self.opened.load(Relaxed) {
            self.rings.get(shard).0[place(slot)][kind].fetch_add(1, Relaxed);
        }
    }

    /// Slides the window to `now`, then looks at it; `None` while another thread is at it.
    pub(crate) fn slide<T>(&self, now: Instant, look: impl FnOnce(&Self) -> T) -> Option<T> {
        if self.opening.swap(true, Acquire) {
            return None;
        }
        let opened = self.opened.load(Relaxed);
        let latest = now.as_nanos() / self.step;
        // After a long silence every place is opened once.
        for slot in (opened + 1).max(latest.saturating_sub(RING as u64 - 1))..=latest {
            let sums = self.sums(place(slot));
            self.opened_at.0[place(slot)].iter().zip(sums).for_each(|(kept, sum)| kept.store(sum, Relaxed));
        }
        self.opened.store(latest.max(opened), Relaxed);
        let seen = look(self);
        self.opening.store(false, Release);
        Some(seen)
    }

    /// What was counted in the slot that lies `back` before the latest one, of [`LIVE`]; nothing before the beginning
    /// of time.
    pub(crate) fn slot(&self, back: u64) -> [u32; N] {
        let Some(slot) = self.opened.load(Relaxed).checked_sub(back) else { return [0; N] };
        let (sums, opened_at) = (self.sums(place(slot)), &self.opened_at.0[place(slot)]);
        array::from_fn(|kind| sums[kind].wrapping_sub(opened_at[kind].load(Relaxed)))
    }

    /// When the slot that lies `back` before the latest one ends.
    pub(crate) fn end(&self, back: u64) -> Instant {
        let slots = (self.opened.load(Relaxed) + 1).saturating_sub(back);
        Instant::from_nanos(slots.saturating_mul(self.step))
    }

    fn sums(&self, place: usize) -> [u32; N] {
        let mut sums = [0u32; N];
        for ring in self.rings.iter() {
            sums.iter_mut().zip(&ring.0[place]).for_each(|(sum, n)| *sum = sum.wrapping_add(n.load(Relaxed)));
        }
        sums
    }
}

fn place(slot: u64) -> usize {
    (slot % RING as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;
    use std::vec::Vec;

    const WINDOW: Duration = Duration::from_secs(10);

    proptest! {
        /// Whatever belongs to the window is counted, however late it is counted; what belongs before it and its slack is not.
        #[test]
        fn counts_what_belongs_to_the_window(
            ops in prop::collection::vec((0..3_000u64, 0..15_000u64, 0..2usize), 1..150), shards in 1..5usize,
        ) {
            let slots = Slots::<2>::new(shards, WINDOW, Instant::ORIGIN);
            let mut counted: Vec<(u64, usize)> = Vec::new();
            let mut millis = 0;
            for (shard, (gap, late, kind)) in ops.into_iter().enumerate() {
                millis += gap;
                let now = Instant::from_millis(millis);
                prop_assert!(slots.slide(now, |_| ()).is_some());
                let at = millis.saturating_sub(late);
                slots.count(shard, kind, Instant::from_millis(at));
                counted.push((at, kind));
                let sums = LIVE.fold([0u32; 2], |sums, back| {
                    let slot = slots.slot(back);
                    array::from_fn(|kind| sums[kind] + slot[kind])
                });
                for (kind, sum) in sums.into_iter().enumerate() {
                    let within = |span: u64| {
                        counted.iter().filter(|(at, of)| *of == kind && at + span > millis).count() as u32
                    };
                    prop_assert!((within(10_000)..=within(11_000)).contains(&sum), "{sum} of {kind}");
                }
                prop_assert!(slots.end(0) > now && slots.end(STEPS) <= now.before(Duration::from_secs(9)).max(Instant::from_secs(1)));
            }
        }
    }

    #[test]
    fn racing_threads_lose_nothing_within_a_slot() {
        let slots = Slots::<1>::new(4, WINDOW, Instant::ORIGIN);
        thread::scope(|scope| {
            for shard in 0..4 {
                let slots = &slots;
                scope.spawn(move || {
                    for nth in 0..10_000 {
                        slots.count(shard, 0, Instant::from_nanos(nth));
                        slots.slide(Instant::from_nanos(nth), |_| ());
                    }
                });
            }
        });
        assert_eq!(slots.slot(0), [40_000]);
    }
}
