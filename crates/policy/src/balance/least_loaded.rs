use super::sampler::Sampler;
use super::{Balancer, Pick};
use crate::{Fleet, Rng};

/// The better of two random endpoints by active requests for their weight, multiplied by
/// [recent errors](crate::Endpoint::penalty): failing fast frees places, so without that factor the endpoint that
/// refuses everything would attract everything.
#[derive(Debug)]
pub struct LeastLoaded {
    sampler: Sampler,
}

impl LeastLoaded {
    /// For the candidates of `fleet`.
    #[must_use]
    pub fn new(fleet: &Fleet) -> Self {
        Self { sampler: Sampler::new(fleet) }
    }
}

impl Balancer for LeastLoaded {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        self.sampler.better_of_two(fleet, pick, rng, |endpoint| {
            self.sampler.load(endpoint) * endpoint.penalty(pick.now)
        })
    }
}
