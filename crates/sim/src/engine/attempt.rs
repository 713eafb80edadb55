//! Attempts: pick an endpoint, send, and wait; retry or hedge while budget and deadline allow.

use model::{Deadline, Instant, Retry, Verdict};
use policy::Ended;
use policy::attempts::{Condition, Decision, Facts, Failure, decide};
use policy::breaker::CallEnd;

use super::admit::Lesson;
use super::queue::Event;
use super::road::Picked;
use super::slab::Id;
use super::{Attempt, Call, Outcome, Parent, Stage, World};
use crate::report::Shed;

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// An answer of this status; whether it says "overloaded, don't retry".
    Status(u16, bool),
    /// None.
    Nothing(Condition),
    /// Time ran out for the whole call, which says nothing about the endpoint.
    Deadline,
}

impl Answer {
    pub(super) const GOOD: Self = Self::Status(200, false);

    fn verdict(self) -> Verdict {
        match self {
            Self::Status(429 | 503, _) | Self::Status(500..=599, true) => Verdict::Overloaded,
            Self::Status(500..=599, false) | Self::Nothing(_) => Verdict::Failure,
            Self::Status(..) => Verdict::Success,
            Self::Deadline => Verdict::Unknown,
        }
    }
}

impl World {
    /// Sends the next attempt of a call.
    pub(super) fn send(&mut self, id: Id<Call>) {
        let Some(call) = self.calls.get(id) else { return };
        let road = &self.roads[call.road as usize];
        let policies = &self.services[road.service as usize].policies;
        if call.deadline.to_pass_on(self.now, policies.timeouts.deadline_margin.get()).is_none() {
            let lesson = if call.hurried { Lesson::Unknown } else { Lesson::Overloaded };
            return self.shed(id, Shed::Deadline, lesson);
        }
        let picked = match self.pick(id) {
            Ok(picked) => picked,
            Err(shed) => return self.shed(id, shed, Lesson::Unreached),
        };
        self.fly(id, picked);
        let Some(call) = self.calls.get(id) else { return };
        if call.attempts == 1 && call.way.idempotent {
            let road = &mut self.roads[call.road as usize];
            let params = &self.services[road.service as usize].policies;
            let own = match call.parent {
                Parent::Request(_) => &self.sources[usize::from(call.way.traffic)].params.route,
                Parent::Job(_) => &self.no_route,
            };
            let route = road.route(call.way.traffic, own, params, self.now);
            if let Some(delay) = route.hedge.as_ref().and_then(|hedge| hedge.delay()) {
                self.queue.plan(self.now.after(delay), Event::Hedge { call: id });
            }
        }
    }

    fn pick(&mut self, id: Id<Call>) -> Result<Picked, Shed> {
        let call = self.calls.get_mut(id).ok_or(Shed::NoEndpoint)?;
        let road = &mut self.roads[call.road as usize];
        let params = &self.services[road.service as usize].policies;
        road.pick(params, call.way.traffic, call.way.customer, &mut call.tried, self.now)
    }

    /// Puts an attempt on its way.
    fn fly(&mut self, id: Id<Call>, picked: Picked) {
        let Some(call) = self.calls.get_mut(id) else { return };
        let road = &self.roads[call.road as usize];
        let service = &self.services[road.service as usize];
        let timeouts = &service.policies.timeouts;
        let edge = matches!(call.parent, Parent::Request(_));
        let own = edge.then(|| self.sources[usize::from(call.way.traffic)].params.route.retry.as_ref());
        let retry = own.flatten().unwrap_or(&service.policies.retry);
        call.attempts = call.attempts.saturating_add(1);
        call.tried.push(picked.member);
        let number = call.attempts;
        let over = self.now.after(retry.attempt_timeout.unwrap_or(timeouts.attempt).get());
        let told = call.deadline.instant().before(timeouts.deadline_margin.get()).min(over);
        let attempt = Attempt {
            number,
            member: picked.member,
            permit: picked.permit,
            started: self.now,
            deadline: Deadline::at(told),
            job: Id::NONE,
        };
        let Some(place) = call.live.iter_mut().find(|place| place.is_none()) else {
            unreachable!("a call has at most one hedge")
        };
        *place = Some(attempt);
        let server = road.members[picked.member as usize].server - service.first;
        let who = call.way.who();
        self.recorder.on_attempt(self.now, who, road.service as usize, server as usize, !edge);
        self.queue.plan(self.now.after(self.network), Event::Reach { call: id, number });
        let over = over.min(call.deadline.instant());
        // Who leaves no later than that ends the attempt by leaving.
        if over < call.leaves {
            self.queue.plan(over, Event::AttemptTimeout { call: id, number });
        }
    }

    /// The first attempt is late: a second one, if a budget pays for it.
    pub(super) fn on_hedge(&mut self, id: Id<Call>) {
        let Some(call) = self.calls.get(id) else { return };
        let first_flies = call.live.iter().flatten().any(|attempt| attempt.number == 1);
        if call.attempts != 1 || !first_flies {
            return;
        }
        let before = call.tried;
        let Ok(picked) = self.pick(id) else { return };
        let Some(call) = self.calls.get(id) else { return };
        let road = &mut self.roads[call.road as usize];
        let paid = !before.as_slice().contains(&picked.member)
            && road.budget.as_ref().is_none_or(|budget| budget.try_retry(self.now));
        if paid {
            self.fly(id, picked);
        } else {
            let index = call.road;
            self.release(index, call.way.traffic, &picked, None, Verdict::Unknown);
        }
    }

