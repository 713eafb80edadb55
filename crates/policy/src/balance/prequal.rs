use alloc::boxed::Box;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use model::Instant;

use super::sampler::Sampler;
use super::{Balancer, Pick, PrequalParams, anybody, may_take};
use crate::{Endpoint, Fleet, Rng};

/// Most probe results that a pool holds, so that a pick looks at them on its stack.
const POOL_MAX: usize = 64;

/// No request sets off more probes than this, whatever the configuration says.
const PROBES_MAX: f64 = 16.0;

/// Prequal: among probed endpoints the hot ones, with more requests in flight than most, are left out; of the cold
/// ones the one with the lowest latency is taken.
///
/// The pool holds the endpoints that reported last ([`Balancer::on_probe`]), one entry each. An entry leaves when its
/// report is too old, when it was used as often as probes can replace it and, where probes come faster than they are
/// used up, one more per pick: by chance the oldest or the worst. Each use counts as one more request in flight until
/// the next report. Requests in flight and latency are multiplied by [recent errors](Endpoint::penalty), and requests
/// in flight divided by relative weight.
///
/// The pool decides while it holds at least half of what it could (its size, or the whole fleet if that is smaller),
/// and two. Otherwise, as when no endpoint reports, the same rule is applied to what this process sees itself, active
/// requests and recent latency: of all candidates where they fit in the pool's size, else of that many drawn at
/// random. So endpoints that fell out of sight are tried again.
///
/// Source: Wydrowski et al., Load is not what you should balance: Introducing Prequal, NSDI 2024.
#[derive(Debug)]
pub struct Prequal {
    params: PrequalParams,
    sampler: Sampler,
    /// The index + 1 in the upper half, 0 when empty; the times used in the lower.
    pool: Box<[AtomicU64]>,
    /// Where the next newcomer goes when the pool is full.
    cursor: AtomicU32,
    /// Entries in use at which the pool decides.
    enough: usize,
    /// Uses after which an entry leaves; `None`: only age removes it.
    uses_max: Option<u32>,
}

/// An endpoint in the pool or of the sample.
#[derive(Clone, Copy, Debug)]
struct Seen {
    index: u32,
    slot: u32,
    load: f32,
    latency: f32,
    at: Instant,
}

impl Prequal {
    /// For the candidates of `fleet`; begins with those of them that reported lately.
    #[must_use]
    pub fn new(params: &PrequalParams, fleet: &Fleet, now: Instant) -> Self {
        let size = (params.pool_size as usize).clamp(2, POOL_MAX);
        let candidates = fleet.candidates().len();
        let balancer = Self {
            sampler: Sampler::new(fleet),
            pool: (0..size).map(|_| AtomicU64::new(0)).collect(),
            cursor: AtomicU32::new(0),
            enough: (candidates.min(size) / 2).max(2),
            uses_max: uses_max(params, size, candidates),
            params: params.clone(),
        };
        for &index in fleet.candidates() {
            if balancer.believed(fleet.endpoint(index), now).is_some() {
                balancer.on_probe(index);
            }
        }
        balancer
    }

    /// When the endpoint reported, its requests in flight and its latency in nanoseconds, if that is recent.
    fn believed(&self, endpoint: &Endpoint, now: Instant) -> Option<(Instant, f32, f32)> {
        let (at, report) = endpoint.report()?;
        let fresh = now.since(at) <= self.params.probe_age_max.get();
        let figures = (at, report.requests_in_flight? as f32, report.latency?.as_nanos() as f32);
        fresh.then_some(figures)
    }

    fn pick_from_pool(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        let mut seen = Sample::new();
        let first = rng.usize(..self.pool.len());
        for slot in (first..self.pool.len()).chain(0..first) {
            let entry = self.pool[slot].load(Relaxed);
            let Some(index) = ((entry >> 32) as u32).checked_sub(1) else { continue };
            let Some(endpoint) = fleet.endpoints().get(index as usize) else { continue };
            let Some((at, in_flight, latency)) = self.believed(endpoint, pick.now) else {
                self.remove(slot as u32, entry);
                continue;
            };
            if may_take(fleet, pick, index) && fleet.admits(endpoint, pick.now, rng) {
                let in_flight = in_flight + entry as u32 as f32;
                seen.push(self.seen(index, slot as u32, endpoint, (in_flight, latency), (at, pick.now)));
            }
        }
        if seen.all().len() < self.enough {
            return None;
        }
        let chosen = seen.coolest(self.params.hot_quantile.get())?;
        let entry = self.slot(chosen.slot).fetch_add(1, Relaxed) + 1;
        if let Some(uses_max) = self.uses_max {
            if entry as u32 >= uses_max {
                self.remove(chosen.slot, entry);
            }
            let leaves = if rng.bool() { seen.oldest() } else { seen.worst() };
            if let Some(leaves) = leaves.filter(|leaves| leaves.slot != chosen.slot) {
                self.remove(leaves.slot, self.slot(leaves.slot).load(Relaxed));
            }
        }
        Some(chosen.index)
    }

