//! Bulkhead: bounded resources for each dependency.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed, Ordering::SeqCst};

use model::Span;
use serde::{Deserialize, Serialize};

use crate::sharded::{Padded, Sharded};

/// How many requests of a service may be under way, and how many may wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BulkheadParams {
    /// Requests under way at once.
    pub active_max: u32,
    /// Requests that may wait for a place; more are refused at once.
    pub waiting_max: u32,
    /// Longest wait for a place.
    pub wait_max: Span,
}

impl Default for BulkheadParams {
    fn default() -> Self {
        Self { active_max: 10_000, waiting_max: 0, wait_max: Span::from_millis(100) }
    }
}

impl BulkheadParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.active_max == 0 {
            wrong.push(("active_max", "must be at least 1: with 0 every request is refused".into()));
        }
        if self.waiting_max > 0 && self.wait_max.is_zero() {
            wrong.push(("wait_max", "must be longer than 0 when waiting_max lets requests wait".into()));
        }
        wrong
    }
}

/// What a request is told that asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// It has a place; [`Bulkhead::leave`] gives it back.
    Enter,
    /// It is counted as waiting, until [`Bulkhead::try_enter_waiting`] lets it in or [`Bulkhead::give_up`].
    Wait,
    /// Neither a place nor a place to wait.
    Refuse,
}

/// Bounds the requests under way to one dependency, so that a slow one cannot take everything that others need.
///
/// At most `active_max` requests of the *process* hold a place and at most `waiting_max` wait, exactly, whatever
/// threads race: places are tokens that change hands and are never made. Every worker keeps a few free places, so
/// that far from the bound no two workers touch the same cache line; at the bound it looks for places that others
/// keep. Fails towards refusing: a place that is changing hands at that very moment can be overlooked.
///
/// Whoever waits is served before newcomers. Whoever was told to wait must either get in or give up (from `Drop`):
/// newcomers queue as long as anybody waits.
#[derive(Debug)]
pub struct Bulkhead {
    /// Free places that no worker keeps.
    free: Padded<AtomicU32>,
    /// Free places that each worker keeps.
    kept: Sharded<AtomicU32>,
    waiting: Padded<AtomicU32>,
    /// Places moved at a time between `free` and a worker.
    batch: u32,
    active_max: u32,
    waiting_max: u32,
}

impl Bulkhead {
    /// A bulkhead shared by `workers` workers.
    #[must_use]
    pub fn new(params: &BulkheadParams, workers: usize) -> Self {
        let kept: Sharded<AtomicU32> = Sharded::new(workers);
        // Workers keep at most two batches each: about half of all places.
        let batch = (params.active_max / (4 * kept.len() as u32)).clamp(1, 64);
        Self {
            free: Padded(AtomicU32::new(params.active_max)),
            kept,
            waiting: Padded::default(),
            batch,
            active_max: params.active_max,
            waiting_max: params.waiting_max,
        }
    }

    /// Asks for a place. `shard` is the number of the calling worker.
    pub fn try_enter(&self, shard: usize) -> Admission {
        if self.waiting.0.load(SeqCst) == 0 && self.take(shard) {
            return Admission::Enter;
        }
        let join = |waiting: u32| (waiting < self.waiting_max).then(|| waiting + 1);
        let Ok(ahead) = self.waiting.0.fetch_update(SeqCst, Relaxed, join) else { return Admission::Refuse };
        // Whoever left before we were counted has woken nobody on our behalf: look once more.
        if ahead == 0 && self.try_enter_waiting(shard) { Admission::Enter } else { Admission::Wait }
    }

    /// Asks again on behalf of a request that was told to wait; when it gets in, it no longer waits. Whose turn it
    /// is among those who wait is the caller's to say. Whoever got in wakes the next one, in case that more than one
    /// place is free.
    #[must_use]
    pub fn try_enter_waiting(&self, shard: usize) -> bool {
        let entered = self.take(shard);
        if entered {
            self.waiting.0.fetch_sub(1, SeqCst);
        }
        entered
    }

    /// A request that was told to wait goes away without a place.
    pub fn give_up(&self) {
        self.waiting.0.fetch_sub(1, SeqCst);
    }

    /// A request gives its place back; exactly once per place. Answers whether somebody waits and should be woken.
    #[must_use = "somebody may be waiting for the place"]
    pub fn leave(&self, shard: usize) -> bool {
        let kept = self.kept.get(shard);
        if kept.fetch_add(1, SeqCst) + 1 > 2 * self.batch
            && kept.fetch_update(SeqCst, Relaxed, |places| places.checked_sub(self.batch)).is_ok()
        {
            self.free.0.fetch_add(self.batch, SeqCst);
        }
        self.waiting.0.load(SeqCst) > 0
    }

    /// Requests under way. Approximate while threads race.
    #[must_use]
    pub fn active(&self) -> u32 {
        let kept: u32 = self.kept.iter().map(|kept| kept.load(Relaxed)).sum();
        self.active_max.saturating_sub(kept.saturating_add(self.free.0.load(Relaxed)))
    }

