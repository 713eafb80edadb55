//! Which endpoint gets the next attempt: one trait, one file for each policy.

mod least_loaded;
mod maglev;
mod params;
mod peak_ewma;
mod prequal;
mod random;
mod ring_hash;
mod round_robin;
mod sampler;
#[cfg(test)]
mod simulation;
mod stride;
#[cfg(test)]
mod tests;
mod weighted_by_load;

use alloc::boxed::Box;

pub use least_loaded::LeastLoaded;
pub use maglev::Maglev;
pub use params::{Balance, HashKey, MaglevParams, PrequalParams, RingHashParams, WeightedByLoadParams};
pub use peak_ewma::PeakEwma;
pub use prequal::Prequal;
pub use random::Random;
pub use ring_hash::RingHash;
pub use round_robin::RoundRobin;
pub use weighted_by_load::WeightedByLoad;

use model::Instant;

use crate::{Fleet, Rng};

/// What a pick may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// When it happens.
    pub now: Instant,
    /// Hash of the key that the route balances by (header, cookie, client, path), made by [`key`]; `None` when it
    /// has none, or the request lacks it.
    pub key: Option<u64>,
    /// Indices of endpoints that this request has tried: avoided while another one is left.
    pub tried: &'a [u32],
}

/// Picks the endpoint of an attempt.
///
/// One instance serves one [`Fleet`] of one service and is shared by every worker; what depends on the set of
/// endpoints is prepared by [`build`]. `pick` runs once per attempt, allocates nothing and stays below a microsecond
/// at a thousand endpoints; only when draw after draw meets endpoints that are full, out or tried does it look
/// through all candidates, once.
pub trait Balancer: Send + Sync {
    /// The index in [`Fleet::endpoints`] of the endpoint to try, or `None` when nobody may be tried: no candidates,
    /// or none with room. Falls back on an endpoint already tried only when no other is left.
    ///
    /// `fleet` is the one that this balancer was made for.
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32>;

    /// How many random candidates to ask for their load because of one request. Asked once per request; what they
    /// answer goes to [`Balancer::on_probe`].
    fn probes(&self, _rng: &mut Rng) -> u32 {
        0
    }

    /// The endpoint at `index` has just reported its load, by a probe's answer or an ordinary one. Called after
    /// [`Endpoint::on_report`](crate::Endpoint::on_report).
    fn on_probe(&self, _index: u32) {}
}

/// The balancer that `balance` names, for `fleet` at `now`. `seed` decides where turns begin, so that many processes
/// that start at once do not all begin with the same endpoint.
///
/// A change of the fleet takes a new balancer; what was learnt stays with the endpoints.
#[must_use]
pub fn build(balance: &Balance, fleet: &Fleet, now: Instant, seed: u64) -> Box<dyn Balancer> {
    match balance {
        Balance::RoundRobin => Box::new(RoundRobin::new(fleet, seed)),
        Balance::Random => Box::new(Random::new(fleet)),
        Balance::LeastLoaded => Box::new(LeastLoaded::new(fleet)),
        Balance::PeakEwma => Box::new(PeakEwma::new(fleet)),
        Balance::WeightedByLoad(params) => Box::new(WeightedByLoad::new(params, fleet, now, seed)),
        Balance::Prequal(params) => Box::new(Prequal::new(params, fleet, now)),
        Balance::RingHash(params) => Box::new(RingHash::new(params, fleet)),
        Balance::Maglev(params) => Box::new(Maglev::new(params, fleet)),
    }
}

/// The [`Pick::key`] of the bytes that a [`HashKey`] names in a request. The same in every process.
#[must_use]
pub fn key(value: &[u8]) -> u64 {
    crate::hash(value)
}

/// Draws before a policy gives up its preference and looks through all candidates.
const DRAWS: usize = 8;

/// Whether the pick may go to `index`: usable at this moment, with room, and not tried.
pub(crate) fn may_take(fleet: &Fleet, pick: &Pick<'_>, index: u32) -> bool {
    let endpoint = fleet.endpoint(index);
    fleet.may_use(endpoint) && endpoint.has_room() && !pick.tried.contains(&index)
}

/// Whether the pick may go to `index` for the sake of its key: [`may_take`], and slow start lets it have the key.
fn may_take_key(fleet: &Fleet, pick: &Pick<'_>, index: u32, key: u64) -> bool {
    may_take(fleet, pick, index) && fleet.admits_key(fleet.endpoint(index), pick.now, key)
}

/// Anybody who can take the request, from a random place on; somebody already tried only when no other is left.
fn anybody(fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
    let candidates = fleet.candidates();
    if candidates.is_empty() {
        return None;
    }
    let (before, from) = candidates.split_at(rng.usize(..candidates.len()));
    let mut tried = None;
    for &index in from.iter().chain(before) {
        let endpoint = fleet.endpoint(index);
        if fleet.may_use(endpoint) && endpoint.has_room() {
            if !pick.tried.contains(&index) {
                return Some(index);
            }
            tried = tried.or(Some(index));
        }
    }
    tried
}
