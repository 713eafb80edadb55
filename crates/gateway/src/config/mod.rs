//! What a user may say about the gateway. Every key has a default unless its absence makes no sense.

mod check;
mod http2;
mod listener;
mod mode;
pub(crate) mod problem;
mod process;
mod quota;
mod route;
mod service;
mod tls;

pub use http2::{ListenerHttp2, Protocol, UpstreamHttp2};
pub use listener::{
    ClientTimeouts, Fuse, IpNet, Listener, MessageLimits, ProxyProtocol, ProxyVersion, Role, Tcp,
};
pub use mode::{Measure, Mode, ModeKeys};
pub use problem::{PathElement, Problem, Severity};
pub use process::{AccessLog, AccessLogTarget, Drain, ProcessLimits};
pub use quota::{Quota, QuotaCost};
pub use route::{
    Action, Condition, FixedAnswer, HeaderChanges, Match, RateLimitKeys, Redirect, Rewrite, Route,
    RouteRateLimit, SplitTarget,
};
pub use service::{
    Dns, EndpointParams, FileSd, Health, HealthCheck, HealthKeys, Service, Sticky, UpstreamTimeouts,
};
pub use tls::{
    Alpn, Authorities, Certificate, ClientAuth, ClientCertificate, HttpsRedirect, ListenerTls, ServiceTls,
    TlsVersion, Unmatched,
};

use std::collections::BTreeMap;

use model::Ratio;

use crate::signals::SignalParams;

/// All that the gateway needs to know, as the root configuration hands it over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Config {
    /// Where requests come in.
    pub listeners: Vec<Listener>,
    /// Which request goes where; the most specific match wins, whatever the order.
    pub routes: Vec<Route>,
    /// The services, by name.
    pub services: BTreeMap<String, Service>,
    /// What customers may spend over all gateways, by name.
    pub quotas: BTreeMap<String, Quota>,
    /// Retries that the whole process may add, beside the budget of each service.
    pub retry_budget: policy::budget::RetryBudgetParams,
    /// Bounds of the process.
    pub limits: ProcessLimits,
    /// How the utilisation of the process and its host is judged, by which services cut lower classes.
    pub pressure: SignalParams,
    /// The access log.
    pub access_log: AccessLog,
    /// How the process leaves.
    pub drain: Drain,
    /// Worker threads; 0 means one for each core that the process may use.
    pub workers: u32,
}

impl Config {
    /// Whether any listener reads requests.
    #[must_use]
    pub fn takes_requests(&self) -> bool {
        self.listeners.iter().any(|listener| listener.tcp.is_none())
    }
}

/// The share of endpoints below which availability is thought to be misjudged, by default.
pub(crate) fn panic_below_default() -> Ratio {
    Ratio::percent(34)
}
