//! One endpoint as every policy sees it: what is known of its load, its errors and whether it may be used.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::{Instant, Verdict};

/// A reason why an endpoint gets no new requests. Several can hold at once; each is lifted by whoever set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Unavailable {
    /// Active health checks fail.
    Unhealthy = 1,
    /// Taken out because of what real requests met there.
    Ejected = 2,
    /// It asked for no new requests and finishes what it has.
    LameDuck = 4,
    /// An operator took it out.
    Disabled = 8,
}

/// How one attempt ended, as its endpoint is told.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// From sending the request to the first byte of the answer's head, or to the failure.
    pub latency: Duration,
    /// What it says about the endpoint.
    pub verdict: Verdict,
}

/// What an endpoint says of its own load (ORCA `endpoint-load-metrics`). Absent figures were not reported.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// Utilisation that the application vouches for; 1.0 is its capacity, more is possible.
    pub application_utilization: Option<f64>,
    /// CPU utilisation; 1.0 is all it may use.
    pub cpu_utilization: Option<f64>,
    /// Memory utilisation.
    pub mem_utilization: Option<f64>,
    /// Requests per second that it serves.
    pub rps_fractional: Option<f64>,
    /// Errors per second that it answers.
    pub eps: Option<f64>,
    /// Requests in flight.
    pub requests_in_flight: Option<u32>,
    /// Its own estimate of the latency at that number in flight.
    pub latency: Option<Duration>,
}

/// One endpoint of a service, shared by every worker of the process.
#[derive(Debug)]
pub struct Endpoint {
    name: Box<str>,
    key: u64,
    weight: u32,
    active_max: u32,
    unavailable: AtomicU8,
    active: AtomicU32,
    // Further facts (latency, errors, reports, age) live here, each a relaxed atomic.
    joined: AtomicU64,
}

impl Endpoint {
    /// An endpoint called `name` (unique in its service, such as `10.0.0.1:8080`) that joined at `now`.
    ///
    /// `weight` is relative to the other endpoints of the service; `active_max` bounds its active requests.
    #[must_use]
    pub fn new(name: &str, weight: u32, active_max: u32, now: Instant) -> Self {
        Self {
            name: name.into(),
            key: crate::hash(name.as_bytes()),
            weight,
            active_max,
            unavailable: AtomicU8::new(0),
            active: AtomicU32::new(0),
            joined: AtomicU64::new(now.as_nanos()),
        }
    }

    /// Its name, unique in its service.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A stable hash of its name, for placements that must survive restarts.
    #[must_use]
    pub fn key(&self) -> u64 {
        self.key
    }

    /// Its configured weight.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Requests that it is working on for this process.
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Whether no reason speaks against new requests.
    #[must_use]
    pub fn available(&self) -> bool {
        self.unavailable.load(Relaxed) == 0
    }

    /// Whether its active requests leave room for one more.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.active() < self.active_max
    }

    /// The reasons that speak against new requests.
    pub fn reasons(&self) -> impl Iterator<Item = Unavailable> + use<> {
        let flags = self.unavailable.load(Relaxed);
        [Unavailable::Unhealthy, Unavailable::Ejected, Unavailable::LameDuck, Unavailable::Disabled]
            .into_iter()
            .filter(move |reason| flags & *reason as u8 != 0)
    }

    /// Sets or lifts one reason; answers whether that changed anything.
    pub fn set_unavailable(&self, reason: Unavailable, holds: bool) -> bool {
        let bit = reason as u8;
        let before = if holds {
            self.unavailable.fetch_or(bit, Relaxed)
        } else {
            self.unavailable.fetch_and(!bit, Relaxed)
        };
        (before & bit != 0) != holds
    }

    /// A request was sent to it.
    pub fn on_start(&self, _now: Instant) {
        self.active.fetch_add(1, Relaxed);
    }

    /// A request that was sent to it ended. Called exactly once per [`Endpoint::on_start`], cancelled ones included.
    pub fn on_end(&self, _now: Instant, _ended: Ended) {
        self.active.fetch_sub(1, Relaxed);
    }

    /// It reported its load.
    pub fn on_report(&self, _now: Instant, _report: &Report) {}

    /// It starts anew (joined, restarted, recovered): slow start counts from `now`.
    pub fn on_join(&self, now: Instant) {
        self.joined.store(now.as_nanos(), Relaxed);
    }
}
