//! Whether a call may go on: its customer's rate, the service's breaker, admission, the service's bulkhead, the
//! throttle, in the order of the gateway's road: what is refused cheaply is refused first, and what is refused here does
//! not count against the service.

use std::time::Duration;

use model::{Deadline, Instant};
use policy::admission::{End, Entry, Shed as Why, Ticket, Who};
use policy::breaker::CallEnd;
use policy::bulkhead::Admission as Place;
use policy::callers::Advice;
use policy::queue::{Evicted, Full, Waiter};

use super::queue::Event;
use super::slab::Id;
use super::{Call, Outcome, Parent, Stage, Way, World};
use crate::report::Shed;

/// Whoever gives up after so many times what an answer takes has met a service that is overloaded.
const PATIENCE: u32 = 4;

/// What the end of a call says to throttle and admission, as in the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lesson {
    /// Answered well, this long after the attempt was sent.
    Good(Duration),
    /// Answered with an error of the service's own, which says nothing about how long the work takes.
    Ill,
    /// Refused for overload, or not answered in the time that we grant.
    Overloaded,
    /// The connection broke.
    Broken,
    /// It never got there. Breakers and ejection see to endpoints that are down.
    Unreached,
    /// Nobody waits any more, or it was refused here before it was sent: whether the service would have answered will never
    /// be known.
    Unknown,
}

impl World {
    /// Somebody calls a service and will have gone away at `leaves`.
    pub(super) fn start_call(
        &mut self,
        parent: Parent,
        road: u32,
        way: Way,
        caller_deadline: Deadline,
        leaves: Instant,
        attempts_before: u32,
    ) {
        let service = self.roads[road as usize].service as usize;
        let timeout = match parent {
            Parent::Request(_) => self.sources[usize::from(way.traffic)].params.route.timeout,
            Parent::Job(_) => None,
        };
        let timeout = timeout.unwrap_or(self.services[service].policies.timeouts.request);
        let deadline = caller_deadline.sooner(Deadline::within(self.now, timeout.get()));
        let id = self.calls.insert(Call {
            parent,
            road,
            way,
            started: self.now,
            deadline,
            hurried: deadline == caller_deadline,
            leaves,
            attempts_before,
            sent: None,
            permit: None,
            ticket: None,
            queued: None,
            stage: Stage::Outside,
            attempts: 0,
            live: [None; 2],
            tried: Default::default(),
        });
        if let Parent::Request(request) = parent
            && let Some(request) = self.requests.get_mut(request)
        {
            request.call = id;
        }
        match self.admit(id) {
            Ok(true) => self.ask_bulkhead(id),
            Ok(false) => {}
            Err(shed) => self.shed(id, shed, Lesson::Unknown),
        }
    }

    /// Whether the call has its place by admission; `false` when it waits for one.
    fn admit(&mut self, id: Id<Call>) -> Result<bool, Shed> {
        let Some(call) = self.calls.get_mut(id) else { return Ok(false) };
        let now = self.now;
        if call.deadline.expired(now) {
            return Err(Shed::Deadline);
        }
        let road = &mut self.roads[call.road as usize];
        road.callers.on_request(0, call.attempts_before + 1, now);
        let params = &self.services[road.service as usize].policies;
        if let Parent::Request(_) = call.parent {
            let own = &self.sources[usize::from(call.way.traffic)].params.route;
            if let Some(limiter) = &road.route(call.way.traffic, own, params, now).limiter {
                limiter.try_take(now, call.way.customer, 1.0).map_err(|_| Shed::RateLimit)?;
            }
        }
        if let Some(breaker) = &road.breaker {
            call.permit = Some(breaker.try_enter(0, now, &mut road.rng).map_err(|_| Shed::Breaker)?);
        }
        let Some(admission) = &road.admission else { return Ok(true) };
        let who = who(call);
        match admission.try_enter(0, &who, now) {
            Entry::Enter(ticket) => {
                call.ticket = Some(ticket);
                Ok(true)
            }
            Entry::Refuse(Why::Deadline) => Err(Shed::Deadline),
            Entry::Refuse(_) => Err(Shed::Admission),
            Entry::Wait => match road.queue.push(
                now,
                admission.limit(),
                admission.base_latency(),
                Waiter { who, value: id },
            ) {
                Ok((queued, evicted)) => {
                    (call.stage, call.queued) = (Stage::Queued, Some(queued));
                    let index = call.road;
                    if let Some(Evicted(waiter)) = evicted {
                        admission.give_up(&waiter.who);
                        self.shed_waiter(waiter.value, Shed::Admission);
                    }
                    self.plan_queue(index);
                    Ok(false)
                }
                Err(Full(waiter)) => {
                    admission.give_up(&waiter.who);
                    Err(Shed::Admission)
                }
            },
        }
    }

