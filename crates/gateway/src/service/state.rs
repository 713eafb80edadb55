mod reload;

use std::collections::{BTreeSet, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use model::{Criticality, Instant, Timestamp};
use policy::breaker::{Breaker, Force};
use policy::budget::RetryBudget;
use policy::bulkhead::{Bulkhead, BulkheadParams};
use policy::callers::Callers;
use policy::ejection::{Action, Decision, Ejector, Headcount};
use policy::health::Change;
use policy::sticky::Sticky;
use policy::subset::SubsetParams;
use policy::throttle::Throttle;
use policy::{Fleet, Rng, Unavailable, balance};

use super::events::{Event, Events, What};
use super::member::{LAME_DUCK_LAPSE, Member};
use super::modes::{Told, Watch};
use super::services::Process;
use super::status::{
    AdmissionStatus, BreakerStatus, BulkheadStatus, ClassShed, DiscoveryStatus, ServiceStatus, force_name,
};
use super::{Clock, Entrance, Places};
use super::{Notice, Target, View};
use crate::config;
use crate::discover::{Discovered, Discovery};
use crate::health::Answer;
use crate::tls::Security;

/// Checks of one service under way at once.
const CHECKS_MAX: usize = 256;
/// Views of one service are published no more often than this, except for what must not wait.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(50);
/// More endpoints than this that join or leave at once are told of in one event.
const TOLD_ONE_BY_ONE: usize = 8;

/// The present, by both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) now: Instant,
    pub(super) at: Timestamp,
}

/// A check that is to be sent.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) target: u64,
    pub(super) address: SocketAddr,
    pub(super) health: config::Health,
    pub(super) name: Arc<str>,
    pub(super) security: Security,
    pub(super) protocol: config::Protocol,
}

/// All that is known of a service, and what follows from it: facts in, views out. It reads no clock and sends nothing.
pub(super) struct State {
    params: Arc<config::Service>,
    /// Handed to what waits; the state itself is told the time.
    clock: Clock,
    workers: usize,
    /// A hash of the host's name.
    host: u64,
    /// What sticky cookies are keyed by: the same in every process that serves this service.
    secret: u64,
    rng: Rng,
    /// What the source knows, the endpoints outside this process's subset included.
    discovery: Discovery,
    source: String,
    members: Vec<Member>,
    /// Endpoints that an operator took out, whether they are here or not.
    disabled: BTreeSet<String>,
    ejector: Ejector,
    breaker: Arc<Breaker>,
    retry_budget: Arc<RetryBudget>,
    bulkhead: Arc<Places>,
    tunnels: Arc<Bulkhead>,
    entrance: Arc<Entrance>,
    /// When the search for the limit began.
    limit_sought: Instant,
    throttle: Arc<Throttle>,
    callers: Arc<Callers>,
    modes: Watch,
    events: Events,
    security: Security,
    version: u64,
    panicking: bool,
    /// Whether all zones share the requests although this gateway has a zone of its own.
    out_of_zone: bool,
    published: Instant,
    publish_at: Instant,
}

impl State {
    pub(super) fn new(
        name: Arc<str>,
        params: Arc<config::Service>,
        process: Process,
        clock: Clock,
        now: Instant,
    ) -> Self {
        let Process { workers, host, seed } = process;
        Self {
            clock,
            workers,
            host,
            secret: policy::hash(name.as_bytes()),
            rng: Rng::with_seed(policy::seed(seed, &name)),
            discovery: Discovery::default(),
            source: String::new(),
            members: Vec::new(),
            disabled: BTreeSet::new(),
            ejector: Ejector::new(&params.ejection, now),
            breaker: Arc::new(Breaker::new(&params.breaker, workers, now)),
            retry_budget: Arc::new(RetryBudget::new(&params.retry_budget, workers, now)),
            bulkhead: Arc::new(Places::new(Bulkhead::new(&params.bulkhead, workers))),
            tunnels: Arc::new(tunnels(&params, workers)),
            entrance: Arc::new(Entrance::new(&params.admission, workers, clock)),
            limit_sought: now,
            throttle: Arc::new(Throttle::new(&params.throttle, workers, now)),
            callers: Arc::new(Callers::new(&params.retry_advice, workers, now)),
            modes: Watch::new(&params.modes, workers, now),
            events: Events::new(name),
            security: Security::Plain,
            version: 0,
            panicking: false,
            out_of_zone: false,
            published: Instant::ORIGIN,
            publish_at: Instant::NEVER,
            params,
        }
    }

