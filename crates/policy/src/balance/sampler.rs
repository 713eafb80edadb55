//! Random draws by weight, and the better of two.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::{DRAWS, Pick, anybody, may_take};
use crate::{Endpoint, Fleet, Rng};

/// Draws candidates at random by weight and slow-start share, in constant time.
///
/// Source: Walker's alias method, tables by Vose.
#[derive(Debug)]
pub(super) struct Sampler {
    /// Empty when all weights are equal.
    aliases: Box<[Alias]>,
    /// Turns a weight into a multiple of the mean.
    scale: f32,
}

#[derive(Clone, Copy, Debug)]
struct Alias {
    /// Share of the draws of this place that stand; the others go to `other`.
    stays: f32,
    other: u32,
}

impl Sampler {
    pub(super) fn new(fleet: &Fleet) -> Self {
        let weights: Vec<f64> =
            fleet.candidates().iter().map(|index| f64::from(fleet.endpoint(*index).weight())).collect();
        let mean = weights.iter().sum::<f64>() / weights.len().max(1) as f64;
        let scale = if mean > 0.0 { (1.0 / mean) as f32 } else { 1.0 };
        let aliases = if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            Box::default()
        } else {
            aliases(weights, mean)
        };
        Self { aliases, scale }
    }

    /// One candidate; `None` when there are none. Whether it may take the request is for the caller to see.
    pub(super) fn draw(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        let candidates = fleet.candidates();
        if candidates.is_empty() {
            return None;
        }
        let mut index = 0;
        for _ in 0..DRAWS {
            let mut place = rng.usize(..candidates.len());
            if let Some(alias) = self.aliases.get(place)
                && rng.f32() >= alias.stays
            {
                place = alias.other as usize;
            }
            index = candidates[place];
            if fleet.admits(fleet.endpoint(index), pick.now, rng) {
                break;
            }
        }
        Some(index)
    }

    /// One candidate that may take the request, in at most [`DRAWS`] draws; `None` when they met none.
    pub(super) fn draw_fit(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        (0..DRAWS).find_map(|_| self.draw(fleet, pick, rng).filter(|index| may_take(fleet, pick, *index)))
    }

    /// The endpoint's weight as a multiple of the candidates' mean.
    pub(super) fn relative_weight(&self, endpoint: &Endpoint) -> f32 {
        (endpoint.weight() as f32 * self.scale).max(f32::MIN_POSITIVE)
    }

    /// How busy the endpoint is for its weight: 1 when idle, whatever its weight, so that idle endpoints are drawn
    /// by weight alone.
    pub(super) fn load(&self, endpoint: &Endpoint) -> f32 {
        1.0 + endpoint.active() as f32 / self.relative_weight(endpoint)
    }

    /// The one of lower `cost` of two candidates drawn at random; the first at a tie. (Mitzenmacher, The Power of Two
    /// Choices: nearly as even as the lowest of all, without the herd.)
    pub(super) fn better_of_two(
        &self,
        fleet: &Fleet,
        pick: &Pick<'_>,
        rng: &mut Rng,
        cost: impl Fn(&Endpoint) -> f32,
    ) -> Option<u32> {
        let Some(first) = self.draw_fit(fleet, pick, rng) else { return anybody(fleet, pick, rng) };
        let second = (0..DRAWS).find_map(|_| {
            self.draw(fleet, pick, rng).filter(|index| *index != first && may_take(fleet, pick, *index))
        });
        let better = second.filter(|index| cost(fleet.endpoint(*index)) < cost(fleet.endpoint(first)));
        better.or(Some(first))
    }
}

fn aliases(mut weights: Vec<f64>, mean: f64) -> Box<[Alias]> {
    weights.iter_mut().for_each(|weight| *weight /= mean);
    let mut table: Box<[Alias]> =
        (0u32..).zip(&weights).map(|(other, _)| Alias { stays: 1.0, other }).collect();
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|at| weights[*at] < 1.0);
    while let (Some(less), Some(&more)) = (small.pop(), large.last()) {
        table[less] = Alias { stays: weights[less] as f32, other: more as u32 };
        weights[more] -= 1.0 - weights[less];
        if weights[more] < 1.0 {
            small.extend(large.pop());
        }
    }
    table
}