    /// Plans when the queue of a road is looked after next, unless that is planned already.
    fn plan_queue(&mut self, index: u32) {
        let road = &mut self.roads[index as usize];
        let Some(admission) = &road.admission else { return };
        let due = road.queue.poll_timeout(admission.base_latency()).unwrap_or(Instant::NEVER);
        if due < road.queue_at {
            road.queue_at = due;
            self.queue.plan(due.max(self.now), Event::Queue { road: index });
        }
    }

    pub(super) fn on_queue(&mut self, index: u32) {
        let road = &mut self.roads[index as usize];
        if road.queue_at > self.now {
            // Planned before something sooner was.
            return;
        }
        road.queue_at = Instant::NEVER;
        let Some(admission) = &road.admission else { return };
        let mut gone = Vec::new();
        road.queue.expire(self.now, admission.base_latency(), &mut |waiter, why| gone.push((waiter, why)));
        self.send_away(index, gone);
        self.plan_queue(index);
    }

    /// Those that admission's queue gave up are told.
    fn send_away(&mut self, index: u32, gone: Vec<(Waiter<Id<Call>>, Why)>) {
        for (waiter, why) in gone {
            if let Some(admission) = &self.roads[index as usize].admission {
                admission.give_up(&waiter.who);
            }
            let why = if why == Why::Deadline { Shed::Deadline } else { Shed::Admission };
            self.shed_waiter(waiter.value, why);
        }
    }

    /// A call that is no longer in the queue is refused.
    fn shed_waiter(&mut self, id: Id<Call>, why: Shed) {
        if let Some(call) = self.calls.get_mut(id) {
            (call.stage, call.queued) = (Stage::Outside, None);
            self.shed(id, why, Lesson::Unknown);
        }
    }

    /// Asks for a place in the bulkhead.
    fn ask_bulkhead(&mut self, id: Id<Call>) {
        let Some(call) = self.calls.get_mut(id) else { return };
        let road = &mut self.roads[call.road as usize];
        match road.bulkhead.as_ref().map_or(Place::Enter, |bulkhead| bulkhead.try_enter(0)) {
            Place::Enter => self.go_in(id),
            Place::Wait => {
                call.stage = Stage::Waiting;
                road.waiting.push_back(id);
                let wait_max = self.services[road.service as usize].policies.bulkhead.wait_max;
                let until = self.now.after(wait_max.get()).min(call.deadline.instant());
                self.queue.plan(until, Event::WaitOver { call: id });
            }
            Place::Refuse => self.shed(id, Shed::Bulkhead, Lesson::Unknown),
        }
    }

