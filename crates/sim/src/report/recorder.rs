//! Counting while the engine runs.

use std::time::Duration;

use model::{Criticality, Instant};
use serde::Serialize;

use super::recovery::{Arrived, recovery};
use super::story::{self, Disturbed};
use super::{
    ClassFigures, ClassSeries, Event, Figures, Histogram, Latency, Report, Series, ServiceFigures, rounded,
};
use crate::Scenario;

/// Whose request: the position of its traffic in [`Scenario::traffic`], and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// Position of the traffic, in the order of names.
    pub traffic: usize,
    /// Its class.
    pub class: Criticality,
}

/// How a request ended, as its client sees it, all tries included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was answered well.
    Success,
    /// The last try was answered with an error of a service.
    Failed,
    /// The last try was refused by a policy.
    Refused,
    /// The client stopped waiting.
    TimedOut,
}

/// The endings of requests that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The last try was answered with an error of a service.
    Failed,
    /// The last try was refused by a policy.
    Refused,
    /// The client stopped waiting.
    TimedOut,
}

impl Failure {
    /// Every one.
    pub const ALL: [Failure; 3] = [Self::Failed, Self::Refused, Self::TimedOut];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::TimedOut => "timed out",
        }
    }
}

impl Ending {
    fn failure(self) -> Option<Failure> {
        match self {
            Self::Success => None,
            Self::Failed => Some(Failure::Failed),
            Self::Refused => Some(Failure::Refused),
            Self::TimedOut => Some(Failure::TimedOut),
        }
    }
}

/// Which policy refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Shed {
    /// The customer asks for more than its rate.
    RateLimit,
    /// Client-side throttling on behalf of the service.
    Throttle,
    /// The service's breaker is open.
    Breaker,
    /// Admission by class: the adaptive limit, or its queue.
    Admission,
    /// The bulkhead is full, or waiting for a place took too long.
    Bulkhead,
    /// No endpoint may be tried.
    NoEndpoint,
    /// There is not enough time left.
    Deadline,
}

impl Shed {
    /// Every reason.
    pub const ALL: [Shed; 7] = [
        Self::RateLimit,
        Self::Throttle,
        Self::Breaker,
        Self::Admission,
        Self::Bulkhead,
        Self::NoEndpoint,
        Self::Deadline,
    ];

    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::RateLimit => "rate limit",
            Self::Throttle => "throttle",
            Self::Breaker => "breaker open",
            Self::Admission => "admission",
            Self::Bulkhead => "bulkhead full",
            Self::NoEndpoint => "no endpoint",
            Self::Deadline => "too little time",
        }
    }
}

const CLASSES: usize = Criticality::ALL.len();
const FAILURES: usize = Failure::ALL.len();

/// More slots than this are counted together: nobody reads so many, and they are held in memory.
const SLOTS_MAX: u128 = 10_000;

/// What happened within one slot of time.
#[derive(Clone, Debug, Default)]
struct Slot {
    offered: [u32; CLASSES],
    succeeded: [u32; CLASSES],
    refused: [u32; CLASSES],
    failed: [u32; FAILURES],
    attempts: u32,
    wasted: u32,
    /// Of the requests that came in this slot: how many ended, and how many of them well.
    arrived: [Arrived; CLASSES],
    latency: Option<[Duration; 2]>,
    load: Option<(f64, f64)>,
}

/// What happened at one service.
#[derive(Clone, Debug)]
struct AtService {
    name: String,
    refusals: u64,
    wasted: u64,
    /// For each endpoint.
    attempts: Vec<u64>,
    served: u64,
}

/// Takes down what happens. The engine calls it for each event; nothing is allocated after [`Recorder::new`].
///
/// The engine's `now` never goes back. What happens after the scenario's duration counts in the totals, not in the series.
#[derive(Clone, Debug)]
pub struct Recorder {
    title: String,
    seed: u64,
    duration: Duration,
    /// The width of a slot in nanoseconds.
    width: u64,
    events: Vec<Event>,
    disturbed: Disturbed,
    slots: Vec<Slot>,
    /// The slot whose latencies are being collected, and they.
    current: usize,
    current_latency: Histogram,
    latency: [Histogram; CLASSES],
    requests: [u64; CLASSES],
    attempts: [u64; CLASSES],
    succeeded: [u64; CLASSES],
    refused: [u64; CLASSES],
    failed: [u64; FAILURES],
    refusals: [u64; Shed::ALL.len()],
    client_retries: u64,
    services: Vec<AtService>,
}

