//! The endpoints of one service at one moment, and which of them may be picked.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use model::{Instant, Ratio};

use crate::slow_start::{Slope, SlowStartParams};
use crate::{Endpoint, Rng, Unavailable, mix};

/// An immutable picture of a service's endpoints. Rebuilt when the set, a weight or an endpoint's availability
/// changes; the endpoints themselves, with all that was learnt about them, are shared between pictures.
///
/// Balancers pick among [`Fleet::candidates`]: the available endpoints of non-zero weight, or more of them while the
/// fleet [panics](Fleet::panicking). An endpoint that became unavailable a moment ago may still be among them, so a
/// balancer also asks [`Fleet::may_use`].
#[derive(Debug)]
pub struct Fleet {
    endpoints: Box<[Arc<Endpoint>]>,
    candidates: Box<[u32]>,
    panicking: bool,
    ramp: Option<Ramp>,
}

#[derive(Debug)]
struct Ramp {
    slope: Slope,
    /// When the oldest candidate joined: its share is the largest.
    oldest: Instant,
    /// When the youngest candidate's window ends.
    over: Instant,
    /// The largest share of look-ups that the cache of a candidate answers that is ramped up; none when none says so.
    warmest: Option<f64>,
}

impl Ramp {
    /// A candidate's and the oldest candidate's share of their weights; both 1 once all windows are over.
    fn shares(&self, endpoint: &Endpoint, now: Instant) -> (f64, f64) {
        if now >= self.over {
            return (1.0, 1.0);
        }
        let age = |joined: Instant| now.as_nanos().saturating_sub(joined.as_nanos());
        let own = age(endpoint.joined());
        let own = match (self.warmest, endpoint.cache_hit_ratio()) {
            (Some(warmest), Some(ratio)) => self.slope.share_by_warmth(own, ratio / warmest),
            _ => self.slope.share(own),
        };
        (own, self.slope.share(age(self.oldest)))
    }

    /// Whether a draw of this candidate stands that drew the number `drawn` in [0, 1).
    fn admits(&self, endpoint: &Endpoint, now: Instant, drawn: impl FnOnce() -> f64) -> bool {
        let (own, oldest) = self.shares(endpoint, now);
        own >= oldest || drawn() * oldest < own
    }
}

impl Fleet {
    /// A picture of `endpoints`, without slow start.
    ///
    /// When less than `panic_below` of them is available, health checks and ejection are thought to misjudge: what
    /// they say is ignored (fails open). Endpoints that an operator disabled stay out even then, and those that asked
    /// for no new requests stay out while there are others; neither counts towards the share. With [`Ratio::ZERO`]
    /// it never panics: when nobody is available, nobody is picked (fails closed).
    #[must_use]
    pub fn new(endpoints: Vec<Arc<Endpoint>>, panic_below: Ratio) -> Self {
        let those = |wanted: &dyn Fn(&Endpoint) -> bool| -> Box<[u32]> {
            let indexed = (0u32..).zip(&endpoints);
            indexed
                .filter(|(_, endpoint)| endpoint.weight() > 0 && wanted(endpoint))
                .map(|(at, _)| at)
                .collect()
        };
        let disabled = |endpoint: &Endpoint| endpoint.is_unavailable(Unavailable::Disabled);
        let available = those(&Endpoint::available);
        let mut judged =
            those(&|endpoint| !disabled(endpoint) && !endpoint.is_unavailable(Unavailable::LameDuck));
        if judged.is_empty() {
            judged = those(&|endpoint| !disabled(endpoint));
        }
        let panicking = (available.len() as f64) < panic_below.get() * judged.len() as f64;
        let candidates = if panicking { judged } else { available };
        Self { endpoints: endpoints.into(), candidates, panicking, ramp: None }
    }

