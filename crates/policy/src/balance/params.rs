//! What a user may say about balancing.

use alloc::string::String;
use model::{Ratio, Span};
use serde::{Deserialize, Deserializer, Serialize, de};

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
    /// The name that the client proved with its TLS certificate.
    Identity,
}

/// Weights from what endpoints report (ORCA).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct WeightedByLoadParams {
    /// How much an endpoint's error rate counts against it; 0 ignores errors.
    #[serde(deserialize_with = "not_negative")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
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
    /// Probe results kept, from 2 to 64.
    #[serde(deserialize_with = "pool_size")]
    #[cfg_attr(feature = "schema", schemars(range(min = 2, max = 64)))]
    pub pool_size: u32,
    /// A result older than this is dropped.
    pub probe_age_max: Span,
    /// Probes sent per request; a fraction is sent by chance. No request sends more than 16.
    #[serde(deserialize_with = "not_negative")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
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
    /// Points on the ring per endpoint of weight 1. A ring of more than 262 144 points is thinned out.
    #[serde(default = "points_default")]
    #[serde(deserialize_with = "points")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1)))]
    pub points: u32,
    /// An endpoint takes at most this many times the mean load, 1 or more; 0 turns the bound off.
    #[serde(default = "load_bound_default")]
    #[serde(deserialize_with = "load_bound")]
    #[cfg_attr(feature = "schema", schemars(range(min = 0)))]
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
    /// Slots of the table, at most 5 000 011 and at least one per endpoint; rounded up to a prime.
    #[serde(default = "table_size_default")]
    #[serde(deserialize_with = "table_size")]
    #[cfg_attr(feature = "schema", schemars(range(min = 3, max = 5_000_011)))]
    pub table_size: u32,
}

fn table_size_default() -> u32 {
    65_537
}

/// A value that `fits`, or an error that says what is `wanted`, so that the reader of the file can point at it.
fn ranged<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
    wanted: &str,
    fits: impl Fn(&T) -> bool,
) -> Result<T, D::Error> {
    let value = T::deserialize(deserializer)?;
    if fits(&value) { Ok(value) } else { Err(de::Error::custom(wanted)) }
}

fn not_negative<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    ranged(deserializer, "expected a finite number that is not negative", |value: &f64| {
        value.is_finite() && *value >= 0.0
    })
}

fn load_bound<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    ranged(deserializer, "expected a finite number from 1 on, or 0 for no bound", |value: &f64| {
        *value == 0.0 || value.is_finite() && *value >= 1.0
    })
}

fn pool_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    ranged(deserializer, "expected a number from 2 to 64", |value| (2..=64).contains(value))
}

fn points<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    ranged(deserializer, "expected a number from 1 on", |value| *value >= 1)
}

fn table_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    ranged(deserializer, "expected a number from 3 to 5000011", |value| (3..=5_000_011).contains(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::format;

    #[test]
    fn what_is_out_of_range_is_refused() {
        for good in [
            r#""least_loaded""#,
            r#"{"weighted_by_load":{"error_penalty":0}}"#,
            r#"{"prequal":{"pool_size":64,"probes_per_request":0.5}}"#,
            r#"{"ring_hash":{"key":"client_address","load_bound":0}}"#,
            r#"{"ring_hash":{"key":{"header":"x-user"},"points":1,"load_bound":1}}"#,
            r#"{"maglev":{"key":{"cookie":"id"},"table_size":3}}"#,
        ] {
            assert!(serde_json::from_str::<Balance>(good).is_ok(), "{good}");
        }
        for bad in [
            r#"{"weighted_by_load":{"error_penalty":-1}}"#,
            r#"{"prequal":{"pool_size":1}}"#,
            r#"{"prequal":{"pool_size":65}}"#,
            r#"{"prequal":{"probes_per_request":-0.1}}"#,
            r#"{"ring_hash":{"key":"path","load_bound":0.9}}"#,
            r#"{"ring_hash":{"key":"path","points":0}}"#,
            r#"{"maglev":{"key":"path","table_size":5000012}}"#,
        ] {
            let error = format!("{:?}", serde_json::from_str::<Balance>(bad));
            assert!(error.contains("expected a"), "{bad}: {error}");
        }
    }

    #[test]
    fn defaults_are_in_range() {
        for default in [
            Balance::default(),
            Balance::WeightedByLoad(WeightedByLoadParams::default()),
            Balance::Prequal(PrequalParams::default()),
        ] {
            let text = serde_json::to_string(&default).unwrap();
            assert_eq!(serde_json::from_str::<Balance>(&text).unwrap(), default, "{text}");
        }
    }
}