impl Recorder {
    /// An empty sheet for a run of `scenario`. Services and traffics are known by their positions in its maps.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let duration = scenario.duration.get();
        let width = scenario.slot.get().as_nanos().max(duration.as_nanos().div_ceil(SLOTS_MAX)).max(1);
        let slots = usize::try_from(duration.as_nanos().div_ceil(width)).unwrap_or(1).max(1);
        let service = |(name, service): (&String, &crate::scenario::Service)| AtService {
            name: name.clone(),
            refusals: 0,
            wasted: 0,
            attempts: vec![0; service.endpoints as usize],
            served: 0,
        };
        Self {
            title: scenario.title.clone(),
            seed: scenario.seed,
            duration,
            width: u64::try_from(width).unwrap_or(u64::MAX),
            events: story::events(scenario),
            disturbed: story::disturbed(scenario),
            slots: vec![Slot::default(); slots],
            current: 0,
            current_latency: Histogram::default(),
            latency: Default::default(),
            requests: [0; CLASSES],
            attempts: [0; CLASSES],
            succeeded: [0; CLASSES],
            refused: [0; CLASSES],
            failed: [0; FAILURES],
            refusals: Default::default(),
            client_retries: 0,
            services: scenario.services.iter().map(service).collect(),
        }
    }

    /// A client wants something: a request, however often it will be tried.
    pub fn on_arrival(&mut self, now: Instant, who: Who) {
        self.requests[who.class.index()] += 1;
        if let Some(slot) = self.slot(now) {
            slot.offered[who.class.index()] += 1;
        }
    }

    /// A client tries again by itself; the first try is not told.
    pub fn on_client_retry(&mut self, now: Instant, who: Who) {
        let _ = (now, who);
        self.client_retries += 1;
    }

    /// Somebody sends an attempt to an endpoint; `nested` when that is another service, not a client or its gateway.
    pub fn on_attempt(&mut self, now: Instant, who: Who, service: usize, endpoint: usize, nested: bool) {
        self.services[service].attempts[endpoint] += 1;
        if nested {
            return;
        }
        self.attempts[who.class.index()] += 1;
        if let Some(slot) = self.slot(now) {
            slot.attempts += 1;
        }
    }

    /// An endpoint has finished a request well, whether anybody still waits for it or not.
    pub fn on_served(&mut self, now: Instant, service: usize, endpoint: usize, wanted: bool) {
        let _ = endpoint;
        let at = &mut self.services[service];
        at.served += 1;
        at.wasted += u64::from(!wanted);
        if let (false, Some(slot)) = (wanted, self.slot(now)) {
            slot.wasted += 1;
        }
    }

    /// A policy refused a call to a service. With retries that may happen to one request more than once.
    pub fn on_shed(&mut self, now: Instant, who: Who, service: usize, why: Shed) {
        let _ = (now, who);
        self.refusals[why as usize] += 1;
        self.services[service].refusals += 1;
    }

    /// How many requests are under way where adaptive limits hold, and the sum of these limits. The last word in a slot
    /// counts.
    pub fn on_load(&mut self, now: Instant, active: f64, limit: f64) {
        if let Some(slot) = self.slot(now) {
            slot.load = Some((active, limit));
        }
    }

    /// A request ended, `latency` after its arrival.
    pub fn on_end(&mut self, now: Instant, who: Who, ending: Ending, latency: Duration) {
        let class = who.class.index();
        let failure = ending.failure();
        if let Some(slot) = self.slot(now.before(latency)) {
            slot.arrived[class].on_end(failure.is_none());
        }
        let Some(failure) = failure else { return self.on_success(now, class, latency) };
        let refused = failure == Failure::Refused;
        self.failed[failure as usize] += 1;
        self.refused[class] += u64::from(refused);
        if let Some(slot) = self.slot(now) {
            slot.failed[failure as usize] += 1;
            slot.refused[class] += u32::from(refused);
        }
    }

    fn on_success(&mut self, now: Instant, class: usize, latency: Duration) {
        self.succeeded[class] += 1;
        self.latency[class].record(latency);
        let index = self.index(now);
        if index != self.current {
            self.close_slot();
            self.current = index;
        }
        self.current_latency.record(latency);
        if let Some(slot) = self.slots.get_mut(index) {
            slot.succeeded[class] += 1;
        }
    }

    /// The run is over at `now`: what it came to.
    ///
    /// Recovery is counted from the end of the last fault or phase of overload; without any, from the beginning. Goodput is
    /// back in the first slot of which, and after which, at least 95 % of the requests that came succeed, or 95 % of the
    /// share that succeeded before the first disturbance. Where slots hold few requests, so many are taken together that
    /// the share means something.
    #[must_use]
    pub fn finish(mut self, now: Instant) -> Report {
        let _ = now;
        self.close_slot();
        let present: Vec<Criticality> =
            Criticality::ALL.into_iter().filter(|class| self.requests[class.index()] > 0).collect();
        let shed = |class: &Criticality| self.refused[class.index()];
        let classes = present.iter().map(|class| {
            (*class, ClassFigures { figures: self.figures(std::slice::from_ref(class)), shed: shed(class) })
        });
        let errors = Failure::ALL.into_iter().map(|kind| (kind, self.failed[kind as usize]));
        let refusals = Shed::ALL.into_iter().map(|why| (why, self.refusals[why as usize]));
        Report {
            scenario: self.title.clone(),
            seed: self.seed,
            duration_s: self.duration.as_secs_f64(),
            total: self.figures(&Criticality::ALL),
            shed: present.iter().map(|class| (*class, shed(class))).collect(),
            errors: errors.filter(|(_, count)| *count > 0).collect(),
            refusals: refusals.filter(|(_, count)| *count > 0).collect(),
            client_retries: self.client_retries,
            classes: classes.collect(),
            services: self.services.iter().map(|at| (at.name.clone(), at.figures())).collect(),
            notes: Vec::new(),
            series: self.series(&present),
            events: self.events,
        }
    }

    fn index(&self, at: Instant) -> usize {
        usize::try_from(at.as_nanos() / self.width).unwrap_or(usize::MAX)
    }

    fn slot(&mut self, at: Instant) -> Option<&mut Slot> {
        let index = self.index(at);
        self.slots.get_mut(index)
    }

    fn close_slot(&mut self) {
        if let Some(slot) = self.slots.get_mut(self.current) {
            slot.latency = self.current_latency.quantiles([0.5, 0.99]);
        }
        self.current_latency.clear();
    }

    fn figures(&self, classes: &[Criticality]) -> Figures {
        let sum = |counts: &[u64; CLASSES]| classes.iter().map(|class| counts[class.index()]).sum::<u64>();
        let (requests, attempts, succeeded) =
            (sum(&self.requests), sum(&self.attempts), sum(&self.succeeded));
        let per_request = |count: u64| rounded(count as f64 / requests.max(1) as f64, 1e6);
        let mut latency = Histogram::default();
        classes.iter().for_each(|class| latency.add(&self.latency[class.index()]));
        let arrived = |slot: &Slot| {
            classes.iter().map(|class| slot.arrived[class.index()]).fold(Arrived::default(), Arrived::and)
        };
        let arrived: Vec<Arrived> = self.slots.iter().map(arrived).collect();
        Figures {
            requests,
            attempts,
            amplification: per_request(attempts),
            success_ratio: per_request(succeeded),
            goodput_per_s: rounded(succeeded as f64 / self.duration.as_secs_f64().max(1e-9), 1e3),
            latency_ms: latency
                .quantiles([0.5, 0.99, 0.999])
                .map(|latencies| latencies.map(millis))
                .map(|[p50, p99, p999]| Latency { p50, p99, p999 }),
            recovery_s: recovery(&arrived, Duration::from_nanos(self.width), self.disturbed),
        }
    }

    fn series(&self, present: &[Criticality]) -> Series {
        let width = Duration::from_nanos(self.width).as_secs_f64();
        // The end of the run may cut the last slot short.
        let last = self.slots.len() - 1;
        let last_width = self.duration.as_secs_f64() - last as f64 * width;
        let rates = |count: &dyn Fn(&Slot) -> u32| -> Vec<f64> {
            let rate = |(index, slot): (usize, &Slot)| {
                let width = if index == last { last_width.max(width / 100.0) } else { width };
                rounded(f64::from(count(slot)) / width, 1e3)
            };
            self.slots.iter().enumerate().map(rate).collect()
        };
        let latencies = |which: usize| {
            self.slots.iter().map(|slot| slot.latency.map(|latency| millis(latency[which]))).collect()
        };
        let kinds = Failure::ALL.into_iter().filter(|kind| self.failed[*kind as usize] > 0);
        let class = |class: &Criticality| {
            let index = class.index();
            let series = ClassSeries {
                offered_per_s: rates(&|slot| slot.offered[index]),
                goodput_per_s: rates(&|slot| slot.succeeded[index]),
            };
            (*class, series)
        };
        let refused = |class: &Criticality| (*class, rates(&|slot| slot.refused[class.index()]));
        Series {
            slot_s: width,
            at_s: (0..self.slots.len()).map(|index| rounded(index as f64 * width, 1e6)).collect(),
            offered_per_s: rates(&|slot| slot.offered.iter().sum()),
            attempts_per_s: rates(&|slot| slot.attempts),
            goodput_per_s: rates(&|slot| slot.succeeded.iter().sum()),
            wasted_per_s: rates(&|slot| slot.wasted),
            errors_per_s: kinds.map(|kind| (kind, rates(&|slot| slot.failed[kind as usize]))).collect(),
            shed_per_s: present.iter().map(refused).collect(),
            p50_ms: latencies(0),
            p99_ms: latencies(1),
            active: self.slots.iter().map(|slot| slot.load.map(|(active, _)| rounded(active, 1e3))).collect(),
            limit: self.slots.iter().map(|slot| slot.load.map(|(_, limit)| rounded(limit, 1e3))).collect(),
            classes: present.iter().map(class).collect(),
        }
    }
}