    pub(super) fn params(&self) -> &Arc<config::Service> {
        &self.params
    }

    /// How endpoints are talked to from now on.
    pub(super) fn set_security(&mut self, security: Security) {
        self.security = security;
    }

    /// When to call [`State::advance`] next, if nothing happens before.
    pub(super) fn poll_timeout(&self) -> Instant {
        let checks = if self.asking() < CHECKS_MAX { self.next_check() } else { Instant::NEVER };
        let lapses = self.members.iter().filter_map(|member| member.lapses).min();
        let planned = self.publish_at.min(self.ejector.poll_timeout()).min(self.modes.poll_timeout());
        planned.min(checks).min(lapses.unwrap_or(Instant::NEVER))
    }

    /// Does what is due.
    pub(super) fn advance(&mut self, moment: Moment) {
        let returned = self.ejector.on_timeout(moment.now);
        self.decide(returned, moment);
        if self.ejector.interval_due(moment.now) {
            self.compare(moment);
        }
        self.watch_modes(moment);
        for index in 0..self.members.len() {
            let member = &self.members[index];
            if member.untold_lame_duck() {
                self.on_lame_duck(index, "an answer said so", moment);
            } else if member.lapses.is_some_and(|lapses| lapses <= moment.now) {
                self.mark(index, Unavailable::LameDuck, false, "not confirmed for a while", moment);
            }
        }
    }

    /// Enters and leaves modes as the figures say.
    fn watch_modes(&mut self, moment: Moment) {
        let targets = self.members.iter().map(|member| &*member.target);
        let told = self.modes.look(moment.now, moment.at, &self.params, &self.entrance, targets);
        for Told { entered, why } in told {
            let what = if entered { What::ModeEntered } else { What::ModeLeft };
            self.tell(None, what, why, moment);
        }
    }

    /// The view to publish, if one is due.
    pub(super) fn poll_view(&mut self, moment: Moment) -> Option<View> {
        (self.publish_at <= moment.now).then(|| self.view(moment))
    }

    /// A new view of what is known now.
    pub(super) fn view(&mut self, moment: Moment) -> View {
        // First, so that no view is without what an operator forced.
        self.watch_modes(moment);
        (self.published, self.publish_at) = (moment.now, Instant::NEVER);
        self.version += 1;
        self.seek_limit_if_cold(moment);
        let targets = self.targets(moment);
        let endpoints = targets.iter().map(|target| Arc::clone(&target.endpoint)).collect();
        let fleet = Fleet::new(endpoints, self.params.panic_below)
            .with_slow_start(&self.params.slow_start, moment.now);
        if mem::replace(&mut self.panicking, fleet.panicking()) != self.panicking {
            let available = self.members.iter().filter(|member| member.endpoint().available()).count();
            let what = if self.panicking { What::PanicEntered } else { What::PanicLeft };
            self.tell(
                None,
                what,
                format!("{available} of {} endpoints available", self.members.len()),
                moment,
            );
        }
        let balancer = balance::build(&self.params.balance, &fleet, moment.now, self.rng.u64(..));
        // Replicas and restarts agree on what a cookie names.
        let sticky = self.params.sticky.as_ref().map(|sticky| {
            let secret = [self.secret, policy::hash(sticky.cookie.as_bytes())];
            Sticky::new(secret, &fleet)
        });
        View {
            version: self.version,
            params: Arc::clone(&self.params),
            fleet,
            targets,
            balancer,
            breaker: Arc::clone(&self.breaker),
            retry_budget: Arc::clone(&self.retry_budget),
            bulkhead: Arc::clone(&self.bulkhead),
            tunnels: Arc::clone(&self.tunnels),
            entrance: Arc::clone(&self.entrance),
            throttle: Arc::clone(&self.throttle),
            callers: Arc::clone(&self.callers),
            degradation: self.modes.shared().cloned(),
            sticky,
            security: self.security.clone(),
        }
    }