    fn pick_by_own_view(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        let mut seen = Sample::new();
        let mut look = |index: u32| {
            let endpoint = fleet.endpoint(index);
            let view = (endpoint.active() as f32, endpoint.latency_cost(pick.now));
            seen.push(self.seen(index, 0, endpoint, view, (pick.now, pick.now)));
        };
        let candidates = fleet.candidates();
        if candidates.len() <= self.pool.len() {
            let (before, from) =
                candidates.split_at(rng.usize(..candidates.len().max(1)).min(candidates.len()));
            for &index in from.iter().chain(before) {
                if may_take(fleet, pick, index) && fleet.admits(fleet.endpoint(index), pick.now, rng) {
                    look(index);
                }
            }
        } else {
            for _ in 0..self.pool.len() {
                if let Some(index) = self.sampler.draw(fleet, pick, rng)
                    && may_take(fleet, pick, index)
                {
                    look(index);
                }
            }
        }
        Some(seen.coolest(self.params.hot_quantile.get())?.index)
    }

    fn seen(
        &self,
        index: u32,
        slot: u32,
        endpoint: &Endpoint,
        (in_flight, latency): (f32, f32),
        (at, now): (Instant, Instant),
    ) -> Seen {
        let penalty = endpoint.penalty(now);
        // Failing fast makes a reported latency short, so that what was seen before the errors counts as well.
        let latency = if penalty > 1.0 { latency.max(endpoint.latency_cost(now)) } else { latency };
        // Without errors an idle endpoint is cold; with them it seems to carry the penalty itself.
        let load = in_flight / self.sampler.relative_weight(endpoint) * penalty + (penalty - 1.0);
        Seen { index, slot, load, latency: latency * penalty, at }
    }

    fn slot(&self, slot: u32) -> &AtomicU64 {
        &self.pool[slot as usize]
    }

    /// Empties the slot, unless somebody put another entry there in the meantime.
    fn remove(&self, slot: u32, entry: u64) {
        // Losing the race means that the slot holds newer news.
        let _ = self.slot(slot).compare_exchange(entry, 0, Relaxed, Relaxed);
    }
}

impl Balancer for Prequal {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        self.pick_from_pool(fleet, pick, rng)
            .or_else(|| self.pick_by_own_view(fleet, pick, rng))
            .or_else(|| anybody(fleet, pick, rng))
    }

    fn probes(&self, rng: &mut Rng) -> u32 {
        if self.params.probe_path.is_none() {
            return 0;
        }
        let wanted = self.params.probes_per_request.clamp(0.0, PROBES_MAX);
        wanted as u32 + u32::from(rng.f64() < wanted % 1.0)
    }

    fn on_probe(&self, index: u32) {
        let holder = (u64::from(index) + 1) << 32;
        let mut free = None;
        for (slot, cell) in self.pool.iter().enumerate() {
            let entry = cell.load(Relaxed);
            if entry >> 32 == holder >> 32 {
                return cell.store(holder, Relaxed);
            }
            if entry >> 32 == 0 {
                free = Some(slot);
            }
        }
        let slot = free.unwrap_or_else(|| self.cursor.fetch_add(1, Relaxed) as usize % self.pool.len());
        self.pool[slot].store(holder, Relaxed);
    }
}

