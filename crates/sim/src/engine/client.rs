//! Clients: what they want, how long they wait, and what they try again by themselves.

use std::time::Duration;

use model::{Deadline, Retry};
use policy::attempts::{Condition, Decision, Facts, Failure, decide};

use super::queue::Event;
use super::slab::Id;
use super::{Call, Outcome, Parent, Request, Wait, Way, World, arrivals};
use crate::report::Ending;
use crate::scenario::Arrival;

impl World {
    /// A request arrives, and the next one of its traffic is planned.
    pub(super) fn on_arrival(&mut self, traffic: u32) {
        let source = &mut self.sources[traffic as usize];
        let client = source.arrivals.u32(..source.params.clients);
        if !matches!(source.params.arrival, Arrival::Herd { .. }) {
            self.plan_next_arrival(traffic);
        }
        self.start_request(traffic, client);
    }

    pub(super) fn plan_next_arrival(&mut self, traffic: u32) {
        let source = &mut self.sources[traffic as usize];
        let params = &source.params;
        if let Some(at) =
            arrivals::next(&params.arrival, params.even, self.now, self.end, &mut source.arrivals)
        {
            self.queue.plan(at, Event::Arrive { traffic });
        }
    }

    /// A client of a closed loop asks again.
    pub(super) fn on_thought(&mut self, traffic: u32, client: u32) {
        if self.now < self.end {
            self.start_request(traffic, client);
        }
    }

    fn start_request(&mut self, traffic: u32, client: u32) {
        let source = &mut self.sources[traffic as usize];
        let rng = &mut source.arrivals;
        let mut drawn = rng.f64() * source.shares;
        let classes = &source.params.classes;
        let class = classes.iter().find(|part| {
            drawn -= part.share;
            drawn < 0.0
        });
        let customer = rng.u32(..source.params.customers.max(1));
        let way = Way {
            traffic: traffic as u16,
            class: class.or(classes.last()).map(|part| part.class).unwrap_or_default(),
            idempotent: rng.f64() < source.params.idempotent.get(),
            customer: policy::mix(source.salt ^ u64::from(customer)),
        };
        if let Some(budget) = source.budgets.get(client as usize) {
            budget.on_request(0);
        }
        self.recorder.on_arrival(self.now, way.who());
        let request = Request { way, client, started: self.now, tries: 0, call: Id::NONE };
        let request = self.requests.insert(request);
        self.start_try(request);
    }

    /// The client sends its request, for the first time or once more.
    pub(super) fn start_try(&mut self, id: Id<Request>) {
        let Some(request) = self.requests.get_mut(id) else { return };
        request.tries = request.tries.saturating_add(1);
        let (way, number, client) = (request.way, request.tries, request.client);
        let source = &mut self.sources[usize::from(way.traffic)];
        let caller = if self.gateways > 0 { source.rng.u32(..source.callers) } else { client };
        let road = source.roads + caller;
        let leaves = self.now.after(source.params.timeout.get());
        let deadline = if source.params.tells_deadline { Deadline::at(leaves) } else { Deadline::NONE };
        source.patience.push_back(Wait { until: leaves, request: id, number });
        if !source.patience_planned {
            source.patience_planned = true;
            self.queue.plan(leaves, Event::Patience { traffic: u32::from(way.traffic) });
        }
        if number > 1 {
            self.recorder.on_client_retry(self.now, way.who());
        }
        // Who does not heed what a gateway says of retries tells it nothing of them either.
        let before = if source.params.heeds_dont_retry { u32::from(number) - 1 } else { 0 };
        self.start_call(Parent::Request(id), road, way, deadline, leaves, before);
    }

    /// Lets those clients go that have waited long enough, and looks for the next that may.
    pub(super) fn on_patience(&mut self, traffic: u32) {
        while let Some(&Wait { until, request, number }) = self.sources[traffic as usize].patience.front() {
            let waits = self.requests.get(request).filter(|request| request.tries == number);
            let call = waits.map_or(Id::NONE, |request| request.call);
            if call != Id::NONE && until > self.now {
                return self.queue.plan(until, Event::Patience { traffic });
            }
            self.sources[traffic as usize].patience.pop_front();
            if call != Id::NONE {
                self.stop_waiting(request, call);
            }
        }
        self.sources[traffic as usize].patience_planned = false;
    }

    /// A client stops waiting for a try: whoever works on it finds it gone.
    fn stop_waiting(&mut self, id: Id<Request>, call: Id<Call>) {
        self.cancel(call);
        if let Some(request) = self.requests.get_mut(id) {
            request.call = Id::NONE;
        }
        self.after_try(id, Failure::NoAnswer(Condition::Timeout), false, Ending::TimedOut);
    }

    /// A try was answered.
    pub(super) fn on_answered(&mut self, id: Id<Request>, outcome: Outcome) {
        let Some(request) = self.requests.get_mut(id) else { return };
        request.call = Id::NONE;
        if outcome.good() {
            return self.end_request(id, Ending::Success);
        }
        let ending = if outcome.shed.is_some() { Ending::Refused } else { Ending::Failed };
        self.after_try(id, Failure::Status(outcome.status), outcome.dont_retry, ending);
    }

    fn after_try(&mut self, id: Id<Request>, failure: Failure, dont_retry: bool, ending: Ending) {
        let Some(request) = self.requests.get(id) else { return };
        let source = &mut self.sources[usize::from(request.way.traffic)];
        if let Some(params) = &source.params.retry {
            let facts = Facts {
                attempts: u32::from(request.tries),
                failure,
                retry: Retry::IfIdempotent,
                idempotent: request.way.idempotent,
                dont_retry: dont_retry && source.params.heeds_dont_retry,
                body_replayable: true,
                deadline_left: Duration::MAX,
            };
            let budget = source.budgets.get(request.client as usize);
            let decision = decide(params, &facts, budget.as_slice(), self.now, &mut source.rng);
            if let Decision::Retry { delay, .. } = decision {
                return self.queue.plan(self.now.after(delay), Event::ClientRetry { request: id });
            }
        }
        self.end_request(id, ending);
    }

    fn end_request(&mut self, id: Id<Request>, ending: Ending) {
        let Some(Request { way, client, started, .. }) = self.requests.remove(id) else { return };
        self.recorder.on_end(self.now, way.who(), ending, self.now.since(started));
        let source = &mut self.sources[usize::from(way.traffic)];
        if let Arrival::Closed { think } = source.params.arrival {
            let nanos = think.get().as_nanos() as f64 * arrivals::exponential(&mut source.rng);
            let at = self.now.after(Duration::from_nanos(nanos as u64));
            self.queue.plan(at, Event::Thought { traffic: u32::from(way.traffic), client });
        }
    }
}
