use std::net::SocketAddr;
use std::time::Duration;

use model::{Criticality, Instant, Timestamp};
use policy::admission::Shed;
use policy::breaker::{Breaker, Force, State};
use policy::{Report, Unavailable};
use serde::{Serialize, Serializer};

use super::Entrance;

/// A service as operators see it, at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// How many views of it were published; goes up with every change.
    pub version: u64,
    /// Where its endpoints come from.
    pub discovery: DiscoveryStatus,
    /// The balancing policy, as the configuration calls it.
    pub balancer: String,
    /// Whether so few endpoints are available that availability is ignored.
    pub panicking: bool,
    /// Requests that it works on for this process, over all endpoints in use.
    pub active: u32,
    /// The breaker of the whole service.
    pub breaker: BreakerStatus,
    /// Retries that could be granted now.
    pub retry_budget: f64,
    /// Most retries that can be saved up.
    pub retry_budget_max: f64,
    /// Requests under way and waiting.
    pub bulkhead: BulkheadStatus,
    /// Upgraded connections open.
    pub tunnels: u32,
    /// Upgraded connections that may be open.
    pub tunnels_max: u32,
    /// How many requests it can work on, as far as is known, and who was not let in.
    pub admission: AdmissionStatus,
    /// Its modes of graceful degradation.
    pub modes: Vec<ModeStatus>,
    /// The share of each class's requests that are refused on its behalf, the highest class first.
    pub throttle: [f64; Criticality::ALL.len()],
    /// Requests that arrived lately, by their callers' attempt: the first, the second, the third, later ones.
    pub callers: [u64; policy::callers::ATTEMPTS],
    /// The endpoints in use, in the order of their source.
    pub endpoints: Vec<EndpointStatus>,
}

/// Where a service's endpoints come from.
#[derive(Clone, Debug, Serialize)]
pub struct DiscoveryStatus {
    /// `list`, `dns cart.internal:8080`, `file /etc/seawall/cart.json`.
    pub source: String,
    /// Endpoints known; those in use may be a subset.
    pub known: usize,
    /// What is wrong with the source, while something is: then the last good endpoints are in use.
    pub trouble: Option<String>,
    /// Look-ups that failed.
    pub failures: u64,
}

/// Places of a bulkhead.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BulkheadStatus {
    /// Requests under way.
    pub active: u32,
    /// Requests waiting for a place.
    pub waiting: u32,
    /// Places.
    pub active_max: u32,
    /// Requests that may wait.
    pub waiting_max: u32,
}

/// Admission to a service.
#[derive(Clone, Debug, Serialize)]
pub struct AdmissionStatus {
    /// Whether it is in force.
    pub enabled: bool,
    /// Requests that it may work on at once.
    pub limit: u32,
    /// Requests that it works on.
    pub active: u32,
    /// Requests that wait for a place.
    pub waiting: u32,
    /// What an answer typically takes; 0 while unknown.
    pub latency_secs: f64,
    /// What an answer typically takes when nobody queues; 0 while unknown.
    pub base_latency_secs: f64,
    /// Requests that were not let in.
    pub shed: Vec<ClassShed>,
}

/// A mode of graceful degradation.
#[derive(Clone, Debug, Serialize)]
pub struct ModeStatus {
    /// Its name.
    pub name: String,
    /// Whether it is in force.
    pub active: bool,
    /// Since when it is in force.
    #[serde(serialize_with = "as_text_if_any")]
    pub since: Option<Timestamp>,
    /// What brought it into force; empty when it is not.
    pub why: String,
    /// Times that it was entered.
    pub entered: u64,
    /// Requests that it held for while in force.
    pub requests: u64,
    /// Requests that only exercised it.
    pub exercised: u64,
}

/// Requests of one class that were not let in for one reason.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ClassShed {
    /// The class.
    pub class: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// How many.
    pub count: u64,
}

impl ClassShed {
    /// Those classes and reasons that there were.
    pub(super) fn all(entrance: &Entrance) -> Vec<Self> {
        let pairs = Criticality::ALL.into_iter().flat_map(|class| Shed::ALL.map(|why| (class, why)));
        let figures = pairs.map(|(class, why)| Self {
            class: class.name(),
            reason: why.name(),
            count: entrance.shed(class, why),
        });
        figures.filter(|figure| figure.count > 0).collect()
    }
}

