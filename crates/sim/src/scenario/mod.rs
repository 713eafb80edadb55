//! What is simulated, as a file says it.

mod check;
mod fault;
mod policies;
mod service;
mod traffic;

use std::collections::BTreeMap;

use model::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use fault::{Endpoints, Fault, What};
pub use policies::{RoutePolicies, ServicePolicies, Timeouts};
pub use service::{Backend, Cache, Call, Crash, Discipline, Distribution, Pauses, Service};
pub use traffic::{Arrival, ClassShare, Point, Traffic};

/// A fleet, what is asked of it and what befalls it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it shows, in one line.
    pub title: String,
    /// What chance begins with. The same seed gives the same report.
    pub seed: u64,
    /// How long traffic arrives. Requests that are under way then are still played to their end.
    pub duration: Span,
    /// Width of the time slots of the report's series.
    pub slot: Span,
    /// Time from a caller to an endpoint and back.
    pub network: Span,
    /// Gateways between clients and services; each runs the policies of all services on behalf of all clients. With 0
    /// every client runs them itself.
    pub gateways: u32,
    /// Who asks, by name. The name is that of the route, too.
    pub traffic: BTreeMap<String, Traffic>,
    /// Who answers, by name.
    pub services: BTreeMap<String, Service>,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

impl Default for Scenario {
    fn default() -> Self {
        Self {
            title: String::new(),
            seed: 1,
            duration: Span::from_secs(60),
            slot: Span::from_secs(1),
            network: Span::from_millis(1),
            gateways: 1,
            traffic: BTreeMap::new(),
            services: BTreeMap::new(),
            faults: Vec::new(),
        }
    }
}