    /// An attempt's time is over, or that of the whole call.
    pub(super) fn on_attempt_timeout(&mut self, id: Id<Call>, number: u8) {
        let Some(call) = self.calls.get(id) else { return };
        let late = call.deadline.expired(self.now);
        self.on_attempt_end(
            id,
            number,
            if late { Answer::Deadline } else { Answer::Nothing(Condition::Timeout) },
        );
    }

    /// An attempt has ended.
    pub(super) fn on_attempt_end(&mut self, id: Id<Call>, number: u8, answer: Answer) {
        let Some(attempt) = self.take_attempt(id, number) else { return };
        let Some(call) = self.calls.get_mut(id) else { return };
        let road = call.road;
        let picked = Picked { member: attempt.member, permit: attempt.permit };
        let traffic = call.way.traffic;
        let verdict = answer.verdict();
        self.release(road, traffic, &picked, Some(attempt.started), verdict);
        if !matches!(answer, Answer::Status(..)) {
            self.abandon(attempt.job);
        }
        let Some(call) = self.calls.get(id) else { return };
        if let Answer::Status(status @ ..400, _) = answer {
            let latency = self.now.since(attempt.started);
            return self.end_call(id, Outcome::of(status), CallEnd::Success, Lesson::Good(latency));
        }
        let (status, dont_retry) = match answer {
            Answer::Status(status, dont_retry) => (status, dont_retry),
            Answer::Nothing(Condition::Timeout) => (504, false),
            Answer::Nothing(_) => (502, false),
            Answer::Deadline => {
                let outcome = Outcome { status: 504, dont_retry: true, shed: None };
                let (end, lesson) = match call.hurried {
                    true => (CallEnd::Ignored, Lesson::Unknown),
                    false => (CallEnd::Failure, Lesson::Overloaded),
                };
                return self.end_call(id, outcome, end, lesson);
            }
        };
        if call.live.iter().any(Option::is_some) {
            // The other one may still do better.
            return;
        }
        if self.retry(id, answer, dont_retry) {
            return;
        }
        let end = if dont_retry { CallEnd::Ignored } else { CallEnd::Failure };
        let lesson = match answer {
            Answer::Nothing(Condition::ConnectFailure) => Lesson::Unreached,
            Answer::Nothing(Condition::Reset) => Lesson::Broken,
            _ if verdict == Verdict::Overloaded || answer == Answer::Nothing(Condition::Timeout) => {
                Lesson::Overloaded
            }
            _ => Lesson::Ill,
        };
        self.end_call(id, Outcome { status, dont_retry, shed: None }, end, lesson);
    }

    /// Plans another attempt, if there is to be one.
    fn retry(&mut self, id: Id<Call>, answer: Answer, dont_retry: bool) -> bool {
        let Some(call) = self.calls.get(id) else { return false };
        let road = &mut self.roads[call.road as usize];
        let service = &self.services[road.service as usize];
        let own = match call.parent {
            Parent::Request(_) => self.sources[usize::from(call.way.traffic)].params.route.retry.as_ref(),
            Parent::Job(_) => None,
        };
        let params = own.unwrap_or(&service.policies.retry);
        let (failure, retry) = match answer {
            Answer::Status(status, _) => (Failure::Status(status), Retry::IfIdempotent),
            Answer::Nothing(Condition::ConnectFailure) => {
                (Failure::NoAnswer(Condition::ConnectFailure), Retry::Safe)
            }
            Answer::Nothing(condition) => (Failure::NoAnswer(condition), Retry::IfIdempotent),
            Answer::Deadline => return false,
        };
        let facts = Facts {
            attempts: u32::from(call.attempts),
            failure,
            retry,
            idempotent: call.way.idempotent,
            dont_retry: dont_retry && service.policies.enabled,
            body_replayable: true,
            deadline_left: call.deadline.left(self.now),
        };
        match decide(params, &facts, road.budget.as_ref().as_slice(), self.now, &mut road.rng) {
            Decision::Retry { delay, .. } => {
                self.queue.plan(self.now.after(delay), Event::Retry { call: id });
                true
            }
            Decision::Stop(_) => false,
        }
    }

    /// An attempt that nobody wants any more.
    pub(super) fn drop_attempt(&mut self, id: Id<Call>, number: u8) {
        let Some(attempt) = self.take_attempt(id, number) else { return };
        if let Some(call) = self.calls.get(id) {
            let picked = Picked { member: attempt.member, permit: attempt.permit };
            let (road, traffic) = (call.road, call.way.traffic);
            self.release(road, traffic, &picked, Some(attempt.started), Verdict::Unknown);
        }
        self.abandon(attempt.job);
    }

    fn take_attempt(&mut self, id: Id<Call>, number: u8) -> Option<Attempt> {
        let call = self.calls.get_mut(id)?;
        debug_assert_eq!(call.stage, Stage::Inside, "only calls that were let in make attempts");
        let holds = |place: &&mut Option<Attempt>| place.is_some_and(|attempt| attempt.number == number);
        call.live.iter_mut().find(holds)?.take()
    }

    /// Tells the endpoint, its breaker and its streak how an attempt ended. Without `started` it never began.
    fn release(
        &mut self,
        index: u32,
        traffic: u16,
        picked: &Picked,
        started: Option<Instant>,
        verdict: Verdict,
    ) {
        let now = self.now;
        let latency = started.map(|started| now.since(started)).unwrap_or_default();
        let road = &mut self.roads[index as usize];
        let member = &road.members[picked.member as usize];
        member.endpoint.on_end(now, Ended { latency, verdict });
        if let (Some(breaker), Some(permit)) = (member.breaker(traffic), picked.permit) {
            breaker.on_end(permit, now, CallEnd::from(verdict), latency, &mut road.rng);
        }
        if member.streak.on_end(verdict) {
            road.on_streak(picked.member, now);
            self.plan_control(index);
        }
    }
}