    /// Those who share the requests: everybody, or whoever stands in this gateway's zone while at least half of those are
    /// available. Fails open: a zone in trouble is helped by the others.
    fn targets(&mut self, moment: Moment) -> Box<[Arc<Target>]> {
        let zone = self.params.zone.as_ref();
        let local: Vec<&Member> =
            self.members.iter().filter(|member| zone.is_some() && member.zone.as_ref() == zone).collect();
        let available = local.iter().filter(|member| member.endpoint().available()).count();
        let (known, stay) = (local.len(), available > 0 && 2 * available >= local.len());
        let everybody = || self.members.iter().map(|member| Arc::clone(&member.target)).collect();
        let targets =
            if stay { local.iter().map(|member| Arc::clone(&member.target)).collect() } else { everybody() };
        let out = zone.is_some() && !stay && !self.members.is_empty();
        if mem::replace(&mut self.out_of_zone, out) != out {
            let what = if out { What::ZoneLeft } else { What::ZoneReturned };
            self.tell(None, what, format!("{available} of {known} endpoints of the zone available"), moment);
        }
        targets
    }

    /// Begins the search for the limit anew when everybody who serves joined within the slow-start window and nobody of them
    /// was there when it began.
    ///
    /// Slow start ramps newcomers relative to the others; here there are no others. What the limit was before says what
    /// warm caches could bear, while a cold cluster that gets all of that at once may never warm up. From where it begins
    /// the limit grows only as fast as answers show that it may. One that has fallen below its beginning stays.
    ///
    /// Source: SRE book, ch. 22, "Slow startup and cold caching".
    fn seek_limit_if_cold(&mut self, moment: Moment) {
        let serving = self.members.iter().map(Member::endpoint).filter(|endpoint| endpoint.available());
        let Some(oldest) = serving.map(|endpoint| endpoint.joined()).min() else { return };
        let cold =
            oldest > self.limit_sought && oldest.after(self.params.slow_start.window.get()) > moment.now;
        let (limit, initial) = (self.entrance.limit(), self.params.admission.limit.first());
        if cold && self.params.admission.enabled && limit > initial {
            // Requests under way have their places in the old one: mostly at endpoints that are gone.
            self.entrance = Arc::new(Entrance::new(&self.params.admission, self.workers, self.clock));
            self.limit_sought = moment.now;
            let why = format!("no endpoint is older than the slow start; limit {initial} instead of {limit}");
            self.tell(None, What::Cold, why, moment);
        }
    }

    /// Another source is asked from now on. What the old one said stays in use until the new one knows something.
    pub(super) fn on_source(&mut self, source: &str) {
        source.clone_into(&mut self.source);
        (self.discovery.trouble, self.discovery.failures) = (None, 0);
    }

    /// What the source knows. Without a set, nothing changes but its trouble: no answer never means nobody.
    pub(super) fn on_discovery(&mut self, discovery: Discovery, moment: Moment) {
        let set = discovery.set.or(self.discovery.set.take());
        self.discovery = Discovery { set, ..discovery };
        self.select(moment);
    }

    /// Takes this process's share of what was discovered for members. Those who stay keep all that was learnt.
    fn select(&mut self, moment: Moment) {
        let Some(set) = self.discovery.set.clone() else { return };
        let mut before: VecDeque<Member> = mem::take(&mut self.members).into();
        let (mut joined, mut changed, mut turned) = (Vec::new(), false, Vec::new());
        for found in subset(&self.params.subset, self.host, &set) {
            // Sets mostly come in the same order, so that the search ends at once.
            let known = before.iter().position(|member| member.is(found));
            let member = known.and_then(|position| {
                changed |= position != 0;
                before.remove(position)
            });
            let mut member = member.unwrap_or_else(|| {
                joined.push(self.members.len());
                Member::new(found, &self.params, self.workers, moment.now, &mut self.rng)
            });
            if member.endpoint().weight() != found.weight {
                member.endpoint().set_weight(found.weight);
                changed = true;
            }
            if member.zone != found.zone {
                member.zone.clone_from(&found.zone);
                changed = true;
            }
            if mem::replace(&mut member.announced, found.lame_duck) != found.lame_duck {
                turned.push(self.members.len());
            }
            self.members.push(member);
        }
        if changed || !joined.is_empty() || !before.is_empty() {
            self.publish_soon();
        }
        let left = before.iter().map(|member| Arc::clone(&member.name)).collect();
        self.tell_membership(What::Left, left, moment);
        for index in &joined {
            if self.disabled.contains(&*self.members[*index].name) {
                self.mark(*index, Unavailable::Disabled, true, "an operator took it out earlier", moment);
            }
        }
        let joined = joined.into_iter().map(|index| Arc::clone(&self.members[index].name)).collect();
        self.tell_membership(What::Joined, joined, moment);
        for index in turned {
            if self.members[index].announced {
                self.on_lame_duck(index, "it registered as one", moment);
            } else {
                self.mark(index, Unavailable::LameDuck, false, "it is registered as one no longer", moment);
            }
        }
    }