/// The paper's bound on reuse, with δ = 1 and one removal per pick: `2 / ((1 − pool / fleet) × probes − 1)`, at least
/// one. `None` where probes do not suffice for removals: the pool holds the whole fleet or nearly so, or lives on
/// what ordinary answers report.
fn uses_max(params: &PrequalParams, pool: usize, fleet: usize) -> Option<u32> {
    params.probe_path.as_ref()?;
    let surplus = (1.0 - pool as f64 / fleet.max(1) as f64) * params.probes_per_request - 1.0;
    (surplus > 0.0).then(|| ((2.0 / surplus) as u32).max(1))
}

/// What one pick looks at.
struct Sample {
    seen: [Seen; POOL_MAX],
    len: usize,
}

impl Sample {
    fn new() -> Self {
        let nobody = Seen { index: 0, slot: 0, load: 0.0, latency: 0.0, at: Instant::ORIGIN };
        Self { seen: [nobody; POOL_MAX], len: 0 }
    }

    fn push(&mut self, seen: Seen) {
        if let Some(place) = self.seen.get_mut(self.len) {
            *place = seen;
            self.len += 1;
        }
    }

    fn all(&self) -> &[Seen] {
        &self.seen[..self.len]
    }

    /// The hot-cold lexicographic rule: of those whose load is at most the given quantile, the fastest; among equally
    /// fast ones the least loaded.
    fn coolest(&self, hot_quantile: f64) -> Option<Seen> {
        let mut loads = [0.0; POOL_MAX];
        let loads = &mut loads[..self.len];
        loads.iter_mut().zip(self.all()).for_each(|(load, seen)| *load = seen.load);
        loads.sort_unstable_by(f32::total_cmp);
        let limit = *loads.get((hot_quantile * self.len.saturating_sub(1) as f64) as usize)?;
        let cold = self.all().iter().filter(|seen| seen.load <= limit);
        cold.min_by(|one, other| one.latency.total_cmp(&other.latency).then(one.load.total_cmp(&other.load)))
            .copied()
    }

    fn oldest(&self) -> Option<Seen> {
        self.all().iter().min_by_key(|seen| seen.at).copied()
    }

