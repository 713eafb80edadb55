use model::{Ratio, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Something that goes wrong for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When it begins.
    pub at: Span,
    /// How long it lasts. Absent: to the end.
    #[serde(default)]
    pub r#for: Option<Span>,
    /// The service that it befalls.
    pub service: String,
    /// Which of its endpoints.
    #[serde(default)]
    pub endpoints: Endpoints,
    /// Each endpoint is struck, and recovers, so much later than the one before it: a rolling change.
    #[serde(default)]
    pub stagger: Span,
    /// Only requests of this traffic are struck (`fail` and `black_hole`). Absent: all.
    #[serde(default)]
    pub traffic: Option<String>,
    /// What happens.
    pub what: What,
}

/// Endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Endpoints {
    /// Every one.
    #[default]
    All,
    /// The first so many.
    Count(u32),
    /// This share of them, rounded up.
    Share(Ratio),
    /// Those of a zone.
    Zone(String),
    /// The one at this position, counted from 0.
    Index(u32),
}

/// What happens to an endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// It loses what it works on and refuses connections. When it comes back, its cache is cold.
    Die,
    /// Everything takes so many times as long.
    Slow(f64),
    /// This share of requests fails at once (500).
    Fail(Ratio),
    /// It accepts requests and never answers.
    BlackHole,
    /// It stands still, and goes on where it was.
    Pause,
    /// Only this share of its workers is left.
    Capacity(Ratio),
    /// It works, and asks for no new requests.
    LameDuck,
    /// A bad version, installed with a restart at the beginning and taken back with one at the end.
    BadVersion {
        /// Share of requests that fail at once (500).
        fail: Ratio,
        /// How many times as long requests take.
        slow: f64,
        /// How long each restart takes.
        restart: Span,
    },
}