    fn tell_membership(&mut self, what: What, names: Vec<Arc<str>>, moment: Moment) {
        let why = self.source.clone();
        if names.len() > TOLD_ONE_BY_ONE {
            self.tell(None, what, format!("{} endpoints, by {why}", names.len()), moment);
            return;
        }
        for name in names {
            self.tell(Some(name), what, format!("by {why}"), moment);
        }
    }

    /// A worker noticed something.
    pub(super) fn on_notice(&mut self, notice: Notice, moment: Moment) {
        let (Notice::Failing { target } | Notice::LameDuck { target }) = notice;
        let Some(index) = self.index(target) else { return };
        match notice {
            Notice::Failing { .. } => self.on_streak(index, moment),
            // A late notice must not bring back a mark that was lifted meanwhile.
            Notice::LameDuck { .. } if self.members[index].untold_lame_duck() => {
                self.on_lame_duck(index, "an answer said so", moment);
            }
            Notice::LameDuck { .. } => {}
        }
    }

    /// The checks to send now, those that are due longest first. Each is answered through [`State::on_answer`].
    pub(super) fn poll_checks(&mut self, now: Instant) -> Vec<Due> {
        let Some(health) = &self.params.health else { return Vec::new() };
        let room = CHECKS_MAX.saturating_sub(self.asking());
        if room == 0 {
            return Vec::new();
        }
        let mut due = Vec::new();
        for member in &mut self.members {
            let Some(opinion) = member.health.as_ref().filter(|_| !member.asking) else { continue };
            let since = opinion.poll_timeout();
            if since <= now {
                // Looked at once an interval.
                let suppressed = member.suppresses(&health.check);
                match &mut member.health {
                    Some(opinion) if suppressed => opinion.on_traffic_success(now, &mut self.rng),
                    _ => due.push((since, member)),
                }
            }
        }
        due.sort_unstable_by_key(|(since, _)| *since);
        due.truncate(room);
        let mut start = |member: &mut Member| {
            member.asking = true;
            if let Some(opinion) = &mut member.health {
                opinion.on_start(now, &mut self.rng);
            }
            let Member { target, .. } = member;
            Due {
                target: target.id,
                address: target.address,
                health: health.clone(),
                name: Arc::clone(&member.name),
                security: self.security.clone(),
                protocol: self.params.protocol,
            }
        };
        due.into_iter().map(|(_, member)| start(member)).collect()
    }

    /// What a target answered to a check.
    pub(super) fn on_answer(&mut self, target: u64, answer: &Answer, moment: Moment) {
        let Some(index) = self.index(target) else { return };
        let member = &mut self.members[index];
        member.asking = false;
        let Some(opinion) = &mut member.health else { return };
        let well = !matches!(answer, Answer::Failed(_));
        match opinion.on_check(well, moment.now) {
            Some(Change::Unhealthy) => {
                let Answer::Failed(why) = answer else { return };
                self.mark(index, Unavailable::Unhealthy, true, why, moment);
            }
            Some(Change::Healthy) => {
                self.mark(index, Unavailable::Unhealthy, false, "its checks succeed", moment);
            }
            None => {}
        }
        match answer {
            Answer::LameDuck => self.on_lame_duck(index, "its health answer says so", moment),
            Answer::Healthy if self.asks_for_lame_ducks() && !self.members[index].announced => {
                self.mark(index, Unavailable::LameDuck, false, "its health answer says so no longer", moment);
            }
            Answer::Healthy | Answer::Failed(_) => {}
        }
    }

