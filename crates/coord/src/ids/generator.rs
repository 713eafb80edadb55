use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use model::Timestamp;

use super::{END_MS, Id, PER_MS, SEQUENCE_BITS, WORKERS, id_ms};

/// Gives out ids; shared by all threads of a process, without a lock.
///
/// It counts *places*: each millisecond of id time has `numbers × 4 096` of them, taken in order, so that ids rise
/// strictly in the order in which they were taken, whichever thread took them. The clock only says where to go on at the
/// earliest. When the clock stands still, steps back, or the millisecond is full, the generator goes on ahead of the clock:
/// up to [`Generator::AHEAD_MAX`], past which it refuses (fails closed: no id instead of one that sorts wrongly for long).
#[derive(Debug)]
pub struct Generator {
    /// Rising, so that ids rise with places.
    numbers: Arc<[u16]>,
    /// The first free place.
    next: AtomicU64,
    /// The first millisecond of id time that is not ours.
    until: AtomicU64,
}

/// Why there is no id now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The clock stepped back, or more ids were asked for than the worker numbers give.
    #[error("ids are given out further ahead of the clock than allowed: try again in {} ms", wait.as_millis())]
    Ahead {
        /// When the clock will have caught up.
        wait: Duration,
    },
    /// The lease of the worker numbers reaches no further; it was not renewed in time.
    #[error("the lease of the worker numbers has run out")]
    Unleased,
}

impl Generator {
    /// How far ids may run ahead of the clock.
    pub const AHEAD_MAX: Duration = Duration::from_secs(1);
    /// The most ids of one batch.
    pub const BATCH_MAX: u32 = 1 << 20;

    /// Gives out ids with `numbers` (in any order, none twice) for the span of id time `from_ms..until_ms`, in
    /// milliseconds. That span must be leased.
    ///
    /// # Panics
    /// Without a number, or with one of [`WORKERS`] or more.
    #[must_use]
    pub fn new(mut numbers: Vec<u16>, from_ms: u64, until_ms: u64) -> Self {
        numbers.sort_unstable();
        numbers.dedup();
        assert!(numbers.last().is_some_and(|last| *last < WORKERS), "worker numbers are below {WORKERS}");
        let per_ms = PER_MS * numbers.len() as u64;
        Self {
            numbers: numbers.into(),
            next: AtomicU64::new(from_ms.min(END_MS) * per_ms),
            until: AtomicU64::new(until_ms.min(END_MS)),
        }
    }

    /// Its worker numbers.
    #[must_use]
    pub fn numbers(&self) -> &[u16] {
        &self.numbers
    }

    /// The first millisecond of id time in which it gives out nothing.
    #[must_use]
    pub fn until_ms(&self) -> u64 {
        self.until.load(Acquire)
    }

    /// The millisecond of id time that the next id has at the earliest.
    #[must_use]
    pub fn next_ms(&self) -> u64 {
        self.next.load(Relaxed) / self.per_ms()
    }

    /// The lease reaches to `until_ms` now; it never shrinks.
    pub fn extend(&self, until_ms: u64) {
        self.until.fetch_max(until_ms.min(END_MS), Release);
    }

    /// Gives out nothing more, and answers the first millisecond of id time that holds no id of its: the next holder of
    /// its numbers may start there.
    pub fn close(&self) -> u64 {
        self.until.store(0, Release);
        // Whoever passed the check before it was closed has its places when this exchange succeeds, or fails its own.
        let last = self.next.swap(END_MS * self.per_ms(), Relaxed);
        last.div_ceil(self.per_ms())
    }

