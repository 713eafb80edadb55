//! The document at `/api/status`. Fields that an older or newer gateway does not send read as their defaults, so that the
//! command and the gateway need not be of one version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Seawall's version.
    pub version: String,
    /// Seconds since it started.
    pub uptime: f64,
    /// `serving`, `lame_duck`, `finishing` or `stopped`.
    pub phase: String,
    /// Worker threads.
    pub workers: u32,
    /// The configuration in force.
    pub config: Config,
    /// Where requests come in.
    pub listeners: Vec<Listener>,
    /// The services, by name.
    pub services: Vec<Service>,
    /// The routes.
    pub routes: Vec<Route>,
    /// The certificates that are shown to clients and endpoints.
    pub certificates: Vec<Certificate>,
    /// How close bounded things are to their bounds.
    pub limits: Vec<Limit>,
    /// The etcd cluster beneath; absent when coordination does not use one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consensus: Option<coord::consensus::Consensus>,
    /// What was changed deliberately, newest first.
    pub changes: Vec<Change>,
    /// What happened by itself (an ejection, an opened breaker), newest first.
    pub events: Vec<Event>,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Config {
    /// Where it came from: a path, or `command line`.
    pub source: String,
    /// Counts the configurations that took effect, from 1.
    pub version: u64,
    /// A hash of its text, to compare machines by.
    pub hash: String,
    /// When it took effect.
    pub since: String,
    /// Times that a changed file was refused.
    pub refused: u64,
    /// Why the newest file was refused; absent when it is in force.
    pub refusal: Option<String>,
}

/// Where requests come in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Its address, with the real port.
    pub address: String,
    /// Open connections.
    pub connections: u64,
    /// Most connections.
    pub connections_max: u64,
}

/// A certificate in use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// Who shows it: `listener web` or `service cart`.
    pub of: String,
    /// Its file.
    pub file: String,
    /// The names it is good for.
    pub names: Vec<String>,
    /// When it expires.
    pub expires: String,
    /// Seconds until then; negative once it has expired.
    pub left: f64,
    /// Why what the files hold now is not in use; absent when it is.
    pub refused: Option<String>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its balancing policy.
    pub balance: String,
    /// Whether so few endpoints are available that availability is ignored.
    pub panicking: bool,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Its breaker.
    pub breaker: Breaker,
    /// Its retry budget.
    pub retry_budget: Budget,
    /// Its bulkhead.
    pub bulkhead: Bulkhead,
    /// Its modes of graceful degradation.
    pub modes: Vec<Mode>,
}

/// A mode of graceful degradation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Mode {
    /// Its name.
    pub name: String,
    /// Whether it is in force.
    pub active: bool,
    /// What brought it into force; empty when it is not.
    pub why: String,
    /// For how many seconds it has been in force.
    pub age: f64,
    /// Times that it was entered.
    pub entered: u64,
    /// Requests that it held for while in force.
    pub requests: u64,
    /// Requests that only exercised it.
    pub exercised: u64,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// Its name: `host:port`.
    pub name: String,
    /// Its configured weight.
    pub weight: u32,
    /// Why it gets no new requests; empty: it gets them.
    pub reasons: Vec<Reason>,
    /// Its own breaker.
    pub breaker: Breaker,
    /// Requests under way.
    pub active: u64,
    /// Attempts sent to it since it is known.
    pub attempts: u64,
    /// Attempts that failed there.
    pub failures: u64,
    /// Moving average of its latency, in milliseconds; absent until it answered.
    pub latency_ms: Option<f64>,
}

/// Why an endpoint gets no new requests.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reason {
    /// `unhealthy`, `ejected`, `lame_duck` or `disabled`.
    pub state: String,
    /// What led to it, for people.
    pub why: String,
    /// For how many seconds it has held.
    pub age: f64,
}