    /// An operator takes an endpoint out or lets it in again, until said otherwise; answers whether there is one of
    /// that name.
    pub(super) fn set_disabled(&mut self, name: &str, disabled: bool, moment: Moment) -> bool {
        let Some(index) = self.members.iter().position(|member| *member.name == *name) else { return false };
        if disabled {
            self.disabled.insert(name.to_owned());
        } else {
            self.disabled.remove(name);
        }
        self.mark(index, Unavailable::Disabled, disabled, "an operator said so", moment);
        true
    }

    /// An operator overrides the breaker of the service or of one of its endpoints; with `reset` it also forgets what
    /// it counted. Answers whether there is one.
    pub(super) fn force(&mut self, endpoint: Option<&str>, force: Option<Force>, moment: Moment) -> bool {
        let member = endpoint.map(|name| self.members.iter().find(|member| *member.name == *name));
        let (name, breaker) = match member {
            None => (None, &*self.breaker),
            Some(Some(member)) => (Some(Arc::clone(&member.name)), &member.target.breaker),
            Some(None) => return false,
        };
        let why = match force {
            Some(force) => {
                breaker.force(force, moment.now);
                format!("an operator said {}", force_name(force))
            }
            None => {
                breaker.reset(moment.now);
                "an operator reset it".to_owned()
            }
        };
        self.tell(name, What::BreakerForced, why, moment);
        true
    }

    pub(super) fn events(&self) -> Vec<Event> {
        self.events.to_vec()
    }

    pub(super) fn status(&self, name: &str, now: Instant) -> ServiceStatus {
        let Discovery { set, trouble, failures } = &self.discovery;
        let balance = serde_json::to_value(&self.params.balance).unwrap_or_default();
        let balancer = match &balance {
            serde_json::Value::String(name) => name.clone(),
            serde_json::Value::Object(map) => map.keys().next().cloned().unwrap_or_default(),
            _ => String::new(),
        };
        ServiceStatus {
            name: name.to_owned(),
            version: self.version,
            discovery: DiscoveryStatus {
                source: self.source.clone(),
                known: set.as_ref().map_or(0, |set| set.len()),
                trouble: trouble.as_deref().map(str::to_owned),
                failures: *failures,
            },
            balancer,
            panicking: self.panicking,
            active: self.members.iter().map(|member| member.endpoint().active()).sum(),
            breaker: BreakerStatus::new(&self.breaker, now),
            retry_budget: self.retry_budget.balance(now),
            retry_budget_max: self.params.retry_budget.burst.get().into(),
            bulkhead: BulkheadStatus {
                active: self.bulkhead.active(),
                waiting: self.bulkhead.waiting(),
                active_max: self.params.bulkhead.active_max,
                waiting_max: self.params.bulkhead.waiting_max,
            },
            tunnels: self.tunnels.active(),
            tunnels_max: self.params.tunnels_max,
            admission: AdmissionStatus {
                enabled: self.params.admission.enabled,
                limit: self.entrance.limit(),
                active: self.entrance.active(),
                waiting: self.entrance.waiting(),
                latency_secs: self.entrance.expected_latency().as_secs_f64(),
                base_latency_secs: self.entrance.base_latency().as_secs_f64(),
                shed: ClassShed::all(&self.entrance),
            },
            modes: self.modes.status(),
            throttle: Criticality::ALL.map(|class| self.throttle.rejection(class, now)),
            callers: self.callers.counts(now).unwrap_or_default(),
            endpoints: self.members.iter().map(|member| member.status(now)).collect(),
        }
    }

    /// Compares what members did since the last interval.
    fn compare(&mut self, moment: Moment) {
        let observations: Vec<_> = self.members.iter_mut().map(Member::observe).collect();
        let decisions = self.ejector.on_interval(moment.now, &observations, &mut self.rng);
        self.decide(decisions, moment);
        // Notices may have been lost, and what bounds forbade may be allowed now.
        let trips_at = self.params.ejection.consecutive_failures;
        for index in 0..self.members.len() {
            if trips_at > 0 && self.members[index].target.streak.failures() >= trips_at {
                self.on_streak(index, moment);
            }
        }
    }

    fn on_streak(&mut self, index: usize, moment: Moment) {
        let serving = |member: &&Member| member.endpoint().available();
        let headcount =
            Headcount { endpoints: self.members.len(), serving: self.members.iter().filter(serving).count() };
        let key = self.members[index].endpoint().key();
        let decision = self.ejector.on_streak(moment.now, key, headcount, &mut self.rng);
        self.decide(decision, moment);
    }