    /// The call holds a place: unless the throttle knows better it counts, and makes its first attempt.
    fn go_in(&mut self, id: Id<Call>) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.stage = Stage::Inside;
        let index = call.road;
        let road = &mut self.roads[index as usize];
        if let Some(throttle) = &road.throttle
            && throttle.try_send(0, call.way.class, self.now, &mut road.rng).is_err()
        {
            return self.shed(id, Shed::Throttle, Lesson::Unknown);
        }
        call.sent = Some(self.now);
        if let Some(budget) = &road.budget {
            budget.on_request(0);
        }
        for _ in 0..road.balancer.probes(&mut road.rng) {
            let candidates = road.fleet.candidates();
            if !candidates.is_empty() {
                let member = candidates[road.rng.usize(..candidates.len())];
                self.queue.plan(self.now.after(self.network), Event::Probed { road: index, member });
            }
        }
        self.send(id);
    }

    /// A place may have become free: whoever is next gets it.
    pub(super) fn wake(&mut self, index: u32) {
        while let Some((id, ticket)) = self.next_queued(index) {
            if let Some(call) = self.calls.get_mut(id) {
                (call.stage, call.queued, call.ticket) = (Stage::Outside, None, Some(ticket));
                self.ask_bulkhead(id);
            }
        }
        self.wake_bulkhead(index);
    }

    /// Whoever is next in admission's queue, if there is a place.
    fn next_queued(&mut self, index: u32) -> Option<(Id<Call>, Ticket)> {
        let road = &mut self.roads[index as usize];
        let admission = road.admission.as_ref()?;
        let mut gone = Vec::new();
        let enter = |who: &Who| admission.try_enter_waiting(0, who, self.now);
        let latency = admission.base_latency();
        let found = road.queue.pop(self.now, latency, enter, &mut |waiter, why| gone.push((waiter, why)));
        self.send_away(index, gone);
        found.map(|(waiter, ticket)| (waiter.value, ticket))
    }

    fn wake_bulkhead(&mut self, road: u32) {
        loop {
            let road = &mut self.roads[road as usize];
            let Some(bulkhead) = &road.bulkhead else { return };
            let Some(&next) = road.waiting.front() else { return };
            if self.calls.get(next).is_none_or(|call| call.stage != Stage::Waiting) {
                road.waiting.pop_front();
                continue;
            }
            if !bulkhead.try_enter_waiting(0) {
                return;
            }
            road.waiting.pop_front();
            self.go_in(next);
        }
    }

    /// A call has waited long enough.
    pub(super) fn on_wait_over(&mut self, id: Id<Call>) {
        let Some(call) = self.calls.get(id).filter(|call| call.stage == Stage::Waiting) else { return };
        let late = call.deadline.expired(self.now);
        self.shed(id, if late { Shed::Deadline } else { Shed::Bulkhead }, Lesson::Unknown);
    }

    /// A policy refuses the call.
    pub(super) fn shed(&mut self, id: Id<Call>, shed: Shed, lesson: Lesson) {
        let Some(call) = self.calls.get(id) else { return };
        let road = &self.roads[call.road as usize];
        let service = road.service as usize;
        self.recorder.on_shed(self.now, call.way.who(), service, shed);
        let status = match shed {
            Shed::RateLimit => 429,
            Shed::Deadline => 504,
            _ => 503,
        };
        let dont_retry = match shed {
            Shed::NoEndpoint => false,
            // Another gateway may have room, while few callers come from elsewhere.
            Shed::Admission | Shed::Throttle => road.callers.advice(self.now) == Advice::Never,
            Shed::RateLimit | Shed::Breaker | Shed::Bulkhead | Shed::Deadline => true,
        };
        let outcome = Outcome { status, dont_retry, shed: Some(shed) };
        // A service that is too slow for its route failed, though it was us who gave up.
        let end = if lesson == Lesson::Overloaded { CallEnd::Failure } else { CallEnd::Ignored };
        self.end_call(id, outcome, end, lesson);
    }

    /// The call is over: what it held is given back, and whoever waits for it is told.
    pub(super) fn end_call(&mut self, id: Id<Call>, outcome: Outcome, end: CallEnd, lesson: Lesson) {
        let Some(call) = self.leave(id, end, lesson) else { return };
        let road = &mut self.roads[call.road as usize];
        if outcome.good() {
            let params = &self.services[road.service as usize].policies;
            let own = match call.parent {
                Parent::Request(_) => &self.sources[usize::from(call.way.traffic)].params.route,
                Parent::Job(_) => &self.no_route,
            };
            if let Some(hedge) = &road.route(call.way.traffic, own, params, self.now).hedge {
                hedge.on_latency(0, self.now, self.now.since(call.started));
            }
        }
        match call.parent {
            Parent::Request(request) => self.on_answered(request, outcome),
            Parent::Job(job) => self.on_called(job, outcome),
        }
    }

    /// Whoever waits for the call has gone away.
    pub(super) fn cancel(&mut self, id: Id<Call>) {
        self.leave(id, CallEnd::Ignored, Lesson::Unknown);
    }

    /// Takes the call out, and gives back what it held.
    fn leave(&mut self, id: Id<Call>, end: CallEnd, lesson: Lesson) -> Option<Call> {
        let live = self.calls.get(id)?.live;
        for attempt in live.into_iter().flatten() {
            self.drop_attempt(id, attempt.number);
        }
        let call = self.calls.remove(id)?;
        let road = &mut self.roads[call.road as usize];
        if let (Some(breaker), Some(permit)) = (&road.breaker, call.permit) {
            let latency = if end == CallEnd::Ignored { Duration::ZERO } else { self.now.since(call.started) };
            breaker.on_end(permit, self.now, end, latency, &mut road.rng);
        }
        if let (Some(throttle), Some(sent)) = (&road.throttle, call.sent) {
            match lesson {
                Lesson::Good(_) | Lesson::Ill | Lesson::Unreached => {
                    throttle.on_accept(0, call.way.class, sent, self.now);
                }
                Lesson::Overloaded | Lesson::Broken => throttle.on_failure(0, call.way.class, sent),
                Lesson::Unknown => {}
            }
        }
        let mut wakes = false;
        if let Some(admission) = &road.admission {
            if let Some(ticket) = call.ticket {
                let waited = call.sent.map_or(Duration::ZERO, |sent| self.now.since(sent));
                let base = admission.base_latency();
                let end = match lesson {
                    Lesson::Good(latency) => End::Success(latency),
                    Lesson::Overloaded => End::Dropped,
                    Lesson::Unknown if !base.is_zero() && waited > base * PATIENCE => End::Dropped,
                    Lesson::Ill | Lesson::Broken | Lesson::Unreached | Lesson::Unknown => End::Ignored,
                };
                wakes |= admission.leave(0, ticket, self.now, end);
            }
            if let Some(waiter) = call.queued.and_then(|queued| road.queue.remove(queued)) {
                admission.give_up(&waiter.who);
            }
        }
        if let Some(bulkhead) = &road.bulkhead {
            match call.stage {
                Stage::Inside => wakes |= bulkhead.leave(0),
                Stage::Waiting => bulkhead.give_up(),
                Stage::Outside | Stage::Queued => {}
            }
        }
        if wakes {
            self.queue.plan(self.now, Event::Wake { road: call.road });
        }
        Some(call)
    }
}

fn who(call: &Call) -> Who {
    Who { class: call.way.class, customer: call.way.customer, deadline: call.deadline }
}
