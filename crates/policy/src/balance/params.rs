//! What a user may say about balancing.

use alloc::string::String;
use model::{Ratio, Span};
use serde::{Deserialize, Serialize};

/// The balancing policy of a service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Balance {
    /// In turn, by configured weight.
    RoundRobin,
    /// At random, by configured weight.
    Random,
    /// The better of two random endpoints by active requests, where recent errors count as load.
    #[default]
    LeastLoaded,
    /// The better of two random endpoints by peak-sensitive moving average of latency times active requests.
    PeakEwma,
    /// In turn, by the utilisation and error rate that endpoints report.
    WeightedByLoad(WeightedByLoadParams),
    /// Prequal: the cooler of probed endpoints by requests in flight, then the fastest by latency.
    Prequal(PrequalParams),
    /// A ring hash of a request's key, with bounded load.
    RingHash(RingHashParams),
    /// Maglev hashing of a request's key.
    Maglev(MaglevParams),
}

/// What identifies the user or object that requests are placed by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum HashKey {
    /// The value of a request header.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
    /// The client's address.
    ClientAddress,
    /// The path, without the query.
    Path,
}

/// Weights from what endpoints report (ORCA).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WeightedByLoadParams {
    /// How much an endpoint's error rate counts against it.
    pub error_penalty: f64,
    /// Reports younger than this after an endpoint joined are not believed yet.
    pub blackout: Span,
    /// A report older than this is forgotten.
    pub report_age_max: Span,
    /// How often weights are computed anew.
    pub update_interval: Span,
}

impl Default for WeightedByLoadParams {
    fn default() -> Self {
        Self {
            error_penalty: 1.0,
            blackout: Span::from_secs(10),
            report_age_max: Span::from_secs(180),
            update_interval: Span::from_secs(1),
        }
    }
}

/// Prequal's pool of probe results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PrequalParams {
    /// Probe results kept.
    pub pool_size: u32,
    /// A result older than this is dropped.
    pub probe_age_max: Span,
    /// Probes sent per request.
    pub probes_per_request: f64,
    /// The quantile of requests in flight above which an endpoint is hot.
    pub hot_quantile: Ratio,
    /// The path to probe. Absent: only what ordinary answers report is used.
    pub probe_path: Option<String>,
}

impl Default for PrequalParams {
    fn default() -> Self {
        Self {
            pool_size: 16,
            probe_age_max: Span::from_secs(1),
            probes_per_request: 3.0,
            hot_quantile: Ratio::percent(84),
            probe_path: None,
        }
    }
}

/// A consistent-hash ring.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RingHashParams {
    /// What is hashed.
    pub key: HashKey,
    /// Points on the ring per endpoint of weight 1.
    #[serde(default = "points_default")]
    pub points: u32,
    /// An endpoint takes at most this many times the mean load; 0 turns the bound off.
    #[serde(default = "load_bound_default")]
    pub load_bound: f64,
}

fn points_default() -> u32 {
    100
}

fn load_bound_default() -> f64 {
    1.25
}

/// A Maglev table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MaglevParams {
    /// What is hashed.
    pub key: HashKey,
    /// Slots of the table; rounded up to a prime.
    #[serde(default = "table_size_default")]
    pub table_size: u32,
}

fn table_size_default() -> u32 {
    65_537
}
