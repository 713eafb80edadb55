//! Ejection: takes an endpoint out because of what real requests met there.

mod params;
mod streak;

#[cfg(test)]
mod tests;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::time::Duration;

use model::Instant;

pub use params::EjectionParams;
pub use streak::Streak;

use crate::Rng;
use crate::backoff::{doubled, jittered, nanos};

/// What one endpoint did since the last interval.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Which endpoint: [`Endpoint::key`](crate::Endpoint::key).
    pub key: u64,
    /// Whether it may be used but for an ejection: neither unhealthy, nor lame duck, nor disabled.
    pub usable: bool,
    /// Calls that ended and say something about the endpoint: successes, refusals for overload and failures.
    pub calls: u64,
    /// Those that failed. A refusal for overload is load, not illness, and does not belong here.
    pub failures: u64,
    /// Median latency of the calls that succeeded; their mean will do. `None` without any.
    pub latency: Option<Duration>,
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It failed many times in a row.
    Consecutive,
    /// Its success rate lies far below the others'.
    SuccessRate,
    /// It is many times slower than the median endpoint.
    Latency,
}

impl Reason {
    /// The name used in metrics and on pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Consecutive => "consecutive_failures",
            Self::SuccessRate => "success_rate",
            Self::Latency => "latency",
        }
    }
}

/// What is to be done with an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Take it out.
    Eject {
        /// When it will be returned.
        until: Instant,
        /// Why.
        why: Reason,
    },
    /// Its time is over: let it take traffic again, and [forget its streak](Streak::reset).
    Return,
}

/// What is to be done with which endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which endpoint.
    pub key: u64,
    /// What is to be done.
    pub action: Action,
}

/// How many endpoints there are to do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headcount {
    /// Endpoints of the service.
    pub endpoints: usize,
    /// Those that take traffic now: usable and not ejected.
    pub serving: usize,
}

/// What is remembered of an endpoint that has been ejected lately.
#[derive(Clone, Copy, Debug)]
struct Record {
    /// When it returns; `None` when it has.
    until: Option<Instant>,
    /// The next ejection's time doubles this often.
    level: u32,
    /// How long the last ejection was meant to last.
    nominal: Duration,
    /// When the level falls by one, if it is not ejected before.
    forgive_at: Instant,
}

/// A deviation smaller than this is taken for this much: among endpoints that hardly fail at all, one failure more is
/// no sign of illness.
const DEVIATION_MIN: f64 = 0.05;

/// Takes endpoints out because of what real requests met there, and returns them after a while.
///
/// Three rules: failures in a row ([`Streak`] counts them where requests end, [`Ejector::on_streak`] acts at once);
/// at every interval, a success rate far below the *other* endpoints'; and a latency many times the median. The
/// latter two are relative: when all are slow or all fail alike, nobody is ejected. Bounds, whatever the rules say:
/// at most `share_max` of the endpoints are out by ejection (one may always be), and never the last one that takes
/// traffic. The worst go first. Fails towards keeping endpoints.
///
/// An ejection lasts `time_base`, doubled for each one before it up to `time_max`, and jittered down by up to a fifth
/// so that endpoints ejected together do not return together. For each time that an endpoint takes traffic for as
/// long as its last ejection was meant to last, one doubling is forgiven.
///
/// A cold-path value, one per service, owned by whoever watches its endpoints.
///
/// Source: Envoy, "Outlier detection", which compares with all hosts, so that of three none can ever stand out.
#[derive(Debug)]
pub struct Ejector {
    params: EjectionParams,
    next_interval: Instant,
    records: BTreeMap<u64, Record>,
}

impl Ejector {
    /// An ejector that has ejected nobody.
    #[must_use]
    pub fn new(params: &EjectionParams, now: Instant) -> Self {
        let next_interval = if params.enabled { now.after(params.interval.get()) } else { Instant::NEVER };
        Self { params: params.clone(), next_interval, records: BTreeMap::new() }
    }