/// A circuit breaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// `closed`, `open` or `half_open`; `off` when it is not used.
    pub state: String,
    /// Why it is not closed; empty otherwise.
    pub why: String,
    /// Times that it opened by itself.
    pub opens: u64,
}

/// A retry budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Retries that could be sent now.
    pub balance: f64,
    /// Most that can be saved up.
    pub burst: f64,
}

/// A bulkhead.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bulkhead {
    /// Requests under way.
    pub active: u64,
    /// Most requests under way.
    pub active_max: u64,
    /// Requests that wait for a place.
    pub waiting: u64,
}

/// One route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Its name.
    pub name: String,
    /// What it does: the service, the split, `redirect` or `answer`.
    pub action: String,
    /// Finished requests by outcome.
    pub requests: BTreeMap<String, u64>,
}

/// Something bounded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limit {
    /// Its name.
    pub name: String,
    /// What is used.
    pub used: u64,
    /// What there is; 0 means no bound.
    pub max: u64,
}

/// A deliberate change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Change {
    /// When.
    pub at: String,
    /// Who or what asked for it.
    pub who: String,
    /// What changed.
    pub what: String,
    /// How to take it back.
    pub undo: String,
}

/// Something that happened by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When.
    pub at: String,
    /// What it happened to.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Endpoint {
    /// One word for its state: the first reason that speaks against it, its breaker's state when that refuses, or `up`.
    #[must_use]
    pub fn state(&self) -> &str {
        match (self.reasons.first(), self.breaker.state.as_str()) {
            (Some(reason), _) => &reason.state,
            (None, "open") => "open",
            (None, "half_open") => "half_open",
            (None, _) => "up",
        }
    }

    /// Why it is in that state; empty when it is up.
    #[must_use]
    pub fn why(&self) -> String {
        let reasons = self.reasons.iter().map(|reason| match reason.age {
            age if age > 0.0 => format!("{}, for {}", reason.why, seconds(age)),
            _ => reason.why.clone(),
        });
        let breaker = (!self.breaker.why.is_empty()).then(|| self.breaker.why.clone());
        reasons.chain(breaker).collect::<Vec<_>>().join("; ")
    }
}

impl Route {
    /// Outcomes that requests have had.
    pub(crate) fn seen(&self) -> impl Iterator<Item = (&str, u64)> {
        self.requests
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(outcome, count)| (outcome.as_str(), *count))
    }
}

/// A change or an event, as one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Happened<'s> {
    /// When.
    pub(crate) at: &'s str,
    /// Who, or what it happened to.
    pub(crate) what: &'s str,
    /// What, or why.
    pub(crate) why: &'s str,
    /// How to take it back; empty for what happened by itself.
    pub(crate) undo: &'s str,
}

impl Status {
    /// Changes and events together, newest first.
    pub(crate) fn happened(&self) -> Vec<Happened<'_>> {
        let changes = self.changes.iter().map(|one| Happened {
            at: &one.at,
            what: &one.who,
            why: &one.what,
            undo: &one.undo,
        });
        let events =
            self.events.iter().map(|one| Happened { at: &one.at, what: &one.what, why: &one.why, undo: "" });
        let mut happened: Vec<_> = changes.chain(events).collect();
        happened.sort_by(|a, b| b.at.cmp(a.at));
        happened
    }
}

impl Service {
    /// Endpoints that get new requests.
    #[must_use]
    pub fn up(&self) -> usize {
        self.endpoints.iter().filter(|endpoint| endpoint.reasons.is_empty()).count()
    }
}

/// A length of time for people: `12s`, `3m 20s`, `5h 12m`, `9d 4h`.
#[must_use]
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        0..60 => format!("{whole}s"),
        60..3_600 => format!("{}m {}s", whole / 60, whole % 60),
        3_600..86_400 => format!("{}h {}m", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{}d {}h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

/// A count for people: `999`, `12.3k`, `4.5M`.
#[must_use]
pub(crate) fn count(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..1_000_000 => format!("{:.1}k", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}