    /// Requests waiting for a place.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.waiting.0.load(Relaxed)
    }

    fn take(&self, shard: usize) -> bool {
        let own = self.kept.get(shard);
        take_from(own) || self.refill(own) || self.kept.iter().any(take_from) || take_from(&self.free.0)
    }

    /// Moves a batch, or what is left of one, to a worker's own places and takes one of it.
    fn refill(&self, own: &AtomicU32) -> bool {
        let batch = |free: u32| (free > 0).then(|| free - free.min(self.batch));
        let Ok(free) = self.free.0.fetch_update(SeqCst, Relaxed, batch) else { return false };
        own.fetch_add(free.min(self.batch) - 1, SeqCst);
        true
    }
}

fn take_from(places: &AtomicU32) -> bool {
    places.load(SeqCst) > 0 && places.fetch_update(SeqCst, Relaxed, |free| free.checked_sub(1)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    fn bulkhead(active_max: u32, waiting_max: u32, workers: usize) -> Bulkhead {
        Bulkhead::new(&BulkheadParams { active_max, waiting_max, ..BulkheadParams::default() }, workers)
    }

    proptest! {
        #[test]
        fn admits_exactly_up_to_its_bounds(
            active_max in 0..100u32, waiting_max in 0..10u32, ops in prop::collection::vec((0..4u8, 0..8usize), 0..600),
        ) {
            let bulkhead = bulkhead(active_max, waiting_max, 8);
            let (mut active, mut waiting) = (0u32, 0u32);
            for (op, shard) in ops {
                match op {
                    0 | 1 => match bulkhead.try_enter(shard) {
                        Admission::Enter => { prop_assert!(active < active_max && waiting == 0); active += 1 }
                        Admission::Wait => {
                            prop_assert!(active == active_max || waiting > 0);
                            waiting += 1;
                        }
                        Admission::Refuse => {
                            prop_assert!((active == active_max || waiting > 0) && waiting == waiting_max);
                        }
                    },
                    2 if active > 0 => {
                        active -= 1;
                        prop_assert_eq!(bulkhead.leave(shard), waiting > 0);
                    }
                    3 if waiting > 0 => {
                        waiting -= 1;
                        if bulkhead.try_enter_waiting(shard) { active += 1 } else { bulkhead.give_up() }
                        prop_assert!(active <= active_max);
                    }
                    _ => {}
                }
                prop_assert_eq!((bulkhead.active(), bulkhead.waiting()), (active, waiting));
            }
        }
    }

    #[test]
    fn trap_16_the_bound_holds_for_the_process_not_for_each_worker() {
        let bulkhead = bulkhead(7, 0, 4);
        let (inside, peak) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for shard in 0..4 {
                let (bulkhead, inside, peak) = (&bulkhead, &inside, &peak);
                scope.spawn(move || {
                    for _ in 0..3_000 {
                        // Each thread holds up to three places at a time.
                        let held = (0..3).filter(|_| bulkhead.try_enter(shard) == Admission::Enter).count();
                        peak.fetch_max(inside.fetch_add(held as u32, SeqCst) + held as u32, SeqCst);
                        inside.fetch_sub(held as u32, SeqCst);
                        (0..held).for_each(|_| assert!(!bulkhead.leave(shard)));
                    }
                });
            }
        });
        assert!(peak.load(SeqCst) <= 7);
        assert_eq!(bulkhead.active(), 0);
        // No place was lost either.
        assert_eq!((0..20).filter(|_| bulkhead.try_enter(2) == Admission::Enter).count(), 7);
    }

    #[test]
    fn nobody_waits_for_a_place_that_is_free() {
        let bulkhead = bulkhead(2, 4, 2);
        thread::scope(|scope| {
            for shard in 0..3 {
                let bulkhead = &bulkhead;
                scope.spawn(move || {
                    for _ in 0..2_000 {
                        match bulkhead.try_enter(shard) {
                            Admission::Enter => {}
                            Admission::Wait => {
                                while !bulkhead.try_enter_waiting(shard) {
                                    thread::yield_now()
                                }
                            }
                            Admission::Refuse => {
                                unreachable!("three threads cannot fill two places and a queue of four")
                            }
                        }
                        let _ = bulkhead.leave(shard);
                    }
                });
            }
        });
        assert_eq!((bulkhead.active(), bulkhead.waiting()), (0, 0));
    }

    #[test]
    fn waiting_requests_come_before_newcomers() {
        let bulkhead = bulkhead(1, 2, 1);
        assert_eq!(bulkhead.try_enter(0), Admission::Enter);
        assert_eq!(bulkhead.try_enter(0), Admission::Wait);
        assert!(bulkhead.leave(0), "somebody should be woken");
        assert_eq!(bulkhead.try_enter(0), Admission::Wait, "a newcomer does not overtake");
        assert!(bulkhead.try_enter_waiting(0));
        bulkhead.give_up();
        assert!(!bulkhead.leave(0));
    }

    #[test]
    fn senseless_bounds_are_named() {
        let params = BulkheadParams { active_max: 0, waiting_max: 1, wait_max: Span::default() };
        let fields: alloc::vec::Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["active_max", "wait_max"]);
        assert!(BulkheadParams::default().check().is_empty());
    }
}
