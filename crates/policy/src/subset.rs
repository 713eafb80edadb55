//! Subsetting: each client connects to a bounded, even share of the endpoints.

use serde::{Deserialize, Serialize};

/// How a bounded subset of the endpoints is chosen for this client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SubsetParams {
    /// Endpoints that this client uses; 0 means all.
    pub size: u32,
    /// How they are chosen.
    pub method: SubsetMethod,
    /// This client's number among its peers (0, 1, 2 …), for the deterministic method; absent, it is derived from the host's name.
    pub client: Option<u32>,
}

impl Default for SubsetParams {
    fn default() -> Self {
        Self { size: 0, method: SubsetMethod::Rendezvous, client: None }
    }
}

/// How a subset is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum SubsetMethod {
    /// Bounded-load rendezvous hashing: even and almost free of churn.
    Rendezvous,
    /// The SRE book's shuffled rounds: even, but a changed set moves many links.
    Deterministic,
    /// Independent random choice, for comparison: uneven.
    Random,
}
