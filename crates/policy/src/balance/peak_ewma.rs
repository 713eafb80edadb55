use super::sampler::Sampler;
use super::{Balancer, Pick};
use crate::{Fleet, Rng};

/// What an endpoint costs that has requests under way but has answered none yet, in nanoseconds: more than any other,
/// so that it is tried with one request at a time until it is known.
const UNKNOWN: f32 = 1e15;
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
            let known = endpoint.latency_nanos(pick.now);
            let latency = if known == 0.0 && endpoint.active() > 0 { UNKNOWN } else { known };
            (latency + LATENCY_MIN) * self.sampler.load(endpoint) * endpoint.penalty(pick.now)
        })
    }
}