    /// Ramps candidates up that joined less than the window before `now`: by age, or by how warm their caches are where
    /// they and somebody who is ramped up report that.
    ///
    /// A newcomer always gets at least [`SlowStartParams::weight_min`] of its share. Nobody gets more than twice the
    /// share that it will have when all are ramped up: while newcomers are so many that their floor would push more
    /// onto the rest, the floor is raised.
    #[must_use]
    pub fn with_slow_start(mut self, params: &SlowStartParams, now: Instant) -> Self {
        let window = params.window.get();
        let joined = || self.candidates().iter().map(|index| self.endpoint(*index).joined());
        let (Some(oldest), Some(newest)) = (joined().min(), joined().max()) else { return self };
        let over = newest.after(window);
        if over <= now || oldest == newest {
            return self;
        }
        let (mut settled, mut new, mut warmest) = (0.0, 0.0, 0.0f64);
        for endpoint in self.candidates.iter().map(|index| self.endpoint(*index)) {
            let weight = f64::from(endpoint.weight());
            if endpoint.joined().after(window) <= now {
                settled += weight;
                warmest = warmest.max(endpoint.cache_hit_ratio().unwrap_or(0.0));
            } else {
                new += weight;
            }
        }
        // settled + floor × new ≥ (settled + new) / 2
        let floor = params.weight_min.get().max(0.5 - settled / (2.0 * new));
        let weight_min = Ratio::new(floor).unwrap_or(Ratio::ONE);
        let slope = Slope::new(&SlowStartParams { window: params.window, weight_min });
        let warmest = Some(warmest).filter(|ratio| *ratio > 0.0);
        self.ramp = Some(Ramp { slope, oldest, over, warmest });
        self
    }

    /// Every endpoint, in the order of the configuration or the discovery answer.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoint at `index`.
    ///
    /// # Panics
    /// When there is no such index.
    #[must_use]
    pub fn endpoint(&self, index: u32) -> &Endpoint {
        &self.endpoints[index as usize]
    }

    /// Indices into [`Fleet::endpoints`] of those that may be picked.
    #[must_use]
    pub fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// Whether so few are available that health checks and ejection are ignored.
    #[must_use]
    pub fn panicking(&self) -> bool {
        self.panicking
    }

    /// Whether a candidate may be used at this moment: it is available, or the fleet panics and no operator took
    /// it out.
    #[must_use]
    pub fn may_use(&self, endpoint: &Endpoint) -> bool {
        endpoint.available() || (self.panicking && !endpoint.is_unavailable(Unavailable::Disabled))
    }

    /// A candidate's share of its weight by slow start, relative to the oldest candidate's. 1 without a ramp.
    #[must_use]
    pub fn ramp_share(&self, endpoint: &Endpoint, now: Instant) -> f64 {
        self.ramp.as_ref().map_or(1.0, |ramp| {
            let (own, oldest) = ramp.shares(endpoint, now);
            own / oldest
        })
    }

    /// Whether slow start lets a draw of this candidate stand; otherwise draw again. By chance, so that it gets its
    /// share of draws.
    pub(crate) fn admits(&self, endpoint: &Endpoint, now: Instant, rng: &mut Rng) -> bool {
        self.ramp.as_ref().is_none_or(|ramp| ramp.admits(endpoint, now, || rng.f64()))
    }

    /// Whether slow start lets this candidate have `key`. By the key, so that during the ramp a key moves to a
    /// newcomer once and stays.
    pub(crate) fn admits_key(&self, endpoint: &Endpoint, now: Instant, key: u64) -> bool {
        let drawn = || unit(mix(key ^ endpoint.key().rotate_left(32)));
        self.ramp.as_ref().is_none_or(|ramp| ramp.admits(endpoint, now, drawn))
    }
}

