//! What servers do with the attempts that reach them.

use model::Deadline;
use policy::attempts::Condition;

use super::attempt::Answer;
use super::queue::Event;
use super::server::{self, Job, Stage};
use super::slab::Id;
use super::{Call, Outcome, Parent, World};
use crate::scenario::What;

impl World {
    /// An attempt reaches its server.
    pub(super) fn on_reach(&mut self, id: Id<Call>, number: u8) {
        let Some(call) = self.calls.get(id) else { return };
        let Some(attempt) = call.live.iter().flatten().find(|attempt| attempt.number == number) else {
            return;
        };
        let (way, deadline) = (call.way, attempt.deadline);
        let counted = call.attempts_before + u32::from(number);
        let index = self.roads[call.road as usize].members[attempt.member as usize].server;
        let server = &mut self.servers[index as usize];
        let service = &mut self.services[server.service as usize];
        if server.down > 0 {
            return self.on_attempt_end(id, number, Answer::Nothing(Condition::ConnectFailure));
        }
        let mut fails = service.rng.f64() < service.backend.fail_share.get();
        for fault in server.faults.iter().map(|fault| &self.faults[*fault as usize]) {
            let struck = fault.traffic.as_ref().is_none_or(|name| {
                policy::hash(name.as_bytes()) == self.sources[usize::from(way.traffic)].salt
            });
            match &fault.what {
                // It is neither worked on nor answered: the attempt stays until its time is over.
                What::BlackHole if struck => return,
                What::Fail(share) | What::BadVersion { fail: share, .. } if struck => {
                    fails |= service.rng.f64() < share.get();
                }
                _ => {}
            }
        }
        if fails {
            server.on_answer(self.now, std::time::Duration::ZERO, false);
            return self.answer(id, number, index, Answer::Status(500, false));
        }
        if service.backend.crash.as_ref().is_some_and(|crash| server.jobs + 1 >= crash.at) {
            self.crash(index);
            return self.on_attempt_end(id, number, Answer::Nothing(Condition::Reset));
        }
        if !server.has_place(&service.backend) {
            server.on_answer(self.now, std::time::Duration::ZERO, false);
            let dont_retry = service.backend.says_dont_retry;
            return self.answer(id, number, index, Answer::Status(503, dont_retry));
        }
        let cache = service.backend.cache.as_ref();
        let missed = cache.is_some_and(|cache| server::misses(cache, server.served, &mut service.rng));
        let job = self.jobs.insert(Job {
            call: id,
            number,
            server: index,
            way,
            deadline,
            attempt: counted,
            arrived: self.now,
            stage: Stage::Waiting,
            abandoned: false,
            missed,
            called: 0,
            unanswered: 0,
        });
        server.enqueue(job);
        if let Some(call) = self.calls.get_mut(id)
            && let Some(attempt) = call.live.iter_mut().flatten().find(|attempt| attempt.number == number)
        {
            attempt.job = job;
        }
        self.pump(index);
    }

    /// Lets idle workers take what waits, and plans when the first of the jobs will be done.
    pub(super) fn pump(&mut self, index: u32) {
        let server = &mut self.servers[index as usize];
        if server.in_hand {
            return;
        }
        let service = &mut self.services[server.service as usize];
        let backend = &service.backend;
        server.advance(self.now);
        while let Some(id) = server.next_waiting() {
            let Some(job) = self.jobs.get_mut(id) else { continue };
            server.queued -= 1;
            if backend.heeds_deadlines && job.deadline.expired(self.now) {
                // Whoever waited for it has gone, or is about to.
                self.jobs.remove(id);
                server.jobs -= 1;
                continue;
            }
            let mut work = server::draw(&backend.service_time, &mut service.rng);
            if job.missed {
                let factor = backend.cache.as_ref().map_or(1.0, |cache| cache.miss_factor);
                work = server::scaled(work, factor);
            }
            work += backend.slowdown_per_active.get() * server.busy;
            job.stage = Stage::Working;
            server.begin(id, work);
        }
        if let Some(at) = server.replan() {
            self.queue.plan(at, Event::Finish { server: index, version: server.version });
        }
    }

    /// The first job of a server is done.
    pub(super) fn on_finish(&mut self, index: u32, version: u32) {
        let server = &mut self.servers[index as usize];
        if server.version != version {
            return;
        }
        server.advance(self.now);
        server.on_planned();
        server.in_hand = true;
        while let Some(job) = self.servers[index as usize].done() {
            self.on_work_done(job);
        }
        self.servers[index as usize].in_hand = false;
        self.pump(index);
    }

    /// A job's own work is done: it calls what it has to, or answers.
    fn on_work_done(&mut self, id: Id<Job>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.stage = Stage::Calling;
        let server = &mut self.servers[job.server as usize];
        server.working -= 1;
        if !self.services[server.service as usize].backend.blocks {
            server.busy -= 1;
        }
        self.call_next(id);
    }

