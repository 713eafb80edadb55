use model::{Ratio, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ServicePolicies;

/// A service: its endpoints, what they are able to do, what they call, and how they are called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Service {
    /// How many endpoints it has.
    pub endpoints: u32,
    /// Zones that the endpoints are dealt out to in turn.
    pub zones: Vec<String>,
    /// What each endpoint is able to do.
    pub backend: Backend,
    /// What an endpoint calls for each request, one after the other, when its own work is done.
    pub calls: Vec<Call>,
    /// How it is called.
    pub policies: ServicePolicies,
}

impl Default for Service {
    fn default() -> Self {
        Self {
            endpoints: 1,
            zones: Vec::new(),
            backend: Backend::default(),
            calls: Vec::new(),
            policies: ServicePolicies::default(),
        }
    }
}

/// A call that an endpoint makes for each of its requests. When it fails, the request fails: with 502, or with 503 and
/// "don't retry" when the call was refused for load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The service that is called.
    pub service: String,
    /// How many calls, all at the same time; the slowest counts.
    #[serde(default = "one")]
    pub times: u32,
    /// Only when the endpoint's cache misses.
    #[serde(default)]
    pub on_miss: bool,
    /// The request is answered without it when it fails.
    #[serde(default)]
    pub optional: bool,
}

fn one() -> u32 {
    1
}

/// What one endpoint is able to do.
///
/// Its capacity is `workers` divided by the mean service time, in requests per second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backend {
    /// Requests that it works on at once without slowing down.
    pub workers: u32,
    /// What it does with more.
    pub discipline: Discipline,
    /// Requests that may wait (`fifo`) or be worked on beyond `workers` (`sharing`); more are refused with 503.
    pub queue_max: u32,
    /// Work per request: how long it takes when nothing slows it down.
    pub service_time: Distribution,
    /// Added to the service time for each request that is under way when it begins.
    pub slowdown_per_active: Span,
    /// Share of requests that fail (500) all the time.
    pub fail_share: Ratio,
    /// Drops a request whose deadline has passed before work on it begins, and tells what it calls how much is left and
    /// which attempt this is.
    pub heeds_deadlines: bool,
    /// Stops working for callers that have gone away. Most real servers do not notice.
    pub stops_abandoned: bool,
    /// Keeps a worker busy while it waits for what it calls.
    pub blocks: bool,
    /// Says "overloaded, don't retry" when it refuses.
    pub says_dont_retry: bool,
    /// Tells its load with each answer, for policies that want to know it.
    pub reports_load: bool,
    /// A cache, which is cold at the start and after a restart.
    pub cache: Option<Cache>,
    /// What happens when it takes on too much. Absent: it refuses, but it does not die.
    pub crash: Option<Crash>,
    /// Regular stand-stills, such as those of a garbage collector.
    pub pauses: Option<Pauses>,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            workers: 16,
            discipline: Discipline::Fifo,
            queue_max: 1_000,
            service_time: Distribution::Exponential { mean: Span::from_millis(10) },
            slowdown_per_active: Span::from_millis(0),
            fail_share: Ratio::ZERO,
            heeds_deadlines: false,
            stops_abandoned: false,
            blocks: true,
            says_dont_retry: false,
            reports_load: false,
            cache: None,
            crash: None,
            pauses: None,
        }
    }
}

/// What an endpoint does with more requests than it has workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discipline {
    /// They wait for their turn.
    #[default]
    Fifo,
    /// All are worked on, each the slower the more there are.
    Sharing,
}

/// How long the work for a request takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Distribution {
    /// Always the same.
    Constant(Span),
    /// Memoryless.
    Exponential {
        /// On average.
        mean: Span,
    },
    /// Log-normal: what most services look like.
    LogNormal {
        /// Half of all are faster.
        median: Span,
        /// One in a hundred is slower.
        p99: Span,
    },
    /// Two kinds of request.
    Bimodal {
        /// The usual one.
        fast: Span,
        /// The rare one.
        slow: Span,
        /// Share of the rare ones.
        slow_share: Ratio,
    },
}

/// A cache in an endpoint. Its hit ratio grows with the requests served since it started:
/// `hit_ratio_max × (1 − exp(−served / warm_after))`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Hit ratio when it is warm.
    pub hit_ratio_max: Ratio,
    /// Requests after which about two thirds of that are reached.
    pub warm_after: u32,
    /// How many times the work of a hit a miss costs.
    pub miss_factor: f64,
    /// Begins warm; it is cold after a restart only.
    pub warm: bool,
}

impl Default for Cache {
    fn default() -> Self {
        Self { hit_ratio_max: Ratio::percent(95), warm_after: 10_000, miss_factor: 10.0, warm: true }
    }
}

/// Dying of overload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Crash {
    /// Requests on it, waiting ones included, at which it runs out of memory. All of them are lost.
    pub at: u32,
    /// How long a restart takes; connections are refused meanwhile.
    pub restart: Span,
}

/// Regular stand-stills: it accepts requests and works on none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pauses {
    /// From one to the next, on average; endpoints pause at different times.
    pub every: Span,
    /// How long each lasts.
    pub r#for: Span,
}
