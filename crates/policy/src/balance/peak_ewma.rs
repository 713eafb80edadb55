use super::sampler::Sampler;
use super::{Balancer, Pick};
use crate::{Fleet, Rng};

/// Differences below this many nanoseconds do not decide.
const LATENCY_MIN: f32 = 1e3;

/// The better of two random endpoints by [peak-sensitive latency](crate::Endpoint::latency) times active requests for
/// their weight, multiplied by [recent errors](crate::Endpoint::penalty).
///
/// Source: Finagle's peak EWMA, which has no answer to an endpoint that fails fast; the factor is ours.
#[derive(Debug)]
pub struct PeakEwma {
    sampler: Sampler,
}

impl PeakEwma {
    /// For the candidates of `fleet`.
    #[must_use]
    pub fn new(fleet: &Fleet) -> Self {
        Self { sampler: Sampler::new(fleet) }
    }
}

impl Balancer for PeakEwma {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        self.sampler.better_of_two(fleet, pick, rng, |endpoint| {
            (endpoint.latency_cost(pick.now) + LATENCY_MIN)
                * self.sampler.load(endpoint)
                * endpoint.penalty(pick.now)
        })
    }
}
