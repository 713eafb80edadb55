//! The configuration as workers use it: one immutable value, swapped whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use model::{Criticality, Instant};
use policy::budget::{RetryBudget, RetryBudgetParams};
use policy::hedge::HedgeTimer;
use policy::rate_limit::RateLimiter;
use policy::split::Split;

use crate::config;
use crate::fuse::Fuse;
use crate::metrics::RouteMetrics;
use crate::quota::Quota;
use crate::router::Router;
use crate::service::{Service, View};

/// One accepted configuration.
pub(crate) struct Snapshot {
    /// Counts up with every accepted configuration.
    pub(crate) version: u64,
    pub(crate) router: Router,
    /// By the router's route index.
    pub(crate) routes: Box<[RouteState]>,
    /// By name, and by the index that the router's actions name.
    pub(crate) services: Box<[Arc<Service>]>,
    /// Bounds the retries of the whole process.
    pub(crate) retry_budget: Arc<RetryBudget>,
    pub(crate) retry_budget_params: RetryBudgetParams,
    /// How long connections may go on whose listener has been removed.
    pub(crate) drain_finish: std::time::Duration,
    /// Request headers that tell who a client proved to be: never taken from clients, on any listener.
    pub(crate) identity_headers: Box<[Box<str>]>,
    /// Of the batch listeners, by the address that the configuration gives them.
    pub(crate) fuses: Box<[(SocketAddr, Arc<Fuse>)]>,
}

impl Snapshot {
    /// Whether this field's word is the gateway's own.
    pub(crate) fn is_identity_header(&self, name: &[u8]) -> bool {
        self.identity_headers.iter().any(|own| name.eq_ignore_ascii_case(own.as_bytes()))
    }

    /// The fuse of the listener at `address`, if it is one for batch jobs.
    pub(crate) fn fuse(&self, address: SocketAddr) -> Option<&Arc<Fuse>> {
        self.fuses.iter().find(|(at, _)| *at == address).map(|(_, fuse)| fuse)
    }
}

/// What a route needs beside what the router compiled.
pub(crate) struct RouteState {
    pub(crate) name: Arc<str>,
    pub(crate) params: config::Route,
    pub(crate) criticality: Criticality,
    pub(crate) metrics: Arc<RouteMetrics>,
    pub(crate) limiter: Option<Arc<RateLimiter>>,
    pub(crate) quota: Option<Arc<Quota>>,
    pub(crate) hedge: Option<Arc<HedgeTimer>>,
    pub(crate) split: Option<Split>,
}

/// A view as one worker holds it: counted without atomics.
pub(crate) struct Seen(Arc<View>);

impl Deref for Seen {
    type Target = View;

    fn deref(&self) -> &View {
        &self.0
    }
}

/// A worker's own handle on a snapshot: counted without atomics, with the newest view of each service that it has seen.
pub(crate) struct Local {
    pub(crate) snapshot: Arc<Snapshot>,
    views: RefCell<Box<[Option<Rc<Seen>>]>>,
}

impl Local {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Rc<Self> {
        let views = snapshot.services.iter().map(|_| None).collect();
        Rc::new(Self { snapshot, views: RefCell::new(views) })
    }

    /// The index of the service called `name`.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        // They come by name.
        self.snapshot.services.binary_search_by(|service| (*service.name).cmp(name)).ok()
    }

    /// The newest view of the service at `index`.
    pub(crate) fn view(&self, index: usize) -> Rc<Seen> {
        let service = &self.snapshot.services[index];
        let slot = &mut self.views.borrow_mut()[index];
        match slot {
            Some(view) if view.version == service.version() => Rc::clone(view),
            _ => Rc::clone(slot.insert(Rc::new(Seen(service.view())))),
        }
    }
}

/// The headers by which any of `listeners` tells who a client is.
pub(crate) fn identity_headers(listeners: &[config::Listener]) -> Box<[Box<str>]> {
    let names = listeners.iter().filter_map(|listener| listener.tls.as_ref()?.identity_header.as_deref());
    names.map(Box::from).collect()
}

/// The fuses of `listeners`, keeping those whose parameters are the same. One with other parameters begins empty: until the
/// requests under way and in line have ended, both old and new ones have places.
pub(crate) fn fuses(
    listeners: &[config::Listener],
    before: Option<&Snapshot>,
    workers: usize,
) -> Box<[(SocketAddr, Arc<Fuse>)]> {
    let fuse = |listener: &config::Listener| {
        let params = listener.fuse_in_force()?;
        let kept =
            before.and_then(|before| before.fuse(listener.address)).filter(|fuse| fuse.params == params);
        let fuse = kept.map_or_else(|| Arc::new(Fuse::new(&params, workers)), Arc::clone);
        Some((listener.address, fuse))
    };
    listeners.iter().filter_map(fuse).collect()
}

/// Builds route states, keeping what was learnt under the same name and parameters.
pub(crate) fn route_state(
    name: &str,
    params: &config::Route,
    quotas: &BTreeMap<String, Arc<Quota>>,
    before: Option<&RouteState>,
    workers: usize,
    now: Instant,
) -> RouteState {
    let metrics = before.map_or_else(|| RouteMetrics::new(workers), |before| Arc::clone(&before.metrics));
    let kept = |same: bool| before.filter(|_| same);
    let limiter = params.rate_limit.as_ref().map(|limit| {
        kept(before.is_some_and(|before| before.params.rate_limit.as_ref() == Some(limit)))
            .and_then(|before| before.limiter.clone())
            .unwrap_or_else(|| Arc::new(RateLimiter::new(&limit.limit, policy::hash(name.as_bytes()))))
    });
    let hedge = params.hedge.as_ref().map(|hedge| {
        kept(before.is_some_and(|before| before.params.hedge.as_ref() == Some(hedge)))
            .and_then(|before| before.hedge.clone())
            .unwrap_or_else(|| Arc::new(HedgeTimer::new(hedge, workers, now)))
    });
    let parts = params.split.iter().map(|target| (policy::hash(target.service.as_bytes()), target.weight));
    RouteState {
        name: name.into(),
        params: params.clone(),
        criticality: params.criticality.unwrap_or_default(),
        metrics,
        limiter,
        quota: params.quota.as_ref().and_then(|quota| quotas.get(quota)).cloned(),
        hedge,
        split: (!params.split.is_empty()).then(|| Split::new(parts)),
    }
}
