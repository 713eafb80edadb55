//! A caller's way to one service: the state of every policy.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use model::{Instant, Ratio};
use policy::admission::Admission;
use policy::balance::{self, Balancer, Pick};
use policy::breaker::{Breaker, CallEnd, Permit};
use policy::budget::RetryBudget;
use policy::bulkhead::Bulkhead;
use policy::callers::Callers;
use policy::ejection::{Action, Decision, Ejector, Headcount, Observation, Streak};
use policy::endpoint::Totals;
use policy::health::{Change, Health};
use policy::hedge::HedgeTimer;
use policy::queue::{Queue, QueueParams};
use policy::rate_limit::RateLimiter;
use policy::throttle::Throttle;
use policy::{Endpoint, Fleet, Rng, Unavailable};

use super::Call;
use super::slab::Id;
use crate::report::Shed;
use crate::scenario::{RoutePolicies, ServicePolicies};

/// A lame duck that no health check asks is tried again after this long.
const LAME_DUCK_LAPSE: Duration = Duration::from_secs(30);

/// An endpoint as a caller sees it.
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    /// Which server it is.
    pub(crate) server: u32,
    pub(crate) streak: Streak,
    /// None when off, one for all routes, or one for each.
    breakers: Vec<Breaker>,
    health: Option<Health>,
    /// What its attempts had come to when its health was last looked at, and at the last ejection interval.
    looked: Totals,
    compared: Totals,
    /// When a lame-duck mark is lifted that nobody else lifts.
    lapses: Instant,
}

impl Member {
    pub(crate) fn breaker(&self, route: u16) -> Option<&Breaker> {
        match self.breakers.len() {
            0 => None,
            1 => self.breakers.first(),
            _ => self.breakers.get(usize::from(route)),
        }
    }
}

/// What a route has of its own.
pub(crate) struct Route {
    pub(crate) hedge: Option<HedgeTimer>,
    pub(crate) limiter: Option<RateLimiter>,
}

/// A caller's way to one service. The caller is a process with one worker.
pub(crate) struct Road {
    pub(crate) service: u32,
    pub(crate) rng: Rng,
    pub(crate) members: Vec<Member>,
    pub(crate) fleet: Fleet,
    pub(crate) balancer: Box<dyn Balancer>,
    /// The fleet no longer shows what is known.
    stale: bool,
    pub(crate) callers: Callers,
    pub(crate) throttle: Option<Throttle>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) admission: Option<Admission>,
    /// Calls that wait for admission.
    pub(crate) queue: Queue<Id<Call>>,
    /// When that queue is looked after next.
    pub(crate) queue_at: Instant,
    pub(crate) bulkhead: Option<Bulkhead>,
    /// Calls that wait for the bulkhead, the oldest first.
    pub(crate) waiting: VecDeque<Id<Call>>,
    pub(crate) budget: Option<RetryBudget>,
    ejector: Option<Ejector>,
    routes: Vec<Option<Route>>,
    /// When it is looked after next.
    pub(crate) control_at: Instant,
    seed: u64,
}

/// A place of the fleet that an attempt may be sent to, and what its breaker gave.
pub(crate) struct Picked {
    pub(crate) member: u32,
    pub(crate) permit: Option<Permit>,
}