    /// The next calls of a job, or its answer when there are none left.
    fn call_next(&mut self, id: Id<Job>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let index = job.server;
        let service = &self.services[self.servers[index as usize].service as usize];
        let missed = job.missed;
        let skip = job.called as usize;
        let next = service.calls.iter().enumerate().skip(skip).find(|(_, (_, call))| missed || !call.on_miss);
        let Some((position, (_, call))) = next else { return self.answer_job(id, Answer::GOOD) };
        job.called = position as u32 + 1;
        job.unanswered = call.times;
        let road = service.roads + (index - service.first) * service.calls.len() as u32 + position as u32;
        let (way, times) = (job.way, call.times);
        let (deadline, before) = match service.backend.heeds_deadlines {
            true => (job.deadline, job.attempt - 1),
            false => (Deadline::NONE, 0),
        };
        for _ in 0..times {
            if self.jobs.get(id).is_none_or(|job| job.called as usize != position + 1) {
                return;
            }
            self.start_call(Parent::Job(id), road, way, deadline, model::Instant::NEVER, before);
        }
    }

    /// One of a job's calls was answered.
    pub(super) fn on_called(&mut self, id: Id<Job>, outcome: Outcome) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let service = &self.services[self.servers[job.server as usize].service as usize];
        let called = job.called.checked_sub(1).and_then(|position| service.calls.get(position as usize));
        let optional = called.is_some_and(|(_, call)| call.optional);
        if !outcome.good() && !optional {
            // What it calls refuses on purpose: that is said on, so that nobody further up tries again.
            let refused = outcome.dont_retry;
            return self.answer_job(id, Answer::Status(if refused { 503 } else { 502 }, refused));
        }
        job.unanswered -= 1;
        if job.unanswered == 0 {
            self.call_next(id);
        }
    }

    /// A job leaves its server with an answer.
    fn answer_job(&mut self, id: Id<Job>, answer: Answer) {
        let Some(job) = self.remove_job(id) else { return };
        let server = &mut self.servers[job.server as usize];
        let good = answer == Answer::GOOD;
        server.on_answer(self.now, self.now.since(job.arrived), good);
        let service = server.service as usize;
        if good {
            let position = job.server - self.services[service].first;
            self.recorder.on_served(self.now, service, position as usize, !job.abandoned);
        }
        if !job.abandoned {
            self.answer(job.call, job.number, job.server, answer);
        }
        self.pump(job.server);
    }

    /// Takes a job off its server, wherever it is; what it held is free again.
    fn remove_job(&mut self, id: Id<Job>) -> Option<Job> {
        let job = self.jobs.remove(id)?;
        let server = &mut self.servers[job.server as usize];
        server.advance(self.now);
        server.jobs -= 1;
        let blocks = self.services[server.service as usize].backend.blocks;
        match job.stage {
            Stage::Waiting => server.queued -= 1,
            Stage::Working => {
                server.working -= 1;
                server.busy -= 1;
            }
            Stage::Calling => server.busy -= u32::from(blocks),
        }
        Some(job)
    }

    /// An answer goes back to whoever waits for it, with what a server tells of itself.
    fn answer(&mut self, id: Id<Call>, number: u8, index: u32, answer: Answer) {
        let server = &self.servers[index as usize];
        let reports = self.services[server.service as usize].backend.reports_load;
        let found = self.calls.get(id).and_then(|call| {
            let attempt = call.live.iter().flatten().find(|attempt| attempt.number == number)?;
            Some((call.road, attempt.member))
        });
        if let Some((road, member)) = found {
            if reports {
                let report = server.report(self.now);
                let road = &mut self.roads[road as usize];
                road.members[member as usize].endpoint.on_report(self.now, &report);
                road.balancer.on_probe(member);
            }
            if self.servers[index as usize].lame_duck {
                self.roads[road as usize].on_lame_duck(member, self.now);
                self.plan_control(road);
            }
        }
        self.on_attempt_end(id, number, answer);
    }

    /// Nobody waits for a job any more. Most servers do not notice.
    pub(super) fn abandon(&mut self, id: Id<Job>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.abandoned = true;
        let index = job.server;
        let service = self.servers[index as usize].service as usize;
        if self.services[service].backend.stops_abandoned {
            self.remove_job(id);
            self.pump(index);
        }
    }

    /// A server loses all that it works on.
    pub(super) fn kill(&mut self, index: u32) {
        self.servers[index as usize].advance(self.now);
        self.servers[index as usize].die();
        for id in self.jobs.find(|job| job.server == index) {
            if let Some(job) = self.jobs.remove(id)
                && !job.abandoned
            {
                self.on_attempt_end(job.call, job.number, Answer::Nothing(Condition::Reset));
            }
        }
    }
}
