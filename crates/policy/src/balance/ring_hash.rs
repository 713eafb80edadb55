use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::Instant;

use super::{Balancer, LeastLoaded, Pick, RingHashParams, anybody, may_take_key};
use crate::{Endpoint, Fleet, Rng, mix};

/// Points on a ring at most; with more endpoints or greater weights each gets fewer.
const POINTS_MAX: f64 = (1u32 << 18) as f64;
/// Points that a pick walks past before it looks through all candidates, which takes a bound near 1 to happen.
const WALK_MAX: usize = 64;
/// Up to this many candidates the fleet's load is counted at each pick, above it every [`COUNT_AGE_MAX`].
const COUNTED_MAX: usize = 64;
const COUNT_AGE_MAX: Duration = Duration::from_millis(1);

/// A ring hash of the request's key, with bounded load: the endpoint whose point follows the key's on the ring, or the
/// next one on the ring that is not above `load_bound` times the fleet's mean of active requests, by weight.
///
/// When an endpoint comes or goes only its own keys move. A request without a key goes by [`LeastLoaded`]. In fleets
/// of more than 64 the mean may be a millisecond old. While all are above the bound the least loaded one is taken.
/// During slow start a newcomer's keys move to it little by little, each once.
///
/// Source: Karger et al.; Mirrokni et al., Consistent Hashing with Bounded Loads.
#[derive(Debug)]
pub struct RingHash {
    /// Sorted by place.
    points: Box<[(u64, u32)]>,
    /// For each equal stretch of the ring, its first point: finds a key's successor in a step or two.
    stretches: Box<[u32]>,
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
        let stretches = points.len().next_power_of_two().max(2);
        let first_in = |stretch: usize| {
            let begin = (stretch as u64) << (64 - stretches.ilog2());
            points.partition_point(|(point, _)| *point < begin) as u32
        };
        Self {
            stretches: (0..stretches).map(first_in).collect(),
            points: points.into(),
            load_bound: params.load_bound,
            weight_total,
            active_total: AtomicU64::new(0),
            count_at: AtomicU64::new(0),
            keyless: LeastLoaded::new(fleet),
        }
    }

    /// The position of the first point that is not before `key`; the end when there is none.
    fn successor(&self, key: u64) -> usize {
        let stretch = (key >> (64 - self.stretches.len().ilog2())) as usize;
        let begin = self.stretches[stretch] as usize;
        let end = self.stretches.get(stretch + 1).map_or(self.points.len(), |end| *end as usize);
        begin + self.points[begin..end].partition_point(|(point, _)| *point < key)
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
        // Compared without the new request: the bound is rounded up to a whole one, so that an idle fleet has room.
        f64::from(endpoint.active()) / bound
    }
}

impl Balancer for RingHash {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        let Some(key) = pick.key else { return self.keyless.pick(fleet, pick, rng) };
        let bounded = self.load_bound > 0.0;
        let active_total = if bounded { self.active_total(fleet, pick.now) } else { 0 };
        let (before, from) = self.points.split_at(self.successor(key));
        let walk = from.iter().chain(before).take(WALK_MAX).map(|(_, index)| *index);
        let candidates = fleet.candidates();
        let (before, from) = candidates.split_at((key % candidates.len().max(1) as u64) as usize);
        let everyone = from.iter().chain(before).copied();
        let mut least: Option<(f64, u32)> = None;
        let mut last = None;
        for index in walk.chain(everyone) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::HashKey;
    use alloc::sync::Arc;
    use model::Ratio;
    use proptest::prelude::*;
    use std::format;

    proptest! {
        #[test]
        fn finds_the_same_successor_as_a_search_of_the_whole_ring(
            count in 0u32..20, points in 0u32..50, keys in prop::collection::vec(any::<u64>(), 50),
        ) {
            let endpoint = |n| Arc::new(Endpoint::new(&format!("e{n}"), 1, 1, Instant::ORIGIN));
            let fleet = Fleet::new((0..count).map(endpoint).collect(), Ratio::ZERO);
            let ring = RingHash::new(&RingHashParams { key: HashKey::Path, points, load_bound: 0.0 }, &fleet);
            let own = ring.points.iter().flat_map(|(point, _)| [*point, point.wrapping_add(1)]);
            for key in keys.into_iter().chain(own).chain([0, u64::MAX]) {
                prop_assert_eq!(ring.successor(key), ring.points.partition_point(|(point, _)| *point < key));
            }
        }
    }
}
