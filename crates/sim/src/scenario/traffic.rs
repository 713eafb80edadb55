use model::{Criticality, Ratio, Span};
use policy::attempts::RetryPolicyParams;
use policy::budget::RetryBudgetParams;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RoutePolicies;

/// Requests of one kind: who sends them, when, and how patiently.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Traffic {
    /// The service that is asked.
    pub service: String,
    /// When requests arrive.
    pub arrival: Arrival,
    /// Whether requests arrive at even intervals instead of at random ones (a Poisson process).
    pub even: bool,
    /// Processes that send them. Each has a retry budget of its own and, without gateways, its own view of the service.
    pub clients: u32,
    /// Customers that the requests are spread over.
    pub customers: u32,
    /// Their classes, by share.
    pub classes: Vec<ClassShare>,
    /// How long a client waits for the answer to one try.
    pub timeout: Span,
    /// Whether the gateway (or the service, without one) is told how long the client waits.
    pub tells_deadline: bool,
    /// Share of requests that may be repeated without harm.
    pub idempotent: Ratio,
    /// What the client tries again by itself, around everything that gateways do. Absent: nothing.
    pub retry: Option<RetryPolicyParams>,
    /// Caps the client's own retries, for each client process. Absent: no cap.
    pub retry_budget: Option<RetryBudgetParams>,
    /// Whether the client tells which try it makes, and its own retries stop when it is told "overloaded, don't retry".
    pub heeds_dont_retry: bool,
    /// What the gateway does for this route in particular.
    pub route: RoutePolicies,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            service: String::new(),
            arrival: Arrival::default(),
            even: false,
            clients: 1,
            customers: 1,
            classes: vec![ClassShare { class: Criticality::Critical, share: 1.0 }],
            timeout: Span::from_secs(10),
            tells_deadline: true,
            idempotent: Ratio::ONE,
            retry: None,
            retry_budget: None,
            heeds_dont_retry: false,
            route: RoutePolicies::default(),
        }
    }
}

/// One class's part of a traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClassShare {
    /// The class.
    pub class: Criticality,
    /// Its part, relative to the others.
    pub share: f64,
}

/// When requests arrive, over all clients together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Arrival {
    /// The same rate all the time.
    Constant {
        /// Requests per second.
        per_sec: f64,
    },
    /// From one rate to another over the whole duration.
    Ramp {
        /// Requests per second at the beginning.
        from: f64,
        /// Requests per second at the end.
        to: f64,
    },
    /// A base rate, and for a while a higher one.
    Spike {
        /// Requests per second before and after.
        base: f64,
        /// Requests per second in the spike.
        peak: f64,
        /// When it begins.
        at: Span,
        /// How long it lasts.
        r#for: Span,
    },
    /// Each rate holds until the next one.
    Steps(Vec<Point>),
    /// Straight lines between rates; the first holds before, the last afterwards.
    Points(Vec<Point>),
    /// Day and night.
    Sine {
        /// Requests per second on average.
        mean: f64,
        /// Requests per second that the rate goes above and below the mean.
        amplitude: f64,
        /// From one peak to the next.
        period: Span,
    },
    /// Many at once, once.
    Herd {
        /// How many.
        count: u32,
        /// When.
        at: Span,
        /// Spread evenly at random over so long.
        within: Span,
    },
    /// Each client asks, waits for its answer, thinks, and asks again.
    Closed {
        /// How long it thinks, on average.
        think: Span,
    },
}

impl Default for Arrival {
    fn default() -> Self {
        Self::Constant { per_sec: 100.0 }
    }
}

/// A rate at a point of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// When.
    pub at: Span,
    /// Requests per second.
    pub per_sec: f64,
}

impl Arrival {
    /// The highest rate that it can have, in requests per second. Not a number where a rate is none.
    #[must_use]
    pub fn rate_max(&self) -> f64 {
        let most = |points: &[Point]| points.iter().map(|point| point.per_sec).fold(0.0, f64::max);
        match self {
            Self::Constant { per_sec } => *per_sec,
            Self::Ramp { from, to } => from.max(*to),
            Self::Spike { base, peak, .. } => base.max(*peak),
            Self::Steps(points) | Self::Points(points) => most(points),
            Self::Sine { mean, amplitude, .. } => mean + amplitude.abs(),
            Self::Herd { .. } | Self::Closed { .. } => 0.0,
        }
    }
}