    fn worst(&self) -> Option<Seen> {
        let load_then_latency = |one: &&Seen, other: &&Seen| {
            one.load.total_cmp(&other.load).then(one.latency.total_cmp(&other.latency))
        };
        self.all().iter().max_by(load_then_latency).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Report;
    use alloc::string::String;
    use alloc::sync::Arc;
    use core::time::Duration;
    use model::Ratio;
    use std::collections::BTreeSet;
    use std::format;

    const NOW: Instant = Instant::from_secs(1_000);

    fn fleet(count: u32) -> Fleet {
        let endpoint = |n| Arc::new(Endpoint::new(&format!("e{n}"), 1, 100, Instant::ORIGIN));
        Fleet::new((0..count).map(endpoint).collect(), Ratio::ZERO)
    }

    fn probing(probes_per_request: f64) -> PrequalParams {
        PrequalParams {
            probe_path: Some(String::from("/load")),
            probes_per_request,
            ..PrequalParams::default()
        }
    }

    fn probe(balancer: &Prequal, fleet: &Fleet, index: u32, (in_flight, millis): (u32, u64)) {
        let report = Report {
            requests_in_flight: Some(in_flight),
            latency: Some(Duration::from_millis(millis)),
            ..Report::default()
        };
        fleet.endpoint(index).on_report(NOW, &report);
        balancer.on_probe(index);
    }

    fn picks(balancer: &Prequal, fleet: &Fleet, now: Instant, count: usize) -> BTreeSet<u32> {
        let mut rng = Rng::with_seed(1);
        let pick = Pick { now, key: None, tried: &[] };
        (0..count).map(|_| balancer.pick(fleet, &pick, &mut rng).unwrap()).collect()
    }

    #[test]
    fn the_fastest_of_the_cold_is_taken_however_fast_the_hot_are() {
        let fleet = fleet(8);
        let balancer = Prequal::new(&PrequalParams::default(), &fleet, NOW);
        let probed = [(9, 1), (9, 1), (2, 40), (3, 20), (1, 50), (2, 60), (1, 70), (0, 90)];
        for (index, load) in (0u32..).zip(probed) {
            probe(&balancer, &fleet, index, load);
        }
        assert_eq!(picks(&balancer, &fleet, NOW, 1), BTreeSet::from([3]));
    }

    #[test]
    fn each_use_counts_as_one_more_in_flight_until_the_next_report() {
        let fleet = fleet(4);
        let balancer = Prequal::new(&PrequalParams::default(), &fleet, NOW);
        for index in 0..4 {
            probe(&balancer, &fleet, index, (5, if index == 2 { 1 } else { 50 }));
        }
        assert_eq!(picks(&balancer, &fleet, NOW, 1), BTreeSet::from([2]));
        assert_ne!(picks(&balancer, &fleet, NOW, 1), BTreeSet::from([2]));
        probe(&balancer, &fleet, 2, (5, 1));
        assert_eq!(picks(&balancer, &fleet, NOW, 1), BTreeSet::from([2]));
    }

    #[test]
    fn old_reports_and_thin_pools_leave_the_decision_to_the_own_view() {
        let fleet = fleet(8);
        let balancer = Prequal::new(&PrequalParams::default(), &fleet, NOW);
        (0..8).for_each(|index| fleet.endpoint(index).on_start(NOW));
        fleet.endpoint(6).on_end(
            NOW,
            crate::Ended { latency: Duration::from_millis(1), verdict: model::Verdict::Success },
        );
        (0..3).for_each(|index| probe(&balancer, &fleet, index, (0, 1)));
        assert_eq!(picks(&balancer, &fleet, NOW, 20), BTreeSet::from([6]), "three of eight are too few");
        (3..8).for_each(|index| probe(&balancer, &fleet, index, (0, 1)));
        assert_ne!(picks(&balancer, &fleet, NOW, 20), BTreeSet::from([6]));
        let later = NOW.after(Duration::from_secs(2));
        assert_eq!(picks(&balancer, &fleet, later, 20), BTreeSet::from([6]));
    }

    #[test]
    fn probes_that_come_faster_than_they_are_used_are_removed_after_use() {
        let fleet = fleet(100);
        let balancer = Prequal::new(&probing(3.0), &fleet, NOW);
        (0..16).for_each(|index| probe(&balancer, &fleet, index, (0, u64::from(index) + 1)));
        let filled = |balancer: &Prequal| balancer.pool.iter().filter(|slot| slot.load(Relaxed) != 0).count();
        assert_eq!(filled(&balancer), 16);
        assert_eq!(picks(&balancer, &fleet, NOW, 1), BTreeSet::from([0]));
        assert_eq!(filled(&balancer), 14, "the one used, and the oldest or worst");
        // A fleet that fits in the pool needs every entry.
        let small = self::fleet(10);
        let balancer = Prequal::new(&probing(3.0), &small, NOW);
        (0..10).for_each(|index| probe(&balancer, &small, index, (0, 1)));
        picks(&balancer, &small, NOW, 50);
        assert_eq!(filled(&balancer), 10);
    }

    #[test]
    fn a_late_answer_of_an_endpoint_that_is_gone_is_ignored() {
        let fleet = fleet(4);
        let balancer = Prequal::new(&PrequalParams::default(), &fleet, NOW);
        balancer.on_probe(4);
        balancer.on_probe(u32::MAX);
        assert!(picks(&balancer, &fleet, NOW, 20).iter().all(|index| *index < 4));
    }

    #[test]
    fn a_new_balancer_begins_with_what_was_reported_lately() {
        let fleet = fleet(4);
        let old = Prequal::new(&PrequalParams::default(), &fleet, NOW);
        (0..4).for_each(|index| probe(&old, &fleet, index, (1, if index == 1 { 1 } else { 50 })));
        let new = Prequal::new(&PrequalParams::default(), &fleet, NOW);
        assert_eq!(picks(&new, &fleet, NOW, 1), BTreeSet::from([1]));
    }

    #[test]
    fn probes_are_asked_for_at_the_configured_rate_where_there_is_a_path() {
        let fleet = fleet(4);
        let asked = |params: &PrequalParams| {
            let balancer = Prequal::new(params, &fleet, NOW);
            let mut rng = Rng::with_seed(1);
            (0..1_000).map(|_| balancer.probes(&mut rng)).sum::<u32>()
        };
        assert_eq!(asked(&PrequalParams::default()), 0);
        assert_eq!(asked(&probing(3.0)), 3_000);
        assert!((400..600).contains(&asked(&probing(0.5))));
        assert_eq!((asked(&probing(f64::NAN)), asked(&probing(-1.0)), asked(&probing(1e9))), (0, 0, 16_000));
    }
}