    /// The next id.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn try_next(&self, now: Timestamp) -> Result<Id, Refused> {
        let place = self.take(1, now)?;
        Ok(self.id(place))
    }

    /// The next `count` ids, in one step: nobody else's lie between them. At most [`Generator::BATCH_MAX`].
    ///
    /// # Errors
    /// [`Refused`]; then none was taken.
    pub fn try_batch(&self, count: u32, now: Timestamp) -> Result<Batch, Refused> {
        let count = u64::from(count.min(Self::BATCH_MAX));
        let start = self.take(count, now)?;
        Ok(Batch { numbers: Arc::clone(&self.numbers), next: start, end: start + count })
    }

    fn per_ms(&self) -> u64 {
        PER_MS * self.numbers.len() as u64
    }

    /// Takes `count` places and answers the first.
    fn take(&self, count: u64, now: Timestamp) -> Result<u64, Refused> {
        let (now, per_ms) = (id_ms(now).min(END_MS), self.per_ms());
        let earliest = now * per_ms;
        let ahead = Self::AHEAD_MAX.as_millis() as u64;
        let mut next = self.next.load(Relaxed);
        loop {
            let start = next.max(earliest);
            let end = start + count;
            let last_ms = end.saturating_sub(1) / per_ms;
            if last_ms >= self.until.load(Acquire) {
                return Err(Refused::Unleased);
            }
            if last_ms > now + ahead {
                return Err(Refused::Ahead { wait: Duration::from_millis(last_ms - now - ahead) });
            }
            match self.next.compare_exchange_weak(next, end, Relaxed, Relaxed) {
                Ok(_) => return Ok(start),
                Err(other) => next = other,
            }
        }
    }

    fn id(&self, place: u64) -> Id {
        id(&self.numbers, place)
    }
}

fn id(numbers: &[u16], place: u64) -> Id {
    let per_ms = PER_MS * numbers.len() as u64;
    let (ms, within) = (place / per_ms, place % per_ms);
    Id::new(ms, numbers[(within >> SEQUENCE_BITS) as usize], within & (PER_MS - 1))
}

/// Ids taken together.
#[derive(Clone, Debug)]
pub struct Batch {
    numbers: Arc<[u16]>,
    next: u64,
    end: u64,
}

impl Iterator for Batch {
    type Item = Id;

