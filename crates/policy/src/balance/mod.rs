//! Which endpoint gets the next attempt: one trait, one file for each policy.

mod params;

pub use params::{Balance, HashKey, MaglevParams, PrequalParams, RingHashParams, WeightedByLoadParams};

use model::Instant;

use crate::{Fleet, Rng};

/// What a pick may depend on.
#[derive(Clone, Copy, Debug)]
pub struct Pick<'a> {
    /// When it happens.
    pub now: Instant,
    /// Hash of the key that the route balances by (header, cookie, client, path); `None` when it has none, or the
    /// request lacks it.
    pub key: Option<u64>,
    /// Indices of endpoints that this request has tried: avoided while another one is left.
    pub tried: &'a [u32],
}

/// Picks the endpoint of an attempt.
///
/// One instance serves one service and is shared by every worker. `pick` runs once per attempt and stays below a
/// microsecond at a thousand endpoints; what depends on the set of endpoints is prepared by `on_fleet`'s caller in
/// [`Balancer::for_fleet`].
pub trait Balancer: Send + Sync {
    /// The index in [`Fleet::endpoints`] of the endpoint to try, or `None` when nobody may be tried: no candidates,
    /// or none with room. Falls back on an endpoint already tried only when no other is left.
    ///
    /// `fleet` is the one that this balancer was made for.
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32>;
}