    /// When to call [`Ejector::on_timeout`]; when [`Ejector::interval_due`] then, [`Ejector::on_interval`] as well.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let returns = self.records.values().filter_map(|record| record.until);
        returns.fold(self.next_interval, Instant::min)
    }

    /// Whether observations are to be compared at `now`.
    #[must_use]
    pub fn interval_due(&self, now: Instant) -> bool {
        self.next_interval <= now
    }

    /// Whether the endpoint is out.
    #[must_use]
    pub fn is_ejected(&self, key: u64) -> bool {
        self.records.get(&key).is_some_and(|record| record.until.is_some())
    }

    /// Endpoints that are out.
    #[must_use]
    pub fn ejected(&self) -> usize {
        self.records.values().filter(|record| record.until.is_some()).count()
    }

    /// Returns the endpoints whose time is over.
    pub fn on_timeout(&mut self, now: Instant) -> Vec<Decision> {
        let mut decisions = Vec::new();
        for (key, record) in &mut self.records {
            if record.until.is_some_and(|until| until <= now) {
                record.until = None;
                record.forgive_at = now.after(record.nominal);
                decisions.push(Decision { key: *key, action: Action::Return });
            }
        }
        decisions
    }

    /// Compares what the endpoints of the service did since the last interval. All of them are listed, ejected ones
    /// included: whoever is missing has left, and is forgotten.
    pub fn on_interval(
        &mut self,
        now: Instant,
        observations: &[Observation],
        rng: &mut Rng,
    ) -> Vec<Decision> {
        if !self.params.enabled {
            return Vec::new();
        }
        self.next_interval = now.after(self.params.interval.get());
        self.records.retain(|key, _| observations.iter().any(|seen| seen.key == *key));
        let mut decisions = self.on_timeout(now);
        self.forgive(now);

        let serving = |seen: &&Observation| seen.usable && !self.is_ejected(seen.key);
        let mut headcount =
            Headcount { endpoints: observations.len(), serving: observations.iter().filter(serving).count() };
        let enough = |seen: &&Observation| seen.calls >= u64::from(self.params.calls_min);
        let mut compared: Vec<_> = observations.iter().filter(serving).filter(enough).copied().collect();
        // One at a time: the worst would otherwise hide those that are nearly as bad.
        while compared.len() >= self.params.endpoints_min as usize {
            let Some((worst, why)) = self.worst(&compared) else { break };
            let key = compared.swap_remove(worst).key;
            let Some(decision) = self.eject(now, key, why, headcount, rng) else { break };
            headcount.serving -= 1;
            decisions.push(decision);
        }
        decisions
    }

    /// An endpoint's [`Streak`] tripped.
    #[must_use]
    pub fn on_streak(
        &mut self,
        now: Instant,
        key: u64,
        headcount: Headcount,
        rng: &mut Rng,
    ) -> Option<Decision> {
        let rule_on = self.params.enabled && self.params.consecutive_failures > 0;
        if !rule_on || self.is_ejected(key) {
            return None;
        }
        self.eject(now, key, Reason::Consecutive, headcount, rng)
    }

    /// Ejects within the bounds.
    fn eject(
        &mut self,
        now: Instant,
        key: u64,
        why: Reason,
        headcount: Headcount,
        rng: &mut Rng,
    ) -> Option<Decision> {
        let out_max = ((self.params.share_max.get() * headcount.endpoints as f64) as usize).max(1);
        if self.ejected() >= out_max || headcount.serving <= 1 {
            return None;
        }
        let level = self.records.get(&key).map_or(0, |record| record.level);
        let nominal = doubled(self.params.time_base.get(), level, self.params.time_max.get());
        let until = now.after(jittered(nominal, 0.8, rng));
        let record = Record {
            until: Some(until),
            level: level.saturating_add(1),
            nominal,
            forgive_at: Instant::NEVER,
        };
        self.records.insert(key, record);
        Some(Decision { key, action: Action::Eject { until, why } })
    }

    /// Takes back doublings of whoever has behaved, and forgets whoever has none left.
    fn forgive(&mut self, now: Instant) {
        self.records.retain(|_, record| {
            while record.level > 0 && record.forgive_at <= now && record.until.is_none() {
                record.level -= 1;
                record.forgive_at = record.forgive_at.after(record.nominal.max(self.params.interval.get()));
            }
            record.level > 0 || record.until.is_some()
        });
    }

    /// The position of whoever stands out most: by failing, otherwise by being slow.
    fn worst(&self, compared: &[Observation]) -> Option<(usize, Reason)> {
        let positions = || compared.iter().enumerate();
        let failing = positions()
            .filter(|(_, seen)| self.fails_more(seen, compared))
            .min_by(|(_, a), (_, b)| success_rate(a).total_cmp(&success_rate(b)))
            .map(|(position, _)| (position, Reason::SuccessRate));
        failing.or_else(|| {
            let too_slow = self.too_slow(compared)?;
            let (position, slowest) = positions().max_by_key(|(_, seen)| seen.latency)?;
            (slowest.latency? >= too_slow).then_some((position, Reason::Latency))
        })
    }

    /// Whether its success rate lies the configured number of deviations below the mean of the others.
    fn fails_more(&self, seen: &Observation, compared: &[Observation]) -> bool {
        let deviations = self.params.success_rate_deviations;
        let others = || compared.iter().filter(|other| other.key != seen.key).map(success_rate);
        let count = others().count();
        if deviations <= 0.0 || count == 0 {
            return false;
        }
        let mean = others().sum::<f64>() / count as f64;
        let variance = others().map(|rate| (rate - mean) * (rate - mean)).sum::<f64>() / count as f64;
        let gap = mean - success_rate(seen);
        gap > 0.0 && gap * gap >= deviations * deviations * variance.max(DEVIATION_MIN * DEVIATION_MIN)
    }

    /// The latency from which on an endpoint is too slow: the configured number of times the median (of two, the
    /// slower one).
    fn too_slow(&self, compared: &[Observation]) -> Option<Duration> {
        let mut latencies: Vec<_> = compared.iter().filter_map(|seen| seen.latency).collect();
        latencies.sort_unstable();
        let median = latencies.get(latencies.len() / 2)?;
        let nanos = nanos(*median) as f64 * self.params.latency_factor;
        let too_slow = Duration::from_nanos(nanos as u64).max(self.params.latency_min.get());
        let too_slow = too_slow.max(*median + Duration::from_nanos(1));
        (self.params.latency_factor > 1.0).then_some(too_slow)
    }
}

fn success_rate(seen: &Observation) -> f64 {
    1.0 - seen.failures as f64 / seen.calls.max(1) as f64
}
