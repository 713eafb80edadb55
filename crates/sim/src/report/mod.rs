//! What a run came to: figures, and how they went over time.
//!
//! [`Recorder`] counts while the engine runs; [`Report`] is what is left of it. The same seed gives the same bytes:
//! nothing in a report depends on the machine, on the time of day or on the order of a hash map.
//!
//! A report is shown in four ways, each a pure function: [`serde::Serialize`] for programs, [`text()`] for a terminal,
//! [`page()`] as one self-contained HTML file, [`picture`] as one SVG file.

use std::collections::BTreeMap;

use model::Criticality;
use serde::Serialize;

mod histogram;
mod number;
mod page;
mod plot;
mod recorder;
mod recovery;
mod story;
#[cfg(test)]
mod tests;
mod text;

use histogram::Histogram;
pub use page::{Run, page, picture};
pub use recorder::{Ending, Failure, Recorder, Shed, Who};
pub use text::{Paint, comparison, sweep, text};

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The scenario's name.
    pub scenario: String,
    /// The seed that repeats it.
    pub seed: u64,
    /// Simulated seconds.
    pub duration_s: f64,
    /// Everything together. In JSON its keys stand beside these.
    #[serde(flatten)]
    pub total: Figures,
    /// Requests refused for load, by class. Only classes that there were.
    pub shed: BTreeMap<Criticality, u64>,
    /// Requests that did not succeed, by how they ended; those that were shed are among them as refused.
    pub errors: BTreeMap<Failure, u64>,
    /// Refusals, by the policy that refused. One request may be refused more than once.
    pub refusals: BTreeMap<Shed, u64>,
    /// Tries that clients made again by themselves. Each goes through the gateway anew.
    pub client_retries: u64,
    /// The same figures for each class that there was.
    pub classes: BTreeMap<Criticality, ClassFigures>,
    /// What each service saw.
    pub services: BTreeMap<String, ServiceFigures>,
    /// What the script did to the fleet, and when, in the order of their beginning.
    pub events: Vec<Event>,
    /// What of the wish could not be simulated, a sentence each.
    pub notes: Vec<String>,
    /// How it went over time.
    pub series: Series,
}

/// What requests came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Requests that clients made. Retries are not requests.
    pub requests: u64,
    /// Attempts that were sent to back ends, retries and hedges included.
    pub attempts: u64,
    /// Attempts per request; below 1 when requests are refused before any attempt.
    pub amplification: f64,
    /// The share of requests that succeeded.
    pub success_ratio: f64,
    /// Requests per second that succeeded.
    pub goodput_per_s: f64,
    /// How long requests that succeeded took; `None` when none did.
    pub latency_ms: Option<Latency>,
    /// Seconds from the end of the last disturbance until goodput was back at 95 % and stayed there. 0 when it never
    /// fell below, `None` when it never came back. See [`Recorder::finish`].
    pub recovery_s: Option<f64>,
}

/// The figures of one class.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ClassFigures {
    /// What its requests came to.
    #[serde(flatten)]
    pub figures: Figures,
    /// Requests refused for load.
    pub shed: u64,
}

/// What one service saw.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceFigures {
    /// Attempts sent to its endpoints, by clients, gateways and other services.
    pub attempts: u64,
    /// Requests that its endpoints finished well.
    pub served: u64,
    /// Of these, the ones that nobody waited for any more: work that was wasted.
    pub wasted: u64,
    /// Calls to it that a policy refused.
    pub refusals: u64,
    /// Attempts at its busiest endpoint, relative to the mean; 1 is perfectly even.
    pub busiest: f64,
}

/// Latencies in milliseconds, each within 2 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Latency {
    /// Half took no longer.
    pub p50: f64,
    /// 99 % took no longer.
    pub p99: f64,
    /// 99.9 % took no longer.
    pub p999: f64,
}

/// Something that the script did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// When it began, in seconds from the start.
    pub from_s: f64,
    /// When it ended.
    pub to_s: f64,
    /// What it was, in words.
    pub what: String,
}

/// How it went over time, a column for each quantity and in each column a value for each slot.
///
/// Requests and attempts are counted when they begin, successes and failures when they end.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Series {
    /// The width of a slot in seconds.
    pub slot_s: f64,
    /// When each slot begins.
    pub at_s: Vec<f64>,
    /// Requests that clients made.
    pub offered_per_s: Vec<f64>,
    /// Attempts sent to back ends.
    pub attempts_per_s: Vec<f64>,
    /// Requests that succeeded.
    pub goodput_per_s: Vec<f64>,
    /// Requests that back ends finished well although nobody waited for them any more.
    pub wasted_per_s: Vec<f64>,
    /// Requests that did not succeed, by how they ended. Only kinds that there were.
    pub errors_per_s: BTreeMap<Failure, Vec<f64>>,
    /// Requests refused for load, by class. Only classes that there were.
    pub shed_per_s: BTreeMap<Criticality, Vec<f64>>,
    /// Half of the successes took no longer; `None` where there was none.
    pub p50_ms: Vec<Option<f64>>,
    /// 99 % of the successes took no longer.
    pub p99_ms: Vec<Option<f64>>,
    /// Requests under way where a limit holds; `None` where nobody said.
    pub active: Vec<Option<f64>>,
    /// That limit.
    pub limit: Vec<Option<f64>>,
    /// The same for each class that there was.
    pub classes: BTreeMap<Criticality, ClassSeries>,
}

/// How one class went over time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ClassSeries {
    /// Requests that clients made.
    pub offered_per_s: Vec<f64>,
    /// Requests that succeeded.
    pub goodput_per_s: Vec<f64>,
}

impl Report {
    /// Requests refused for load, of all classes.
    #[must_use]
    pub fn shed_total(&self) -> u64 {
        self.shed.values().sum()
    }

    /// The whole report as JSON text.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).expect("a report is plain data")
    }
}

/// Rounded to a precision that a reader can use, so that JSON is not filled with digits that mean nothing.
fn rounded(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}