    fn decide(&mut self, decisions: impl IntoIterator<Item = Decision>, moment: Moment) {
        for Decision { key, action } in decisions {
            let Some(index) = self.members.iter().position(|member| member.endpoint().key() == key) else {
                continue;
            };
            match action {
                Action::Eject { until, why } => {
                    // Decided a moment ago: cut instead of rounded, every span would look a second shorter.
                    let secs = until.since(moment.now).as_secs_f64();
                    let why = format!("{}, for {secs:.0} s", why.name());
                    self.mark(index, Unavailable::Ejected, true, &why, moment);
                }
                Action::Return => {
                    self.members[index].target.streak.reset();
                    self.mark(index, Unavailable::Ejected, false, "its time is over", moment);
                }
            }
        }
    }

    fn on_lame_duck(&mut self, index: usize, why: &str, moment: Moment) {
        self.mark(index, Unavailable::LameDuck, true, why, moment);
        let lapses = moment.now.after(LAME_DUCK_LAPSE);
        let confirmed = self.asks_for_lame_ducks() || self.members[index].announced;
        self.members[index].lapses = (!confirmed).then_some(lapses);
    }

    /// Whether checks can tell that a lame duck is one no longer.
    fn asks_for_lame_ducks(&self) -> bool {
        self.params.health.as_ref().is_some_and(|health| !matches!(health.check, config::HealthCheck::Tcp))
    }

    fn mark_all(&mut self, reason: Unavailable, holds: bool, why: &str, moment: Moment) {
        for index in 0..self.members.len() {
            self.mark(index, reason, holds, why, moment);
        }
    }

    fn mark(&mut self, index: usize, reason: Unavailable, holds: bool, why: &str, moment: Moment) {
        let member = &mut self.members[index];
        if reason == Unavailable::LameDuck && !holds {
            member.lapses = None;
        }
        let Some(what) = member.mark(reason, holds, why, moment.now, moment.at) else { return };
        let name = Arc::clone(&member.name);
        self.tell(Some(name), what, why.to_owned(), moment);
        // To stop sending must not wait; who comes back can.
        if holds && reason != Unavailable::Unhealthy {
            self.publish_at = moment.now;
        } else {
            self.publish_soon();
        }
    }

    /// Soon, so that what changes at the same time is published together; at once after a quiet time.
    fn publish_soon(&mut self) {
        self.publish_at = self.publish_at.min(self.published.after(PUBLISH_INTERVAL));
    }

    fn tell(&mut self, endpoint: Option<Arc<str>>, what: What, why: String, moment: Moment) {
        self.events.push(Event {
            at: moment.at,
            endpoint: endpoint.as_deref().map(str::to_owned),
            what,
            why,
        });
    }

    fn index(&self, target: u64) -> Option<usize> {
        self.members.iter().position(|member| member.target.id == target)
    }

    fn asking(&self) -> usize {
        self.members.iter().filter(|member| member.asking).count()
    }

    fn next_check(&self) -> Instant {
        let due =
            |member: &Member| member.health.as_ref().filter(|_| !member.asking).map(|h| h.poll_timeout());
        self.members.iter().filter_map(due).min().unwrap_or(Instant::NEVER)
    }
}

/// Places for upgraded connections. Nobody waits for one: they live too long.
fn tunnels(params: &config::Service, workers: usize) -> Bulkhead {
    let places =
        BulkheadParams { active_max: params.tunnels_max, waiting_max: 0, ..BulkheadParams::default() };
    Bulkhead::new(&places, workers)
}

/// The share of `set` that this process uses, in the set's order. `host` stands for this process's number if it has none.
fn subset<'a>(params: &SubsetParams, host: u64, set: &'a [Discovered]) -> Vec<&'a Discovered> {
    let client = params.client.map_or(host, u64::from);
    let keys: Vec<u64> = set.iter().map(|found| policy::hash(found.name.as_bytes())).collect();
    let mut chosen = policy::subset::subset(params, client, &keys);
    chosen.sort_unstable();
    chosen.into_iter().map(|position| &set[position]).collect()
}