impl Road {
    /// The way of caller number `caller` to the servers from `first` on, one for each name.
    pub(crate) fn new(
        params: &ServicePolicies,
        service: u32,
        (caller, routes): (u32, usize),
        first: u32,
        (names, keys): (&[String], &[u64]),
        seed: u64,
    ) -> Self {
        let now = Instant::ORIGIN;
        let mut rng = Rng::with_seed(seed);
        let mut chosen = policy::subset::subset(&params.subset, u64::from(caller), keys);
        chosen.sort_unstable();
        let breakers = match (params.endpoint_breaker.enabled, params.endpoint_breaker_per_route) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => routes,
        };
        let members: Vec<_> = chosen
            .into_iter()
            .map(|at| Member {
                endpoint: Arc::new(Endpoint::new(&names[at], 1, params.active_per_endpoint, now)),
                server: first + at as u32,
                streak: Streak::new(params.ejection.consecutive_failures),
                breakers: (0..breakers).map(|_| Breaker::new(&params.endpoint_breaker, 1, now)).collect(),
                health: params.health.as_ref().map(|health| Health::new(health, now, &mut rng)),
                looked: Totals::default(),
                compared: Totals::default(),
                lapses: Instant::NEVER,
            })
            .collect();
        let fleet = Fleet::new(
            members.iter().map(|member| Arc::clone(&member.endpoint)).collect(),
            params.panic_below,
        );
        Self {
            service,
            balancer: balance::build(&params.balance, &fleet, now, seed),
            fleet,
            stale: false,
            members,
            breaker: params.breaker.enabled.then(|| Breaker::new(&params.breaker, 1, now)),
            callers: Callers::new(&params.retry_advice, 1, now),
            throttle: params.throttle.enabled.then(|| Throttle::new(&params.throttle, 1, now)),
            admission: params.admission.enabled.then(|| Admission::new(&params.admission, 1, now)),
            queue: Queue::new(&QueueParams {
                waiting_max: if params.admission.enabled { params.admission.queue.waiting_max } else { 0 },
                ..params.admission.queue.clone()
            }),
            queue_at: Instant::NEVER,
            bulkhead: (params.bulkhead.active_max < u32::MAX).then(|| Bulkhead::new(&params.bulkhead, 1)),
            waiting: VecDeque::new(),
            budget: params.retry_budget.as_ref().map(|budget| RetryBudget::new(budget, 1, now)),
            ejector: params.ejection.enabled.then(|| Ejector::new(&params.ejection, now)),
            routes: Vec::new(),
            control_at: Instant::NEVER,
            rng,
            seed,
        }
    }

    /// What the route has of its own on this road; made when it is first asked for.
    pub(crate) fn route(
        &mut self,
        route: u16,
        own: &RoutePolicies,
        params: &ServicePolicies,
        now: Instant,
    ) -> &Route {
        let index = usize::from(route);
        if self.routes.len() <= index {
            self.routes.resize_with(index + 1, || None);
        }
        let seed = self.seed;
        self.routes[index].get_or_insert_with(|| Route {
            hedge: own.hedge.as_ref().or(params.hedge.as_ref()).map(|hedge| HedgeTimer::new(hedge, 1, now)),
            limiter: own.rate_limit.as_ref().map(|limit| RateLimiter::new(limit, seed)),
        })
    }

    /// Shows what is known now to those who pick.
    fn refresh(&mut self, params: &ServicePolicies, now: Instant) {
        if std::mem::take(&mut self.stale) {
            let endpoints = self.members.iter().map(|member| Arc::clone(&member.endpoint)).collect();
            self.fleet = Fleet::new(endpoints, params.panic_below).with_slow_start(&params.slow_start, now);
            self.balancer = balance::build(&params.balance, &self.fleet, now, self.rng.u64(..));
        }
    }

    /// Asks the endpoint's breaker, then takes one of its places.
    fn enter(&mut self, member: u32, route: u16, now: Instant) -> Result<Option<Permit>, Shed> {
        let Self { members, rng, .. } = self;
        let chosen = &members[member as usize];
        let permit = match chosen.breaker(route) {
            Some(breaker) => Some(breaker.try_enter(0, now, rng).map_err(|_| Shed::Breaker)?),
            None => None,
        };
        if chosen.endpoint.try_start(now) {
            return Ok(permit);
        }
        if let (Some(breaker), Some(permit)) = (chosen.breaker(route), permit) {
            breaker.on_end(permit, now, CallEnd::Ignored, Duration::ZERO, rng);
        }
        Err(Shed::NoEndpoint)
    }

    /// Picks an endpoint whose breaker lets the attempt pass and that has room for it, as the gateway does.
    pub(crate) fn pick(
        &mut self,
        params: &ServicePolicies,
        route: u16,
        key: u64,
        tried: &mut Tried,
        now: Instant,
    ) -> Result<Picked, Shed> {
        self.refresh(params, now);
        let mut refused = Shed::NoEndpoint;
        for _ in 0..8 {
            let facts = Pick { now, key: Some(key), tried: tried.as_slice() };
            let Some(member) = self.balancer.pick(&self.fleet, &facts, &mut self.rng) else { break };
            match self.enter(member, route, now) {
                Ok(permit) => return Ok(Picked { member, permit }),
                Err(why) if tried.as_slice().contains(&member) => return Err(why),
                Err(why) => {
                    refused = why;
                    tried.push(member);
                }
            }
        }
        Err(refused)
    }

    /// Whether an endpoint's failures in a row are to be acted upon.
    pub(crate) fn on_streak(&mut self, member: u32, now: Instant) {
        let Some(ejector) = &mut self.ejector else { return };
        let serving = self.members.iter().filter(|member| member.endpoint.available()).count();
        let headcount = Headcount { endpoints: self.members.len(), serving };
        let key = self.members[member as usize].endpoint.key();
        let decision = ejector.on_streak(now, key, headcount, &mut self.rng);
        self.decide(decision, now);
    }

    fn decide(&mut self, decisions: impl IntoIterator<Item = Decision>, now: Instant) {
        for Decision { key, action } in decisions {
            let Some(index) = self.members.iter().position(|member| member.endpoint.key() == key) else {
                continue;
            };
            match action {
                Action::Eject { .. } => self.mark(index, Unavailable::Ejected, true, now),
                Action::Return => {
                    self.members[index].streak.reset();
                    self.mark(index, Unavailable::Ejected, false, now);
                }
            }
        }
    }

    fn mark(&mut self, index: usize, reason: Unavailable, holds: bool, now: Instant) {
        let member = &self.members[index];
        if member.endpoint.set_unavailable(reason, holds) {
            if !holds && member.endpoint.available() {
                member.endpoint.on_join(now);
            }
            self.stale = true;
        }
    }

    /// An answer asked for no new requests.
    pub(crate) fn on_lame_duck(&mut self, member: u32, now: Instant) {
        self.members[member as usize].lapses = now.after(LAME_DUCK_LAPSE);
        self.mark(member as usize, Unavailable::LameDuck, true, now);
    }

    /// When it is to be looked after.
    pub(crate) fn poll_timeout(&self) -> Instant {
        let ejector = self.ejector.as_ref().map_or(Instant::NEVER, Ejector::poll_timeout);
        let member = |member: &Member| {
            let check = member.health.as_ref().map_or(Instant::NEVER, Health::poll_timeout);
            check.min(member.lapses)
        };
        self.members.iter().map(member).fold(ejector, Instant::min)
    }

    /// Does what is due; answers the members whose health is to be asked for.
    pub(crate) fn control(&mut self, trips_at: u32, now: Instant) -> Vec<u32> {
        if let Some(ejector) = &mut self.ejector {
            let returned = ejector.on_timeout(now);
            let due = ejector.interval_due(now);
            self.decide(returned, now);
            if due {
                self.compare(trips_at, now);
            }
        }
        let mut due = Vec::new();
        for index in 0..self.members.len() {
            if self.members[index].lapses <= now {
                self.members[index].lapses = Instant::NEVER;
                self.mark(index, Unavailable::LameDuck, false, now);
            }
            let Self { members, rng, .. } = self;
            let member = &mut members[index];
            let Some(health) = &mut member.health else { continue };
            if health.poll_timeout() > now {
                continue;
            }
            let totals = member.endpoint.totals();
            let interval = totals.since(member.looked);
            member.looked = totals;
            if interval.successes > interval.failures && member.endpoint.available() {
                health.on_traffic_success(now, rng);
            } else {
                health.on_start(now, rng);
                due.push(index as u32);
            }
        }
        due
    }

    fn compare(&mut self, trips_at: u32, now: Instant) {
        let Some(ejector) = &mut self.ejector else { return };
        let observe = |member: &mut Member| {
            let totals = member.endpoint.totals();
            let interval = totals.since(member.compared);
            member.compared = totals;
            let mut reasons = member.endpoint.reasons();
            Observation {
                key: member.endpoint.key(),
                usable: reasons.all(|reason| reason == Unavailable::Ejected),
                calls: interval.successes + interval.overloads + interval.failures,
                failures: interval.failures,
                latency: interval.latency_mean(),
            }
        };
        let observations: Vec<_> = self.members.iter_mut().map(observe).collect();
        let decisions = ejector.on_interval(now, &observations, &mut self.rng);
        self.decide(decisions, now);
        // What bounds forbade may be allowed now.
        for index in 0..self.members.len() {
            if trips_at > 0 && self.members[index].streak.failures() >= trips_at {
                self.on_streak(index as u32, now);
            }
        }
    }

    /// A health check was answered.
    pub(crate) fn on_checked(&mut self, index: u32, ok: bool, lame_duck: bool, now: Instant) {
        let index = index as usize;
        let Some(health) = &mut self.members[index].health else { return };
        match health.on_check(ok, now) {
            Some(Change::Healthy) => self.mark(index, Unavailable::Unhealthy, false, now),
            Some(Change::Unhealthy) => self.mark(index, Unavailable::Unhealthy, true, now),
            None => {}
        }
        if ok && lame_duck {
            self.on_lame_duck(index as u32, now);
        } else if ok && self.members[index].endpoint.is_unavailable(Unavailable::LameDuck) {
            self.members[index].lapses = Instant::NEVER;
            self.mark(index, Unavailable::LameDuck, false, now);
        }
    }
}

/// Endpoints that a call has been to, or could not go to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    list: [u32; 16],
    len: u8,
}

impl Tried {
    pub(crate) fn push(&mut self, member: u32) {
        if let Some(place) = self.list.get_mut(usize::from(self.len)) {
            *place = member;
            self.len += 1;
        }
    }

    pub(crate) fn as_slice(&self) -> &[u32] {
        &self.list[..usize::from(self.len)]
    }
}

/// The policies that hold: with policies off, callers only balance, wait, and retry without a budget.
pub(crate) fn effective(params: &ServicePolicies) -> ServicePolicies {
    let mut params = params.clone();
    if !params.enabled {
        params.panic_below = Ratio::ZERO;
        params.active_per_endpoint = u32::MAX;
        params.slow_start = policy::slow_start::SlowStartParams::OFF;
        params.health = None;
        params.ejection.enabled = false;
        params.breaker.enabled = false;
        params.endpoint_breaker.enabled = false;
        params.throttle.enabled = false;
        params.admission.enabled = false;
        params.bulkhead.active_max = u32::MAX;
        params.retry_budget = None;
        params.hedge = None;
    }
    params
}
