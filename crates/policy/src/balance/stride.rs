//! Turns by weight: the static stride scheduler.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// A place of this weight takes its turn in every round.
pub(super) const FULL: u32 = 1 << 16;
/// Skipped turns in a row after which the next place is taken as it comes.
const SKIPS_MAX: usize = 64;

/// Hands out places in turn, so that over any long run place `i` comes `weight[i]` times as often as its fellows,
/// its turns spread evenly. Any number of threads share one cursor; weights may change under way.
///
/// In each round every place is visited once and takes its turn or skips it, such that after `r` rounds it took
/// `r × weight / FULL` turns, rounded. Cheap as long as weights lie within a factor of ten or so of the largest.
///
/// Source: gRPC's weighted round robin (gRFC A58, static stride scheduler).
#[derive(Debug)]
pub(super) struct Stride {
    weights: Box<[AtomicU32]>,
    cursor: AtomicU64,
}

impl Stride {
    pub(super) fn new(places: usize, seed: u64) -> Self {
        let weights = (0..places).map(|_| AtomicU32::new(FULL)).collect();
        // Kept small, so that the cursor does not overflow in the life of a process.
        Self { weights, cursor: AtomicU64::new(seed >> 32) }
    }

    /// Sets the weights as shares of the largest: that one takes every turn, and none takes less than one in `FULL`.
    pub(super) fn set(&self, weights: impl Iterator<Item = f64> + Clone) {
        let largest = weights.clone().fold(0.0, f64::max);
        for (cell, weight) in self.weights.iter().zip(weights) {
            let share = (weight / largest * f64::from(FULL)) as u32;
            cell.store(share.clamp(1, FULL), Relaxed);
        }
    }

    /// The next place. There must be one.
    pub(super) fn next(&self) -> usize {
        let places = self.weights.len() as u64;
        let mut place = 0;
        for _ in 0..SKIPS_MAX {
            let turn = self.cursor.fetch_add(1, Relaxed);
            let round = turn / places;
            place = (turn % places) as usize;
            let weight = u64::from(self.weights[place].load(Relaxed));
            // Places begin their strides apart, so that equals do not all skip the same round.
            let apart = (place as u64).wrapping_mul(u64::from(FULL) / 2);
            let strode = weight.wrapping_mul(round).wrapping_add(apart) % u64::from(FULL);
            if strode + weight >= u64::from(FULL) {
                break;
            }
        }
        place
    }
}
