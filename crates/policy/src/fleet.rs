//! The endpoints of one service at one moment, and which of them may be picked.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use model::Ratio;

use crate::Endpoint;

/// An immutable picture of a service's endpoints. Rebuilt when the set or an endpoint's availability changes; the
/// endpoints themselves, with all that was learnt about them, are shared between pictures.
///
/// Balancers pick among [`Fleet::candidates`]: the available endpoints, or all of them while the fleet
/// [panics](Fleet::panicking). An endpoint that became unavailable a moment ago may still be among them, so a
/// balancer also skips whoever is no longer [available](Endpoint::available) unless the fleet panics.
#[derive(Debug)]
pub struct Fleet {
    endpoints: Box<[Arc<Endpoint>]>,
    candidates: Box<[u32]>,
    panicking: bool,
}

impl Fleet {
    /// A picture of `endpoints`. When less than `panic_below` of them is available, availability is thought to be
    /// misjudged and all of them are candidates (fails open). With [`Ratio::ZERO`] it never panics: when nobody is
    /// available, nobody is picked (fails closed).
    #[must_use]
    pub fn new(endpoints: Vec<Arc<Endpoint>>, panic_below: Ratio) -> Self {
        let available: Box<[u32]> = (0u32..)
            .zip(&endpoints)
            .filter(|(_, endpoint)| endpoint.available())
            .map(|(index, _)| index)
            .collect();
        let panicking = (available.len() as f64) < panic_below.get() * endpoints.len() as f64;
        let candidates = if panicking { (0u32..).take(endpoints.len()).collect() } else { available };
        Self { endpoints: endpoints.into(), candidates, panicking }
    }

    /// Every endpoint, in the order of the configuration or the discovery answer.
    #[must_use]
    pub fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// Indices into [`Fleet::endpoints`] of those that may be picked.
    #[must_use]
    pub fn candidates(&self) -> &[u32] {
        &self.candidates
    }

    /// Whether so few are available that availability is ignored.
    #[must_use]
    pub fn panicking(&self) -> bool {
        self.panicking
    }
}
