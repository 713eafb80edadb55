//! The run itself: events in virtual time.
//!
//! One [`World`] holds everything; each file adds one part of what happens in it, in the order of a request's road:
//! `client` → `admit` → `attempt` → `work` → and back. `control` looks after callers' views, `faults` breaks things.

mod admit;
mod arrivals;
mod attempt;
mod build;
mod client;
mod control;
mod faults;
mod queue;
mod road;
mod server;
mod slab;
mod work;

use std::collections::VecDeque;

use model::{Criticality, Deadline, Instant};
use policy::Rng;
use policy::admission::Ticket;
use policy::breaker::Permit;
use policy::budget::RetryBudget;

use crate::report::{Recorder, Shed, Who};
use crate::scenario::{Backend, Call as CallParams, Fault, RoutePolicies, ServicePolicies, Traffic};
use crate::{Report, Scenario};
use queue::{Event, Queue};
use road::{Road, Tried};
use server::{Job, Server};
use slab::{Id, Slab};

/// Plays a scenario from its beginning until the last request has ended.
///
/// # Panics
/// When a traffic names a service that there is not. The scenario is taken for checked ([`config::Check`]); with
/// senseless numbers it may take for ever.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    let mut world = World::new(scenario);
    while let Some((at, event)) = world.queue.next() {
        if at > world.end && world.requests.is_empty() {
            break;
        }
        world.now = world.now.max(at);
        world.happen(event);
    }
    let World { recorder, now, end, .. } = world;
    recorder.finish(now.max(end))
}

/// What a request carries wherever it goes.
#[derive(Clone, Copy, Debug)]
struct Way {
    /// Position of its traffic, which is its route, too.
    traffic: u16,
    class: Criticality,
    idempotent: bool,
    /// Its customer, by which it is balanced and limited.
    customer: u64,
}

impl Way {
    fn who(self) -> Who {
        Who { traffic: usize::from(self.traffic), class: self.class }
    }
}

/// What a client wants, however often it tries.
struct Request {
    way: Way,
    client: u32,
    started: Instant,
    tries: u8,
    call: Id<Call>,
}

/// Who waits for a call.
#[derive(Clone, Copy)]
enum Parent {
    Request(Id<Request>),
    Job(Id<Job>),
}

/// One call of a service by a caller, with all its attempts.
struct Call {
    parent: Parent,
    road: u32,
    way: Way,
    started: Instant,
    deadline: Deadline,
    /// The deadline is the caller's own, not what we grant.
    hurried: bool,
    /// When the caller goes away by itself; [`Instant::NEVER`] when nobody knows.
    leaves: Instant,
    /// Attempts that were made further down before this call was.
    attempts_before: u32,
    /// When it was let through to the service.
    sent: Option<Instant>,
    /// Leave of the service's breaker.
    permit: Option<Permit>,
    /// A place given by admission, or one in its queue.
    ticket: Option<Ticket>,
    queued: Option<policy::queue::Id>,
    stage: Stage,
    attempts: u8,
    live: [Option<Attempt>; 2],
    tried: Tried,
}

/// How far a call is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has not been let in.
    Outside,
    /// It waits for admission.
    Queued,
    /// It waits for a place in the bulkhead.
    Waiting,
    /// It holds a place.
    Inside,
}

/// An attempt under way.
#[derive(Clone, Copy)]
struct Attempt {
    number: u8,
    member: u32,
    permit: Option<Permit>,
    started: Instant,
    /// What it is told of the time left, as a point.
    deadline: Deadline,
    job: Id<Job>,
}

/// How a call ended, as whoever waits for it is told.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    status: u16,
    /// "Overloaded, don't retry".
    dont_retry: bool,
    /// Who refused, when that was a policy.
    shed: Option<Shed>,
}

impl Outcome {
    fn of(status: u16) -> Self {
        Self { status, dont_retry: false, shed: None }
    }

    fn good(self) -> bool {
        self.status < 400
    }
}

/// A service as the engine keeps it.
struct Service {
    name: String,
    backend: Backend,
    calls: Vec<(usize, CallParams)>,
    zones: Vec<String>,
    policies: ServicePolicies,
    /// Its servers are `first..first + count`.
    first: u32,
    count: u32,
    names: Vec<String>,
    /// The hashes of the names.
    keys: Vec<u64>,
    /// Roads of its servers to what they call: server `n`'s road for call `m` is `roads + n × calls + m`.
    roads: u32,
    rng: Rng,
}

/// A traffic as the engine keeps it.
struct Source {
    params: Traffic,
    service: usize,
    /// Roads of its clients, or of the gateways, to its service: so many from here on.
    roads: u32,
    callers: u32,
    budgets: Vec<RetryBudget>,
    /// The tries under way and when their clients stop waiting. All wait equally long, so that this is in the order of
    /// time, and one event for the first of them will do: most tries end long before.
    patience: VecDeque<Wait>,
    patience_planned: bool,
    shares: f64,
    salt: u64,
    /// Decides what arrives, and nothing else: whatever policies do, the same requests arrive.
    arrivals: Rng,
    rng: Rng,
}

/// A client waits for its try of this number.
#[derive(Clone, Copy)]
struct Wait {
    until: Instant,
    request: Id<Request>,
    number: u8,
}

struct World {
    now: Instant,
    /// When traffic stops.
    end: Instant,
    network: std::time::Duration,
    slot: std::time::Duration,
    gateways: u32,
    queue: Queue,
    recorder: Recorder,
    requests: Slab<Request>,
    calls: Slab<Call>,
    jobs: Slab<Job>,
    sources: Vec<Source>,
    services: Vec<Service>,
    servers: Vec<Server>,
    roads: Vec<Road>,
    faults: Vec<Fault>,
    steps: Vec<faults::Step>,
    /// What calls between services have of their own as routes: nothing.
    no_route: RoutePolicies,
    rng: Rng,
}

impl World {
    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { traffic } => self.on_arrival(traffic),
            Event::Thought { traffic, client } => self.on_thought(traffic, client),
            Event::Patience { traffic } => self.on_patience(traffic),
            Event::ClientRetry { request } => self.start_try(request),
            Event::WaitOver { call } => self.on_wait_over(call),
            Event::Wake { road } => self.wake(road),
            Event::Queue { road } => self.on_queue(road),
            Event::Retry { call } => self.send(call),
            Event::Hedge { call } => self.on_hedge(call),
            Event::Reach { call, number } => self.on_reach(call, number),
            Event::AttemptTimeout { call, number } => self.on_attempt_timeout(call, number),
            Event::Finish { server, version } => self.on_finish(server, version),
            Event::Restarted { server } => self.on_restarted(server),
            Event::Pause { server, begins } => self.on_pause(server, begins),
            Event::Fault { step } => self.on_fault(step),
            Event::Control { road } => self.on_control(road),
            Event::Checked { road, member, ok } => self.on_checked(road, member, ok),
            Event::Sample => self.on_sample(),
            Event::Probed { road, member } => self.on_probed(road, member),
        }
    }
}