/// The number in [0, 1) that the upper 53 bits of a hash name.
pub(crate) fn unit(hash: u64) -> f64 {
    (hash >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Span;
    use proptest::prelude::*;
    use std::format;
    use std::vec::Vec;

    fn endpoints(count: u32) -> Vec<Arc<Endpoint>> {
        (0..count).map(|n| Arc::new(Endpoint::new(&format!("e{n}"), 1, 10, Instant::ORIGIN))).collect()
    }

    #[test]
    fn panic_ignores_judgements_but_not_decisions() {
        let all = endpoints(6);
        all[0].set_unavailable(Unavailable::Unhealthy, true);
        all[1].set_unavailable(Unavailable::Ejected, true);
        all[2].set_unavailable(Unavailable::LameDuck, true);
        all[3].set_unavailable(Unavailable::Disabled, true);
        let calm = Fleet::new(all.clone(), Ratio::percent(50));
        assert_eq!((calm.panicking(), calm.candidates()), (false, &[4, 5][..]));
        all[4].set_unavailable(Unavailable::Unhealthy, true);
        let panicking = Fleet::new(all.clone(), Ratio::percent(50));
        assert_eq!((panicking.panicking(), panicking.candidates()), (true, &[0, 1, 4, 5][..]));
        assert!(panicking.may_use(&all[0]) && !panicking.may_use(&all[3]));
    }

    #[test]
    fn lame_ducks_are_better_than_nobody_only_where_panic_is_allowed() {
        let all = endpoints(2);
        for endpoint in &all {
            endpoint.set_unavailable(Unavailable::LameDuck, true);
        }
        assert_eq!(Fleet::new(all.clone(), Ratio::percent(50)).candidates(), [0, 1]);
        assert!(Fleet::new(all, Ratio::ZERO).candidates().is_empty());
    }

    #[test]
    fn weight_zero_is_never_a_candidate() {
        let all = endpoints(2);
        all[0].set_weight(0);
        assert_eq!(Fleet::new(all, Ratio::percent(100)).candidates(), [1]);
    }

    #[test]
    fn a_reported_cache_ramps_by_its_warmth_and_no_longer_than_the_window() {
        let after = |secs: u64| Instant::from_secs(1_000 + secs);
        let params = SlowStartParams { window: Span::from_secs(100), weight_min: Ratio::percent(10) };
        let all = endpoints(2);
        let says = |endpoint: &Endpoint, secs, ratio: f64| {
            let report = crate::Report { cache_hit_ratio: Some(ratio), ..crate::Report::default() };
            endpoint.on_report(after(secs), &report);
        };
        says(&all[0], 0, 0.8);
        says(&all[1], 0, 0.8);
        all[1].on_join(after(1));
        let fleet = Fleet::new(all.clone(), Ratio::ZERO).with_slow_start(&params, after(1));
        let share = |secs| fleet.ramp_share(&all[1], after(secs));
        assert!(
            (share(51) - 0.55).abs() < 1e-9,
            "what it said before it restarted counts no more: {}",
            share(51)
        );
        for (secs, ratio, expected) in [(51, 0.0, 0.1), (51, 0.4, 0.5), (52, 0.8, 1.0), (53, 1.0, 1.0)] {
            says(&all[1], secs, ratio);
            assert!((share(secs) - expected).abs() < 1e-9, "{ratio}: {}", share(secs));
        }
        says(&all[1], 54, 0.0);
        assert_eq!(share(101), 1.0);
    }

    #[test]
    fn when_all_caches_are_cold_nobody_is_kept_out() {
        let after = |secs: u64| Instant::from_secs(1_000 + secs);
        let params = SlowStartParams { window: Span::from_secs(100), weight_min: Ratio::percent(10) };
        let all = endpoints(2);
        for (secs, endpoint) in (0..).zip(&all) {
            endpoint.on_join(after(secs));
            let cold = crate::Report { cache_hit_ratio: Some(0.01), ..crate::Report::default() };
            endpoint.on_report(after(2), &cold);
        }
        let fleet = Fleet::new(all.clone(), Ratio::ZERO).with_slow_start(&params, after(3));
        assert!(all.iter().all(|endpoint| fleet.ramp_share(endpoint, after(3)) > 0.9));
    }

    proptest! {
        /// The promise of slow start, by the shares themselves: newcomers get their floor, nobody twice its due.
        #[test]
        fn slow_start_floors_newcomers_and_caps_everyone(
            ages in prop::collection::vec(
                (prop_oneof![4 => 0u64..1_000, 1 => 0u64..40_000], 1u32..10, prop::option::of(0.0..1.0f64)), 1..20),
            floor in 0u8..=100,
            later in prop_oneof![0u64..1_000, 0u64..20_000],
        ) {
            let start = Instant::from_secs(100);
            let all: Vec<_> = ages.iter().map(|(age, weight, cache_hit_ratio)| {
                let joined = start.before(core::time::Duration::from_millis(*age));
                let endpoint = Endpoint::new(&format!("{age}"), *weight, 10, joined);
                endpoint.on_report(
                    start, &crate::Report { cache_hit_ratio: *cache_hit_ratio, ..crate::Report::default() });
                Arc::new(endpoint)
            }).collect();
            let params = SlowStartParams { window: Span::from_secs(10), weight_min: Ratio::percent(floor) };
            let fleet = Fleet::new(all, Ratio::ZERO).with_slow_start(&params, start);
            let now = start.after(core::time::Duration::from_millis(later));
            let effective = |endpoint: &Endpoint| f64::from(endpoint.weight()) * fleet.ramp_share(endpoint, now);
            let total: f64 = fleet.endpoints().iter().map(|endpoint| effective(endpoint)).sum();
            let weights: f64 = fleet.endpoints().iter().map(|endpoint| f64::from(endpoint.weight())).sum();
            for endpoint in fleet.endpoints() {
                let due = f64::from(endpoint.weight()) / weights;
                let gets = effective(endpoint) / total;
                prop_assert!(gets <= 2.0 * due + 1e-9, "{gets} of {due}");
                prop_assert!(gets >= params.weight_min.get() * due - 1e-9, "{gets} of {due}");
            }
        }
    }
}
