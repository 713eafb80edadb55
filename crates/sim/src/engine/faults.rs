//! What goes wrong, and when.

use std::time::Duration;

use model::{Instant, Span};

use super::build::span_nanos;
use super::queue::Event;
use super::{Service, World};
use crate::scenario::{Endpoints, Fault, What};

/// A fault begins or ends at one server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) at: Instant,
    fault: u32,
    server: u32,
    begins: bool,
}

/// Every step of every fault.
pub(super) fn steps(faults: &[Fault], services: &[Service]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, fault) in (0u32..).zip(faults) {
        let Some(position) = services.iter().position(|service| service.name == fault.service) else {
            continue;
        };
        let service = &services[position];
        for (turn, server) in struck(&fault.endpoints, service).into_iter().enumerate() {
            let at = Instant::ORIGIN.after(fault.at.get()).after(fault.stagger.get() * turn as u32);
            steps.push(Step { at, fault: index, server, begins: true });
            if let Some(span) = fault.r#for {
                steps.push(Step { at: at.after(span.get()), fault: index, server, begins: false });
            }
        }
    }
    steps
}

/// The servers that a fault strikes.
fn struck(endpoints: &Endpoints, service: &Service) -> Vec<u32> {
    let count = service.count;
    let zone = |server: u32| service.zones.get(server as usize % service.zones.len().max(1));
    let those: Vec<u32> = match endpoints {
        Endpoints::All => (0..count).collect(),
        Endpoints::Count(first) => (0..count.min(*first)).collect(),
        Endpoints::Share(share) => (0..(share.get() * f64::from(count)).ceil() as u32).collect(),
        Endpoints::Zone(name) => (0..count).filter(|server| zone(*server) == Some(name)).collect(),
        Endpoints::Index(index) => (*index..count.min(index + 1)).collect(),
    };
    those.into_iter().map(|server| service.first + server).collect()
}

impl World {
    pub(super) fn on_fault(&mut self, step: u32) {
        let Step { fault, server: index, begins, .. } = self.steps[step as usize];
        let what = self.faults[fault as usize].what.clone();
        let server = &mut self.servers[index as usize];
        server.advance(self.now);
        if begins {
            server.faults.push(fault);
        } else {
            server.faults.retain(|other| *other != fault);
        }
        match (what, begins) {
            (What::Die, true) => {
                server.down += 1;
                self.kill(index);
            }
            (What::Die, false) => server.down -= 1,
            (What::BadVersion { restart, .. }, _) => self.restart(index, restart),
            _ => {}
        }
        self.assess(index);
        self.pump(index);
    }

    /// Works out what the faults that hold make of a server.
    fn assess(&mut self, index: u32) {
        let server = &mut self.servers[index as usize];
        let backend = &self.services[server.service as usize].backend;
        (server.speed, server.workers, server.lame_duck) = (1.0, backend.workers, false);
        for fault in server.faults.iter().map(|fault| &self.faults[*fault as usize]) {
            match &fault.what {
                What::Slow(factor) | What::BadVersion { slow: factor, .. } => server.speed /= factor,
                What::Pause => server.speed = 0.0,
                What::Capacity(share) => {
                    server.workers = (f64::from(server.workers) * share.get()).ceil() as u32;
                }
                What::LameDuck => server.lame_duck = true,
                What::Die | What::Fail(_) | What::BlackHole => {}
            }
        }
    }

    /// A server has taken on too much.
    pub(super) fn crash(&mut self, index: u32) {
        let service = self.servers[index as usize].service as usize;
        if let Some(crash) = &self.services[service].backend.crash {
            let span = crash.restart;
            self.restart(index, span);
        }
    }

    fn restart(&mut self, index: u32, span: Span) {
        self.servers[index as usize].down += 1;
        self.kill(index);
        self.queue.plan(self.now.after(span.get()), Event::Restarted { server: index });
    }

    pub(super) fn on_restarted(&mut self, index: u32) {
        self.servers[index as usize].down -= 1;
    }

    /// A server's own regular pause.
    pub(super) fn on_pause(&mut self, index: u32, begins: bool) {
        let server = &mut self.servers[index as usize];
        let Some(pauses) = &self.services[server.service as usize].backend.pauses else { return };
        server.advance(self.now);
        server.pausing = begins;
        let wait = if begins {
            pauses.r#for.get()
        } else {
            let usual = span_nanos(pauses.every).saturating_sub(span_nanos(pauses.r#for));
            Duration::from_nanos(self.rng.u64(usual / 2..=usual.saturating_add(usual / 2)))
        };
        self.queue.plan(self.now.after(wait), Event::Pause { server: index, begins: !begins });
        self.pump(index);
    }
}
