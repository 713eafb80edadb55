//! A service's modes of graceful degradation while it runs: what workers read, and what the control task decides by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{Criticality, Instant, Ratio, Timestamp};
use policy::Rng;
use policy::admission::Shed;
use policy::degrade::{self, Force, Governor, MODES_MAX, ModeParams, Signals, Switch};

use super::status::ModeStatus;
use super::{Entrance, Target};
use crate::config::problem::Place;
use crate::config::{self, Measure, Mode};
use crate::metrics::Count;
use crate::router::{CompiledAnswer, fixed_answer};

/// How often the figures are looked at.
const INTERVAL: Duration = Duration::from_millis(250);
/// What is kept at each look of the requests counted before: about two seconds' worth.
const KEPT: f64 = 0.875;
/// An endpoint's report older than this says nothing about now.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);

/// What is left out, put together from every mode that holds for a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measures {
    pub(crate) answer: Option<Arc<CompiledAnswer>>,
    pub(crate) service: Option<Arc<str>>,
    /// The highest class that is refused.
    pub(crate) drop_class: Option<Criticality>,
    pub(crate) no_hedging: bool,
    pub(crate) no_retries: bool,
    pub(crate) body_max: Option<u64>,
    pub(crate) log_sample: Option<Ratio>,
}

impl Measures {
    fn new(measures: &[Measure]) -> Self {
        let mut sum = Self::default();
        for measure in measures {
            match measure {
                Measure::Answer(answer) => {
                    // Whatever is wrong with it was reported before.
                    sum.answer = fixed_answer(answer, &mut Place::root(&mut Vec::new())).map(Arc::new);
                }
                Measure::Service(name) => sum.service = Some(name.as_str().into()),
                Measure::DropClass(class) => sum.drop_class = Some(*class),
                Measure::NoHedging => sum.no_hedging = true,
                Measure::NoRetries => sum.no_retries = true,
                Measure::BodyMax(max) => sum.body_max = Some(max.get()),
                Measure::LogSample(share) => sum.log_sample = Some(*share),
            }
        }
        sum
    }

    /// Whether requests of `class` are refused.
    pub(crate) fn drops(&self, class: Criticality) -> bool {
        self.drop_class.is_some_and(|highest| class.index() >= highest.index())
    }
}

/// The stricter of two.
fn lesser<T: PartialOrd>(one: Option<T>, other: Option<T>) -> Option<T> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other < one { other } else { one }),
        (one, other) => one.or(other),
    }
}

impl degrade::Measures for Measures {
    fn with(&self, other: &Self) -> Self {
        Self {
            answer: other.answer.as_ref().or(self.answer.as_ref()).cloned(),
            service: other.service.as_ref().or(self.service.as_ref()).cloned(),
            // Higher classes come first.
            drop_class: lesser(self.drop_class, other.drop_class),
            no_hedging: self.no_hedging || other.no_hedging,
            no_retries: self.no_retries || other.no_retries,
            body_max: lesser(self.body_max, other.body_max),
            log_sample: lesser(self.log_sample, other.log_sample),
        }
    }
}

/// One worker's counts, away from those of the others.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// Requests that asked for admission.
    asked: Count,
    /// Requests that a mode in force held for, by mode.
    requests: [Count; MODES_MAX],
    /// Requests that only exercised a mode.
    exercised: [Count; MODES_MAX],
}

/// The modes of a service as workers see them. Only services that have some have one.
#[derive(Debug)]
pub struct Degradation {
    modes: degrade::Modes<Measures>,
    names: Box<[Arc<str>]>,
    /// For each set of modes, the line that tells clients of it.
    fields: Box<[Arc<[u8]>]>,
    shards: Box<[Shard]>,
}

impl Degradation {
    fn new(modes: &BTreeMap<String, Mode>, workers: usize) -> Self {
        let modes: Vec<_> = modes.iter().take(MODES_MAX).collect();
        let measures: Vec<_> =
            modes.iter().map(|(_, mode)| (mode.params.clone(), Measures::new(&mode.measures))).collect();
        let line = |set: usize| {
            let named = modes.iter().enumerate().filter(|(index, _)| set & (1 << index) != 0);
            let named: Vec<_> = named.map(|(_, (name, _))| name.as_str()).collect();
            format!("seawall-mode: {}\r\n", named.join(", ")).into_bytes().into()
        };
        Self {
            modes: degrade::Modes::new(&measures),
            names: modes.iter().map(|(name, _)| name.as_str().into()).collect(),
            fields: (0..1 << modes.len()).map(line).collect(),
            shards: (0..workers).map(|_| Shard::default()).collect(),
        }
    }