impl AtService {
    fn figures(&self) -> ServiceFigures {
        let attempts: u64 = self.attempts.iter().sum();
        let busiest = self.attempts.iter().max().copied().unwrap_or(0);
        let mean = attempts as f64 / self.attempts.len().max(1) as f64;
        ServiceFigures {
            attempts,
            served: self.served,
            wasted: self.wasted,
            refusals: self.refusals,
            busiest: if attempts == 0 { 0.0 } else { rounded(busiest as f64 / mean, 1e3) },
        }
    }
}

fn millis(span: Duration) -> f64 {
    rounded(span.as_secs_f64() * 1e3, 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Span;
    use proptest::prelude::*;

    fn scenario(seconds: u64) -> Scenario {
        let service = crate::scenario::Service { endpoints: 2, ..Default::default() };
        Scenario {
            duration: Span::from_secs(seconds),
            services: [("cart".to_owned(), service)].into(),
            ..Scenario::default()
        }
    }

    const WHO: Who = Who { traffic: 0, class: Criticality::Critical };

    #[test]
    fn requests_count_when_they_begin_and_successes_when_they_end() {
        let mut recorder = Recorder::new(&scenario(3));
        let (began, ended) = (Instant::from_millis(900), Instant::from_millis(1_100));
        recorder.on_arrival(began, WHO);
        recorder.on_attempt(began, WHO, 0, 0, false);
        recorder.on_attempt(began, WHO, 0, 1, true);
        recorder.on_served(ended, 0, 0, true);
        recorder.on_served(ended, 0, 1, false);
        recorder.on_end(ended, WHO, Ending::Success, Duration::from_millis(200));
        recorder.on_load(ended, 3.0, 10.0);
        let report = recorder.finish(Instant::from_secs(3));
        let series = &report.series;
        assert_eq!(series.offered_per_s, [1.0, 0.0, 0.0]);
        assert_eq!(series.attempts_per_s, [1.0, 0.0, 0.0]);
        assert_eq!(series.goodput_per_s, [0.0, 1.0, 0.0]);
        assert_eq!(series.wasted_per_s, [0.0, 1.0, 0.0]);
        assert_eq!(series.limit, [None, Some(10.0), None]);
        assert_eq!((series.p99_ms[0], series.p99_ms[2]), (None, None));
        assert!((series.p99_ms[1].unwrap() - 200.0).abs() <= 4.0);
        assert_eq!(
            (report.total.requests, report.total.attempts, report.services["cart"].attempts),
            (1, 1, 2)
        );
        assert_eq!(report.total.recovery_s, Some(0.0));
    }

    #[test]
    fn what_ends_after_the_end_counts_in_the_totals_alone() {
        let mut recorder = Recorder::new(&scenario(1));
        recorder.on_arrival(Instant::from_millis(500), WHO);
        recorder.on_end(Instant::from_millis(7_500), WHO, Ending::Success, Duration::from_secs(7));
        let report = recorder.finish(Instant::from_millis(7_500));
        assert_eq!((report.total.success_ratio, report.series.goodput_per_s.as_slice()), (1.0, &[0.0][..]));
    }

    #[test]
    fn a_last_slot_that_is_cut_short_is_no_dip() {
        let mut recorder = Recorder::new(&Scenario { duration: Span::from_millis(1_500), ..scenario(1) });
        for millis in (0..1_500).step_by(100) {
            recorder.on_arrival(Instant::from_millis(millis), WHO);
        }
        assert_eq!(recorder.finish(Instant::from_secs(2)).series.offered_per_s, [10.0, 10.0]);
    }

    #[test]
    fn a_class_that_nobody_used_is_left_out() {
        let mut recorder = Recorder::new(&scenario(1));
        recorder.on_arrival(Instant::ORIGIN, WHO);
        recorder.on_shed(Instant::ORIGIN, WHO, 0, Shed::Bulkhead);
        recorder.on_end(Instant::ORIGIN, WHO, Ending::Refused, Duration::ZERO);
        let report = recorder.finish(Instant::from_secs(1));
        assert_eq!(report.shed, [(Criticality::Critical, 1)].into());
        assert_eq!(report.errors, [(Failure::Refused, 1)].into());
        assert_eq!(report.refusals, [(Shed::Bulkhead, 1)].into());
        assert_eq!(report.classes.keys().copied().collect::<Vec<_>>(), [Criticality::Critical]);
        assert_eq!(report.total.latency_ms, None);
    }

    proptest! {
        #[test]
        fn totals_and_series_tell_the_same(
            ends in prop::collection::vec((0..5_000u64, 0..400u64, 0..4usize, 0..4usize), 0..200),
        ) {
            let mut recorder = Recorder::new(&scenario(6));
            let mut ends = ends;
            ends.sort_by_key(|(at, took, ..)| at + took);
            for (at, took, class, ending) in &ends {
                let who = Who { traffic: 0, class: Criticality::ALL[*class] };
                let ending = [Ending::Success, Ending::Failed, Ending::Refused, Ending::TimedOut][*ending];
                recorder.on_arrival(Instant::from_millis(*at), who);
                recorder.on_end(Instant::from_millis(at + took), who, ending, Duration::from_millis(*took));
            }
            let report = recorder.finish(Instant::from_secs(6));
            let sum = |column: &[f64]| column.iter().sum::<f64>() * report.series.slot_s;
            let failed: u64 = report.errors.values().sum();
            let good = sum(&report.series.goodput_per_s);
            prop_assert_eq!(report.total.requests, ends.len() as u64);
            prop_assert_eq!(sum(&report.series.offered_per_s), ends.len() as f64);
            prop_assert_eq!(good + failed as f64, ends.len() as f64);
            prop_assert_eq!(report.series.errors_per_s.values().map(|column| sum(column)).sum::<f64>(), failed as f64);
            prop_assert_eq!(report.shed_total(), report.errors.get(&Failure::Refused).copied().unwrap_or(0));
            let classes: f64 = report.series.classes.values().map(|class| sum(&class.goodput_per_s)).sum();
            prop_assert_eq!(classes, good);
        }
    }
}
