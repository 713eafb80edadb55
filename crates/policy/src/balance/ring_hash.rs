use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::Instant;

use super::{Balancer, LeastLoaded, Pick, RingHashParams, anybody, may_take_key};
use crate::{Endpoint, Fleet, Rng, mix};

/// Points on a ring at most; with more endpoints or greater weights each gets fewer.
const POINTS_MAX: f64 = (1u32 << 20) as f64;
/// Points that a pick walks past before it settles for the least loaded endpoint that it met.
const WALK_MAX: usize = 64;
/// Up to this many candidates the fleet's load is counted at each pick, above it every [`COUNT_AGE_MAX`].
const COUNTED_MAX: usize = 64;
const COUNT_AGE_MAX: Duration = Duration::from_millis(1);

/// A ring hash of the request's key, with bounded load: the endpoint whose point follows the key's on the ring, or the
/// next one on the ring that is not above `load_bound` times the fleet's mean of active requests, by weight.
///
/// When an endpoint comes or goes only its own keys move. A request without a key goes by [`LeastLoaded`]. In fleets
/// of more than 64 the mean may be a millisecond old, and a pick that met only endpoints above the bound takes the
/// least loaded of them. During slow start a newcomer's keys move to it little by little, each once.
///
/// Source: Karger et al.; Mirrokni et al., Consistent Hashing with Bounded Loads.
#[derive(Debug)]
pub struct RingHash {
    points: Box<[(u64, u32)]>,
    load_bound: f64,
    weight_total: f64,
    active_total: AtomicU64,
    /// Nanoseconds.
    count_at: AtomicU64,
    keyless: LeastLoaded,
}

impl RingHash {
    /// For the candidates of `fleet`.
    #[must_use]
    pub fn new(params: &RingHashParams, fleet: &Fleet) -> Self {
        let weight = |index: u32| f64::from(fleet.endpoint(index).weight());
        let weight_total: f64 = fleet.candidates().iter().map(|index| weight(*index)).sum();
        let per_weight = f64::from(params.points).min(POINTS_MAX / weight_total.max(1.0));
        let mut points = Vec::new();
        for &index in fleet.candidates() {
            let key = fleet.endpoint(index).key();
            let count = (weight(index) * per_weight + 0.5) as u64;
            points.extend((0..count.max(1)).map(|nth| (mix(key.wrapping_add(mix(nth + 1))), index)));
        }
        points.sort_unstable();
        Self {
            points: points.into(),
            load_bound: params.load_bound,
            weight_total,
            active_total: AtomicU64::new(0),
            count_at: AtomicU64::new(0),
            keyless: LeastLoaded::new(fleet),
        }
    }

    /// Active requests of all candidates.
    fn active_total(&self, fleet: &Fleet, now: Instant) -> u64 {
        let count =
            || fleet.candidates().iter().map(|index| u64::from(fleet.endpoint(*index).active())).sum();
        if fleet.candidates().len() <= COUNTED_MAX {
            return count();
        }
        let due = self.count_at.load(Relaxed);
        let next = now.after(COUNT_AGE_MAX).as_nanos();
        if now.as_nanos() >= due && self.count_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            self.active_total.store(count(), Relaxed);
        }
        self.active_total.load(Relaxed)
    }

    /// How full the endpoint would be with one request more: 1 is `load_bound` times its share of the load.
    fn fullness(&self, fleet: &Fleet, endpoint: &Endpoint, active_total: u64, now: Instant) -> f64 {
        let share = f64::from(endpoint.weight()) / self.weight_total * fleet.ramp_share(endpoint, now);
        let bound = self.load_bound * (active_total + 1) as f64 * share;
        // A bound is rounded up to a whole request, so that an idle fleet has room.
        f64::from(endpoint.active()) / bound
    }
}

impl Balancer for RingHash {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        let Some(key) = pick.key else { return self.keyless.pick(fleet, pick, rng) };
        let bounded = self.load_bound > 0.0;
        let active_total = if bounded { self.active_total(fleet, pick.now) } else { 0 };
        let start = self.points.partition_point(|(point, _)| *point < key);
        let (before, from) = self.points.split_at(start);
        let mut least: Option<(f64, u32)> = None;
        let mut last = None;
        for &(_, index) in from.iter().chain(before).take(WALK_MAX) {
            if last == Some(index) || !may_take_key(fleet, pick, index, key) {
                continue;
            }
            last = Some(index);
            if !bounded {
                return last;
            }
            let fullness = self.fullness(fleet, fleet.endpoint(index), active_total, pick.now);
            if fullness < 1.0 {
                return last;
            }
            if least.is_none_or(|(least, _)| fullness < least) {
                least = Some((fullness, index));
            }
        }
        least.map(|(_, index)| index).or_else(|| anybody(fleet, pick, rng))
    }
}