    /// The modes that hold for a request, if any does. Counted as `worker`'s.
    pub(crate) fn look(self: &Arc<Self>, worker: usize, rng: &mut Rng) -> Option<Degraded> {
        let active = self.modes.active(rng)?;
        let shard = &self.shards[worker];
        for index in (0..self.names.len()).filter(|index| active.modes & (1 << index) != 0) {
            let exercised = active.exercised & (1 << index) != 0;
            (if exercised { &shard.exercised } else { &shard.requests })[index].one();
        }
        Some(Degraded { modes: active.modes, of: Arc::clone(self) })
    }

    /// A request asks `worker` for admission.
    pub(crate) fn on_asked(&self, worker: usize) {
        self.shards[worker].asked.one();
    }

    fn sum(&self, figure: impl Fn(&Shard) -> u64) -> u64 {
        self.shards.iter().map(figure).sum()
    }
}

/// The modes that hold for one request, from its beginning to its end.
pub(crate) struct Degraded {
    modes: u32,
    of: Arc<Degradation>,
}

impl Degraded {
    pub(crate) fn measures(&self) -> &Measures {
        self.of.modes.measures(self.modes)
    }

    /// The field line that names the modes.
    pub(crate) fn field(&self) -> &Arc<[u8]> {
        &self.of.fields[self.modes as usize]
    }
}

/// What the control task knows of a mode.
#[derive(Clone, Debug, Default)]
struct Standing {
    /// Since when it is in force, and what did it.
    entered: Option<(Timestamp, String)>,
    /// Times that it was entered.
    count: u64,
    /// Requests counted under parameters that hold no longer.
    requests: u64,
    exercised: u64,
}

/// Watches a service's figures and decides which of its modes are in force.
pub(super) struct Watch {
    workers: usize,
    governor: Governor,
    shared: Option<Arc<Degradation>>,
    params: BTreeMap<String, Mode>,
    standings: BTreeMap<String, Standing>,
    /// When to look next.
    due: Instant,
    /// Requests that asked for admission and that were refused, at the last look; none before the first.
    seen: Option<[u64; 2]>,
    /// Of the last seconds.
    lately: [f64; 2],
}

/// A mode was entered or left, in one line.
pub(super) struct Told {
    pub(super) entered: bool,
    pub(super) why: String,
}

impl Watch {
    pub(super) fn new(params: &BTreeMap<String, Mode>, workers: usize, now: Instant) -> Self {
        let mut watch = Self {
            workers,
            governor: Governor::new(Vec::new(), now),
            shared: None,
            params: BTreeMap::new(),
            standings: BTreeMap::new(),
            due: Instant::NEVER,
            seen: None,
            lately: [0.0; 2],
        };
        watch.set_params(params, now);
        watch
    }

    /// What workers are to look at.
    pub(super) fn shared(&self) -> Option<&Arc<Degradation>> {
        self.shared.as_ref()
    }

    /// When to call [`Watch::look`] next.
    pub(super) fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// Other modes or other parameters of them. While the modes keep their names, those in force stay so until the
    /// figures say otherwise; other sets of modes begin with none in force.
    pub(super) fn set_params(&mut self, params: &BTreeMap<String, Mode>, now: Instant) {
        if *params == self.params {
            return;
        }
        self.keep_counts();
        let list: Vec<ModeParams> = params.values().map(|mode| mode.params.clone()).collect();
        if params.keys().eq(self.params.keys()) {
            self.governor.on_params(list);
        } else {
            self.governor = Governor::new(list, now);
            self.standings.retain(|name, _| params.contains_key(name));
            self.standings.values_mut().for_each(|standing| standing.entered = None);
        }
        self.params.clone_from(params);
        self.shared = (!params.is_empty()).then(|| Arc::new(Degradation::new(params, self.workers)));
        self.due = now;
        if self.shared.is_none() {
            (self.due, self.seen) = (Instant::NEVER, None);
        }
    }

    /// What was counted with the old parameters is not lost.
    fn keep_counts(&mut self) {
        let Some(shared) = &self.shared else { return };
        for (index, name) in shared.names.iter().enumerate() {
            let standing = self.standings.entry(name.to_string()).or_default();
            standing.requests += shared.sum(|shard| shard.requests[index].get());
            standing.exercised += shared.sum(|shard| shard.exercised[index].get());
        }
    }

