use alloc::boxed::Box;
use alloc::vec::Vec;

use super::stride::Stride;
use super::{Balancer, DRAWS, Pick, anybody, may_take};
use crate::{Fleet, Rng};

/// In turn, by configured weight, each endpoint's turns spread evenly. With equal weights and nobody out, full or
/// ramping up, any `n` picks in a row meet each of `n` endpoints once.
#[derive(Debug)]
pub struct RoundRobin {
    /// Candidates in the order of their turns; heavy ones more than once, so that no place outweighs the mean and few
    /// turns are skipped.
    places: Box<[u32]>,
    stride: Stride,
}

impl RoundRobin {
    /// For the candidates of `fleet`; `seed` decides who is first.
    #[must_use]
    pub fn new(fleet: &Fleet, seed: u64) -> Self {
        let weight = |index: u32| f64::from(fleet.endpoint(index).weight());
        let candidates = fleet.candidates();
        let mean =
            candidates.iter().map(|index| weight(*index)).sum::<f64>() / candidates.len().max(1) as f64;
        // (where in a round, from 0 to 1; who; with how much weight)
        let mut turns = Vec::with_capacity(2 * candidates.len());
        for &index in candidates {
            let times = (u64::from(fleet.endpoint(index).weight()) as f64 / mean) as u32;
            let times = if f64::from(times) * mean < weight(index) { times + 1 } else { times };
            let part = weight(index) / f64::from(times);
            turns.extend((0..times).map(|nth| ((f64::from(nth) + 0.5) / f64::from(times), index, part)));
        }
        turns.sort_by(|one, other| one.0.total_cmp(&other.0));
        let stride = Stride::new(turns.len(), seed);
        stride.set(turns.iter().map(|turn| turn.2));
        Self { places: turns.iter().map(|turn| turn.1).collect(), stride }
    }
}

impl Balancer for RoundRobin {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        for _ in 0..DRAWS {
            let index = self.places[self.stride.next()];
            if may_take(fleet, pick, index) && fleet.admits(fleet.endpoint(index), pick.now, rng) {
                return Some(index);
            }
        }
        anybody(fleet, pick, rng)
    }
}
