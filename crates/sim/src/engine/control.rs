//! What callers do beside requests: eject, check health, probe for load.

use model::Instant;

use super::World;
use super::queue::Event;
use crate::scenario::What;

/// How a server answers when asked for its health or load.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sign {
    Fine,
    /// Connections are refused.
    Refuses,
    /// It accepts, and says nothing.
    Silent,
}

impl World {
    /// Plans when a road is looked after next, unless that is planned already.
    pub(super) fn plan_control(&mut self, index: u32) {
        let road = &mut self.roads[index as usize];
        let due = road.poll_timeout();
        if due < road.control_at {
            road.control_at = due;
            self.queue.plan(due.max(self.now), Event::Control { road: index });
        }
    }

    pub(super) fn on_control(&mut self, index: u32) {
        let road = &mut self.roads[index as usize];
        if road.control_at > self.now {
            // Planned before something sooner was.
            return;
        }
        road.control_at = Instant::NEVER;
        let policies = &self.services[road.service as usize].policies;
        let due = road.control(policies.ejection.consecutive_failures, self.now);
        let timeout = policies.health.as_ref().map(|health| health.timeout.get()).unwrap_or_default();
        for member in due {
            let sign = self.sign(self.roads[index as usize].members[member as usize].server);
            let ok = sign == Sign::Fine;
            let at = self.now.after(if sign == Sign::Silent { timeout } else { self.network });
            self.queue.plan(at, Event::Checked { road: index, member, ok });
        }
        self.plan_control(index);
    }

    pub(super) fn on_checked(&mut self, index: u32, member: u32, ok: bool) {
        let road = &mut self.roads[index as usize];
        let lame_duck = self.servers[road.members[member as usize].server as usize].lame_duck;
        road.on_checked(member, ok, lame_duck, self.now);
        self.plan_control(index);
    }

    pub(super) fn on_probed(&mut self, index: u32, member: u32) {
        let server = self.roads[index as usize].members[member as usize].server;
        if self.sign(server) == Sign::Fine {
            let report = self.servers[server as usize].report(self.now);
            let road = &mut self.roads[index as usize];
            road.members[member as usize].endpoint.on_report(self.now, &report);
            road.balancer.on_probe(member);
        }
    }

    /// Near the end of each slot of the report.
    pub(super) fn plan_sample(&mut self, at: Instant) {
        if at < self.end {
            self.queue.plan(at, Event::Sample);
        }
    }

    /// Requests under way and adaptive limits, over all callers that clients have to do with.
    pub(super) fn on_sample(&mut self) {
        let edges = self.sources.iter().map(|source| (source.roads, source.callers));
        let mut edges: Vec<_> = edges.collect();
        // Traffics that go through the same gateways share their roads.
        edges.sort_unstable();
        edges.dedup();
        let roads = edges.into_iter().flat_map(|(first, count)| first..first + count);
        let admissions = roads.filter_map(|road| self.roads[road as usize].admission.as_ref());
        let (mut active, mut limit) = (0.0, 0.0);
        for admission in admissions {
            active += f64::from(admission.active());
            limit += f64::from(admission.limit());
        }
        if limit > 0.0 {
            self.recorder.on_load(self.now, active, limit);
        }
        self.plan_sample(self.now.after(self.slot));
    }

    fn sign(&self, server: u32) -> Sign {
        let server = &self.servers[server as usize];
        let mut faults = server.faults.iter().map(|fault| &self.faults[*fault as usize]);
        let silent = |what: &What| matches!(what, What::BlackHole | What::Pause);
        if server.down > 0 {
            Sign::Refuses
        } else if faults.any(|fault| fault.traffic.is_none() && silent(&fault.what)) {
            Sign::Silent
        } else {
            Sign::Fine
        }
    }
}
