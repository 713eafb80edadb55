//! What a run came to.

use std::time::Duration;

use model::{Criticality, Instant};

use crate::Scenario;

/// Whose request: the position of its traffic in [`Scenario::traffic`], and its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// Position of the traffic, in the order of names.
    pub traffic: usize,
    /// Its class.
    pub class: Criticality,
}

/// How a request ended, as its client sees it, all tries included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was answered well.
    Success,
    /// The last try was answered with an error of a service.
    Failed,
    /// The last try was refused by a policy.
    Refused,
    /// The client stopped waiting.
    TimedOut,
}

/// Which policy refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// The customer asks for more than its rate.
    RateLimit,
    /// Client-side throttling on behalf of the service.
    Throttle,
    /// The service's breaker is open.
    Breaker,
    /// Admission by class: the adaptive limit, or its queue.
    Admission,
    /// The bulkhead is full, or waiting for a place took too long.
    Bulkhead,
    /// No endpoint may be tried.
    NoEndpoint,
    /// There is not enough time left.
    Deadline,
}

impl Shed {
    /// Every reason.
    pub const ALL: [Shed; 7] = [
        Self::RateLimit,
        Self::Throttle,
        Self::Breaker,
        Self::Admission,
        Self::Bulkhead,
        Self::NoEndpoint,
        Self::Deadline,
    ];
}

/// Takes down what happens.
#[derive(Clone, Debug)]
pub struct Recorder {
    report: Report,
}

impl Recorder {
    /// An empty sheet for a run of `scenario`. Services and traffics are known by their positions in its maps.
    #[must_use]
    pub fn new(scenario: &Scenario) -> Self {
        let _ = scenario;
        Self { report: Report::default() }
    }

    /// A client wants something: a request, however often it will be tried.
    pub fn on_arrival(&mut self, now: Instant, who: Who) {
        let _ = (now, who);
        self.report.requests += 1;
    }

    /// A client tries again by itself; the first try is not told.
    pub fn on_client_retry(&mut self, now: Instant, who: Who) {
        let _ = (now, who);
    }

    /// Somebody sends an attempt to an endpoint; `nested` when that is another service, not a client or its gateway.
    pub fn on_attempt(&mut self, now: Instant, service: usize, endpoint: usize, nested: bool) {
        let _ = (now, service, endpoint);
        self.report.attempts += u64::from(!nested);
    }

    /// An endpoint has finished a request well, whether anybody still waits for it or not.
    pub fn on_served(&mut self, now: Instant, service: usize, endpoint: usize, wanted: bool) {
        let _ = (now, service, endpoint, wanted);
    }

    /// A policy refused a call to a service. With retries that may happen to one request more than once.
    pub fn on_shed(&mut self, now: Instant, who: Who, service: usize, why: Shed) {
        let _ = (now, who, service, why);
        self.report.shed += 1;
    }

    /// A request ended, `latency` after its arrival.
    pub fn on_end(&mut self, now: Instant, who: Who, ending: Ending, latency: Duration) {
        let _ = (now, who, latency);
        self.report.successes += u64::from(ending == Ending::Success);
    }

    /// The run is over at `now`.
    #[must_use]
    pub fn finish(self, now: Instant) -> Report {
        let _ = now;
        self.report
    }
}

/// What a run came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Requests of clients.
    pub requests: u64,
    /// Attempts that clients and their gateways sent to services.
    pub attempts: u64,
    /// Requests answered well.
    pub successes: u64,
    /// Refusals by policies.
    pub shed: u64,
}
