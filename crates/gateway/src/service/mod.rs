//! A service while it runs: its endpoints as the workers see them, and the policies that the whole process shares.
//!
//! The control task of a service is the only writer: it listens to discovery, health checks and what
//! workers report, and publishes a new [`View`] whenever something changed. Workers read the view that they have until they
//! notice a newer one, one relaxed load a request.

mod clock;
mod control;
mod entrance;
mod events;
mod member;
mod modes;
mod places;
mod services;
mod state;
mod status;

#[cfg(test)]
mod state_tests;
#[cfg(test)]
mod tests;
pub use clock::Clock;
pub use control::Control;
pub use entrance::Entrance;
pub use events::{Event, What};
pub use modes::Degradation;
pub(crate) use modes::Degraded;
pub use places::{NoPlace, Places};
pub use services::Services;
pub use status::{
    AdmissionStatus, BreakerStatus, BulkheadStatus, ClassShed, DiscoveryStatus, EndpointStatus, ModeStatus,
    ReasonStatus, ReportStatus, ServiceStatus, reason_name,
};

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use policy::balance::Balancer;
use policy::{Endpoint, Fleet};

use crate::config;
use crate::tls::Security;

/// One endpoint: where it is, and what this process has learnt about it.
pub struct Target {
    /// Never used again for another target, so that pooled connections cannot be mistaken for another endpoint's.
    pub id: u64,
    /// Where it is.
    pub address: SocketAddr,
    /// Load, errors and availability.
    pub endpoint: Arc<Endpoint>,
    /// Fails over at once while it fails.
    pub breaker: policy::breaker::Breaker,
    /// Failures in a row.
    pub streak: policy::ejection::Streak,
}

/// Everything a worker needs to send a request to the service, immutable.
pub struct View {
    /// Counts up with every published view of this service.
    pub version: u64,
    /// What the user said.
    pub params: Arc<config::Service>,
    /// The endpoints as balancers see them.
    pub fleet: Fleet,
    /// The same endpoints in the same order, with what only the gateway needs.
    pub targets: Box<[Arc<Target>]>,
    /// Picks among them.
    pub balancer: Box<dyn Balancer>,
    /// Fails at once while the whole service fails.
    pub breaker: Arc<policy::breaker::Breaker>,
    /// Bounds the retries of the whole service.
    pub retry_budget: Arc<policy::budget::RetryBudget>,
    /// Lets requests in by class, as many as the service can work on.
    pub entrance: Arc<Entrance>,
    /// Refuses here what the service would most likely refuse.
    pub throttle: Arc<policy::throttle::Throttle>,
    /// How often callers have tried already.
    pub callers: Arc<policy::callers::Callers>,
    /// In which ways the service may do less, if it has any.
    pub degradation: Option<Arc<Degradation>>,
    /// Bounds what is under way.
    pub bulkhead: Arc<Places>,
    /// Bounds upgraded connections.
    pub tunnels: Arc<policy::bulkhead::Bulkhead>,
    /// How connections to endpoints are secured.
    pub(crate) security: Security,
    /// Finds the endpoint that a client's cookie names, if the service is sticky.
    pub sticky: Option<policy::sticky::Sticky>,
}

/// What workers tell the control task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A target failed so many requests in a row that it may have to be ejected.
    Failing {
        /// The target's id.
        target: u64,
    },
    /// A target's answer said that it wants no new requests. Workers have already set the reason on the endpoint.
    LameDuck {
        /// The target's id.
        target: u64,
    },
}

/// A service as everybody holds it. Lives as long as a configuration names it; its state survives reloads.
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Its position in per-service tables: unique among live services, small, used again after removal.
    pub index: usize,
    version: AtomicU64,
    view: RwLock<Arc<View>>,
    notices: tokio::sync::mpsc::Sender<Notice>,
}

impl Service {
    /// A service whose first view is `view`; its control task reads what `notices` brings.
    #[must_use]
    pub fn new(name: &str, index: usize, view: View, notices: tokio::sync::mpsc::Sender<Notice>) -> Self {
        Self {
            name: name.into(),
            index,
            version: AtomicU64::new(view.version),
            view: RwLock::new(Arc::new(view)),
            notices,
        }
    }

    /// The version of the newest view: compare with [`View::version`] to see whether [`Service::view`] is worth calling.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The newest view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read())
    }

    /// Makes `view` the newest one.
    pub fn publish(&self, view: View) {
        let version = view.version;
        *self.view.write() = Arc::new(view);
        self.version.store(version, Ordering::Release);
    }

    /// Tells the control task. A notice is lost when the task is far behind: it also looks for itself at every interval.
    pub fn notify(&self, notice: Notice) {
        let _ = self.notices.try_send(notice);
    }
}
