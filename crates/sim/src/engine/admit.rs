//! Whether a call may go on: its customer's rate, the service's breaker, the service's bulkhead, in the order of the
//! gateway's road, so that what is refused cheaply is refused first.

use std::time::Duration;

use model::{Deadline, Instant};
use policy::breaker::CallEnd;
use policy::bulkhead::Admission;

use super::queue::Event;
use super::slab::Id;
use super::{Call, Outcome, Parent, Stage, Way, World};
use crate::report::Shed;

impl World {
    /// Somebody calls a service and will have gone away at `leaves`.
    pub(super) fn start_call(
        &mut self,
        parent: Parent,
        road: u32,
        way: Way,
        caller_deadline: Deadline,
        leaves: Instant,
    ) {
        let service = self.roads[road as usize].service as usize;
        let timeout = match parent {
            Parent::Request(_) => self.sources[usize::from(way.traffic)].params.route.timeout,
            Parent::Job(_) => None,
        };
        let timeout = timeout.unwrap_or(self.services[service].policies.timeouts.request);
        let id = self.calls.insert(Call {
            parent,
            road,
            way,
            started: self.now,
            deadline: caller_deadline.sooner(Deadline::within(self.now, timeout.get())),
            leaves,
            permit: None,
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
            Ok(true) => self.go_in(id),
            Ok(false) => {}
            Err(shed) => self.shed(id, shed),
        }
    }

    /// Whether the call goes in now; `false` when it waits.
    fn admit(&mut self, id: Id<Call>) -> Result<bool, Shed> {
        let Some(call) = self.calls.get_mut(id) else { return Ok(false) };
        let now = self.now;
        if call.deadline.expired(now) {
            return Err(Shed::Deadline);
        }
        let road = &mut self.roads[call.road as usize];
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
        match road.bulkhead.as_ref().map_or(Admission::Enter, |bulkhead| bulkhead.try_enter(0)) {
            Admission::Enter => {}
            Admission::Wait => {
                call.stage = Stage::Waiting;
                road.waiting.push_back(id);
                let until = now.after(params.bulkhead.wait_max.get()).min(call.deadline.instant());
                self.queue.plan(until, Event::WaitOver { call: id });
                return Ok(false);
            }
            Admission::Refuse => return Err(Shed::Bulkhead),
        }
        Ok(true)
    }

    /// The call holds a place: it counts, and makes its first attempt.
    fn go_in(&mut self, id: Id<Call>) {
        let Some(call) = self.calls.get_mut(id) else { return };
        call.stage = Stage::Inside;
        let index = call.road;
        let road = &mut self.roads[index as usize];
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

    /// A place may have become free: the oldest that waits gets it.
    pub(super) fn wake(&mut self, road: u32) {
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
        self.shed(id, if late { Shed::Deadline } else { Shed::Bulkhead });
    }

    /// A policy refuses the call.
    pub(super) fn shed(&mut self, id: Id<Call>, shed: Shed) {
        let Some(call) = self.calls.get(id) else { return };
        let service = self.roads[call.road as usize].service as usize;
        self.recorder.on_shed(self.now, call.way.who(), service, shed);
        let status = match shed {
            Shed::RateLimit => 429,
            Shed::Deadline => 504,
            _ => 503,
        };
        // A caller that tries again at once meets the same refusal; only an endpoint may be better off elsewhere.
        let dont_retry = !matches!(shed, Shed::NoEndpoint | Shed::Deadline);
        self.end_call(id, Outcome { status, dont_retry, shed: Some(shed) }, CallEnd::Ignored);
    }

    /// The call is over: what it held is given back, and whoever waits for it is told.
    pub(super) fn end_call(&mut self, id: Id<Call>, outcome: Outcome, end: CallEnd) {
        let Some(call) = self.leave(id, end) else { return };
        if outcome.good() {
            let road = &mut self.roads[call.road as usize];
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
        self.leave(id, CallEnd::Ignored);
    }

    /// Takes the call out, and gives back what it held.
    fn leave(&mut self, id: Id<Call>, end: CallEnd) -> Option<Call> {
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
        if let Some(bulkhead) = &road.bulkhead {
            match call.stage {
                Stage::Inside => {
                    if bulkhead.leave(0) {
                        self.queue.plan(self.now, Event::Wake { road: call.road });
                    }
                }
                Stage::Waiting => bulkhead.give_up(),
                Stage::Outside => {}
            }
        }
        Some(call)
    }
}