    /// Looks at the figures, if that is due, and makes what follows hold; answers what changed.
    pub(super) fn look<'a>(
        &mut self,
        now: Instant,
        at: Timestamp,
        service: &config::Service,
        entrance: &Entrance,
        targets: impl Iterator<Item = &'a Target>,
    ) -> Vec<Told> {
        if self.due > now {
            return Vec::new();
        }
        let Some(shared) = self.shared.clone() else { return Vec::new() };
        self.due = now.after(INTERVAL);
        let signals = Signals {
            utilization: utilization(now, service, entrance, targets),
            shed: self.shed_share(&shared, entrance),
            burn: None,
        };
        let switches = self.governor.on_signals(now, &signals);
        shared.modes.set(&self.governor);
        let told = switches.into_iter().map(|switch| self.on_switch(switch, at, &shared, &signals));
        told.collect()
    }

    fn on_switch(&mut self, switch: Switch, at: Timestamp, shared: &Degradation, signals: &Signals) -> Told {
        let Switch { mode, entered } = switch;
        let name = &shared.names[mode];
        let params = &self.params[&**name].params;
        let standing = self.standings.entry(name.to_string()).or_default();
        let shown =
            |figure: Option<f64>| figure.map_or_else(|| "unknown".to_owned(), |it| format!("{it:.2}"));
        let figures = format!("utilization {}, shed {}", shown(signals.utilization), shown(signals.shed));
        let why = match (entered, params.force) {
            (Some(degrade::Trigger::Forced), _) => "forced on".to_owned(),
            (Some(trigger), _) => format!("because of {}: {figures}", trigger.name()),
            (None, Force::Off) => "forced off".to_owned(),
            (None, _) => figures,
        };
        standing.entered = entered.map(|_| (at, why.clone()));
        standing.count += u64::from(entered.is_some());
        Told { entered: entered.is_some(), why: format!("{name}, {why}") }
    }

    /// The share of the requests of the last seconds that were shed; unknown when there were none.
    fn shed_share(&mut self, shared: &Degradation, entrance: &Entrance) -> Option<f64> {
        let classes = Criticality::ALL.into_iter();
        let shed = classes.flat_map(|class| Shed::ALL.map(|why| entrance.shed(class, why))).sum();
        let totals = [shared.sum(|shard| shard.asked.get()), shed];
        let seen = self.seen.replace(totals).unwrap_or(totals);
        for ((lately, seen), total) in self.lately.iter_mut().zip(seen).zip(totals) {
            // What was built anew counts from 0 again.
            *lately = *lately * KEPT + total.saturating_sub(seen) as f64;
        }
        let [asked, shed] = self.lately;
        // Who was counted before a look may be refused after it.
        (asked >= 1.0).then(|| (shed / asked).min(1.0))
    }

    /// How each mode stands.
    pub(super) fn status(&self) -> Vec<ModeStatus> {
        let Some(shared) = &self.shared else { return Vec::new() };
        let in_force = shared.modes.in_force();
        let status = |(index, name): (usize, &Arc<str>)| {
            let standing = self.standings.get(&**name).cloned().unwrap_or_default();
            let (since, why) = standing.entered.unzip();
            ModeStatus {
                name: name.to_string(),
                active: in_force & (1 << index) != 0,
                since,
                why: why.unwrap_or_default(),
                entered: standing.count,
                requests: standing.requests + shared.sum(|shard| shard.requests[index].get()),
                exercised: standing.exercised + shared.sum(|shard| shard.exercised[index].get()),
            }
        };
        shared.names.iter().enumerate().map(status).collect()
    }
}

/// The highest of what endpoints said of themselves lately and of the share of places in use; unknown when neither is known.
fn utilization<'a>(
    now: Instant,
    service: &config::Service,
    entrance: &Entrance,
    targets: impl Iterator<Item = &'a Target>,
) -> Option<f64> {
    let places = (service.admission.enabled && entrance.limit() > 0)
        .then(|| f64::from(entrance.active()) / f64::from(entrance.limit()));
    let reported = targets.filter_map(|target| {
        let (at, report) = target.endpoint.report()?;
        report.utilization().filter(|_| now.since(at) <= REPORT_AGE_MAX)
    });
    reported.chain(places).reduce(f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::degrade::Measures as _;
    use proptest::prelude::*;

    fn measures() -> impl Strategy<Value = Measures> {
        let class = prop::sample::select(&Criticality::ALL);
        let flags = (any::<bool>(), any::<bool>());
        (prop::option::of(class), flags, prop::option::of(1..5u64), prop::option::of(0..=100u8)).prop_map(
            |(drop_class, (no_hedging, no_retries), body_max, percent)| Measures {
                drop_class,
                no_hedging,
                no_retries,
                body_max,
                log_sample: percent.map(Ratio::percent),
                ..Measures::default()
            },
        )
    }

    proptest! {
        #[test]
        fn two_modes_leave_out_what_either_does(one in measures(), other in measures()) {
            let both = one.with(&other);
            for class in Criticality::ALL {
                prop_assert_eq!(both.drops(class), one.drops(class) || other.drops(class));
            }
            prop_assert_eq!(both.no_hedging, one.no_hedging || other.no_hedging);
            prop_assert_eq!(both.no_retries, one.no_retries || other.no_retries);
            let bound = |measures: &Measures| measures.body_max.unwrap_or(u64::MAX);
            prop_assert_eq!(bound(&both), bound(&one).min(bound(&other)));
            let logged = |measures: &Measures| measures.log_sample.unwrap_or(Ratio::ONE);
            prop_assert!(logged(&both) <= logged(&one) && logged(&both) <= logged(&other));
        }
    }
}