/// A breaker as operators see it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct BreakerStatus {
    /// `closed`, `open` or `half_open`, as callers meet it.
    pub state: &'static str,
    /// What an operator said: `auto`, `open` or `closed`.
    pub force: &'static str,
    /// Seconds since its own state changed.
    pub since_secs: f64,
    /// Calls in its window.
    pub calls: u64,
    /// Share of failed calls in its window.
    pub failure_rate: f64,
    /// Share of slow calls in its window.
    pub slow_rate: f64,
    /// Times that it opened by itself.
    pub opens: u64,
}

/// An endpoint as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct EndpointStatus {
    /// Its name, unique in the service.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
    /// Its configured weight.
    pub weight: u32,
    /// Whether nothing speaks against new requests.
    pub available: bool,
    /// What speaks against new requests.
    pub reasons: Vec<ReasonStatus>,
    /// Seconds since it joined, or came back.
    pub joined_secs: f64,
    /// Requests that it works on for this process.
    pub active: u32,
    /// Attempts that ended since it joined.
    pub requests: u64,
    /// Of these, those that failed.
    pub failures: u64,
    /// Of these, those answered "overloaded".
    pub overloads: u64,
    /// Recent share of attempts that failed or were refused for overload.
    pub error_share: f64,
    /// Recent latency, sensitive to peaks; absent before the first attempt.
    pub latency_secs: Option<f64>,
    /// What it last said of its own load.
    pub report: Option<ReportStatus>,
    /// Its own breaker.
    pub breaker: BreakerStatus,
}

/// A reason why an endpoint gets no new requests.
#[derive(Clone, Debug, Serialize)]
pub struct ReasonStatus {
    /// `unhealthy`, `ejected`, `lame_duck` or `disabled`.
    pub reason: &'static str,
    /// Since when.
    #[serde(serialize_with = "as_text")]
    pub since: Timestamp,
    /// Why, in one line.
    pub why: String,
}

fn as_text<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

fn as_text_if_any<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}

/// What an endpoint said of its own load; absent figures were not reported.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ReportStatus {
    /// How old it is.
    pub age_secs: f64,
    /// 1.0 is the application's capacity.
    pub application_utilization: Option<f64>,
    /// 1.0 is all the CPU it may use.
    pub cpu_utilization: Option<f64>,
    /// Memory utilisation.
    pub mem_utilization: Option<f64>,
    /// Requests per second that it serves.
    pub rps: Option<f64>,
    /// Errors per second that it answers.
    pub eps: Option<f64>,
    /// Requests in flight.
    pub requests_in_flight: Option<u32>,
    /// Share of look-ups that its cache answers.
    pub cache_hit_ratio: Option<f64>,
    /// Its own estimate of its latency.
    pub latency_secs: Option<f64>,
}

impl ReportStatus {
    pub(super) fn new(at: Instant, report: &Report, now: Instant) -> Self {
        Self {
            age_secs: now.since(at).as_secs_f64(),
            application_utilization: report.application_utilization,
            cpu_utilization: report.cpu_utilization,
            mem_utilization: report.mem_utilization,
            rps: report.rps_fractional,
            eps: report.eps,
            requests_in_flight: report.requests_in_flight,
            cache_hit_ratio: report.cache_hit_ratio,
            latency_secs: report.latency.map(|latency: Duration| latency.as_secs_f64()),
        }
    }
}

impl BreakerStatus {
    pub(super) fn new(breaker: &Breaker, now: Instant) -> Self {
        let snapshot = breaker.snapshot(now);
        Self {
            state: State::name(breaker.state()),
            force: force_name(snapshot.force),
            since_secs: now.since(snapshot.since).as_secs_f64(),
            calls: snapshot.calls,
            failure_rate: snapshot.failure_rate,
            slow_rate: snapshot.slow_rate,
            opens: snapshot.opens,
        }
    }
}

/// The name that pages and events use.
pub(super) const fn force_name(force: Force) -> &'static str {
    match force {
        Force::Auto => "auto",
        Force::Open => "open",
        Force::Closed => "closed",
    }
}

/// The name that pages and metrics use.
#[must_use]
pub const fn reason_name(reason: Unavailable) -> &'static str {
    match reason {
        Unavailable::Unhealthy => "unhealthy",
        Unavailable::Ejected => "ejected",
        Unavailable::LameDuck => "lame_duck",
        Unavailable::Disabled => "disabled",
    }
}