    fn next(&mut self) -> Option<Id> {
        let place = self.next;
        (place < self.end).then(|| {
            self.next += 1;
            id(&self.numbers, place)
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.end - self.next) as usize;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Batch {}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::super::EPOCH_UNIX_MS;
    use super::*;

    const FOREVER: u64 = END_MS;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_unix_nanos((EPOCH_UNIX_MS + ms) * 1_000_000)
    }

    proptest! {
        /// Whatever the clock does: ids rise strictly, lie within the lease, and are at most the bound ahead of the clock. A
        /// refusal for the clock's sake says when it is over.
        #[test]
        fn ids_rise_whatever_the_clock_does(
            numbers in prop::collection::hash_set(0..WORKERS, 1..5),
            steps in prop::collection::vec((0..20_000u64, prop_oneof![8 => 1..500u32, 1 => 1..20_000u32]), 1..40),
            from in 0..15_000u64,
            lease in 0..20_000u64,
        ) {
            let (numbers, until) = (Vec::from_iter(numbers), from + lease);
            let generator = Generator::new(numbers.clone(), from, until);
            let mut last = None;
            for (now, count) in steps {
                match generator.try_batch(count, at(now)) {
                    Ok(batch) => {
                        prop_assert_eq!(batch.len(), count as usize);
                        for id in batch {
                            prop_assert!(Some(id) > last);
                            last = Some(id);
                            let ms = id_ms(id.timestamp());
                            prop_assert!(numbers.contains(&id.worker()));
                            prop_assert!((from..until).contains(&ms), "{} in {}..{}", ms, from, until);
                            prop_assert!(ms >= now && ms <= now + 1_000, "{} at {}", ms, now);
                        }
                    }
                    Err(Refused::Ahead { wait }) => {
                        let later = now + wait.as_millis() as u64;
                        let again = generator.try_batch(count, at(later));
                        let still_ahead = matches!(again, Err(Refused::Ahead { .. }));
                        prop_assert!(!still_ahead, "the wait is long enough");
                        last = last.max(generator.next.load(Relaxed).checked_sub(1).map(|place| generator.id(place)));
                    }
                    Err(Refused::Unleased) => prop_assert!(
                        now.max(from) + u64::from(count) / (PER_MS * numbers.len() as u64) + 1 >= until
                            || last.is_some_and(|last| id_ms(last.timestamp()) + 6 >= until)
                    ),
                }
            }
        }

        /// Numbers that change hands: each holder starts where the one before it was closed or its lease ended, with a
        /// clock of its own that may be anywhere. No id is given out twice.
        #[test]
        fn a_number_that_changes_hands_gives_no_id_twice(
            holders in prop::collection::vec((0..3_000u64, 1..500u64, any::<bool>(), 1..500u32), 1..12),
        ) {
            let (mut seen, mut free_from) = (HashSet::new(), 0);
            for (clock, lease, closes, count) in holders {
                // As the engine does: from where the last one ended, or now if that is later.
                let from = clock.max(free_from);
                let generator = Generator::new(vec![7], from, from + lease);
                for _ in 0..3 {
                    if let Ok(batch) = generator.try_batch(count, at(clock)) {
                        for id in batch {
                            prop_assert!(seen.insert(id), "{id} twice");
                        }
                    }
                }
                free_from = if closes { generator.close() } else { generator.until_ms() };
                prop_assert_eq!(generator.try_next(at(clock)).is_ok() && closes, false);
            }
        }
    }

    #[test]
    fn threads_under_a_jumping_clock_share_no_id_and_each_sees_them_rise() {
        let generator = Generator::new(vec![1, 2, 3, 900], 0, FOREVER);
        let clock = AtomicU64::new(5_000);
        let taken: Vec<Vec<Id>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4u64)
                .map(|thread| {
                    let (generator, clock) = (&generator, &clock);
                    scope.spawn(move || {
                        let mut own = Vec::new();
                        for turn in 0..20_000u64 {
                            // Forward and back by up to half a second, from every thread.
                            clock.store(5_000 + (turn * (thread + 7)) % 500, Relaxed);
                            own.extend(generator.try_next(at(clock.load(Relaxed))));
                        }
                        own
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(taken.iter().all(|own| own.len() == 20_000 && own.is_sorted()));
        let unique: HashSet<Id> = taken.iter().flatten().copied().collect();
        assert_eq!(unique.len(), 80_000);
    }

    #[test]
    fn a_clock_that_steps_back_is_borrowed_from_and_then_refused() {
        let generator = Generator::new(vec![1], 0, FOREVER);
        let before = generator.try_next(at(10_000)).unwrap();
        let after = generator.try_next(at(9_000)).unwrap();
        assert!(after > before);
        let refused = generator.try_next(at(8_000)).unwrap_err();
        assert_eq!(refused, Refused::Ahead { wait: Duration::from_secs(1) });
        assert!(generator.try_next(at(10_001)).unwrap() > after);
    }

    #[test]
    fn a_lease_that_is_not_renewed_ends_and_one_that_is_goes_on() {
        let generator = Generator::new(vec![1], 0, 100);
        assert!(generator.try_next(at(99)).is_ok());
        assert_eq!(generator.try_next(at(100)), Err(Refused::Unleased));
        generator.extend(200);
        assert!(generator.try_next(at(100)).is_ok());
        assert_eq!(generator.close(), 101);
        generator.extend(300);
        assert_eq!(generator.try_next(at(150)).ok(), None, "closed for good");
    }

    #[test]
    fn a_batch_larger_than_allowed_is_cut() {
        let generator = Generator::new((0..16).collect(), 0, FOREVER);
        assert_eq!(generator.try_batch(u32::MAX, at(5)).unwrap().len(), Generator::BATCH_MAX as usize);
    }
}
