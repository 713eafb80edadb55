use super::sampler::Sampler;
use super::{Balancer, Pick, anybody};
use crate::{Fleet, Rng};

/// At random, by configured weight and slow-start share.
#[derive(Debug)]
pub struct Random {
    sampler: Sampler,
}

impl Random {
    /// For the candidates of `fleet`.
    #[must_use]
    pub fn new(fleet: &Fleet) -> Self {
        Self { sampler: Sampler::new(fleet) }
    }
}

impl Balancer for Random {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        self.sampler.draw_fit(fleet, pick, rng).or_else(|| anybody(fleet, pick, rng))
    }
}
