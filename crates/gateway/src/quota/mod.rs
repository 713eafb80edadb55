//! Quotas while they run: what routes ask, and the task that fetches slices from the store that gateways share.
//!
//! No request ever waits for the store: workers spend what was fetched ahead ([`policy::quota`]), and one task a store,
//! on the control thread, fetches more.

mod charge;
mod store;

pub(crate) use charge::{Asked, settle, try_enter};
pub(crate) use store::address;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model::Instant;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::config;
use crate::metrics::Count;
use crate::service::Clock;

/// One quota, shared by every route that names it.
pub(crate) struct Quota {
    pub(crate) name: Arc<str>,
    pub(crate) params: config::Quota,
    pub(crate) policy: policy::quota::Quota,
    /// Requests refused, by worker.
    pub(crate) throttled: Box<[Count]>,
    pub(crate) asked: AtomicU64,
    /// Slices that the store granted whole.
    pub(crate) granted: AtomicU64,
    /// Slices of which the store granted less than was asked for.
    pub(crate) short: AtomicU64,
    /// Slices that the store did not answer for.
    pub(crate) failed: AtomicU64,
}

impl Quota {
    fn new(name: &str, params: &config::Quota, workers: usize, seed: u64) -> Self {
        Self {
            name: name.into(),
            params: params.clone(),
            policy: policy::quota::Quota::new(&params.params(), policy::seed(seed, name)),
            throttled: (0..workers).map(|_| Count::default()).collect(),
            asked: AtomicU64::default(),
            granted: AtomicU64::default(),
            short: AtomicU64::default(),
            failed: AtomicU64::default(),
        }
    }

    /// A quota at one moment.
    pub(crate) fn figures(&self, now: Instant) -> QuotaFigures {
        QuotaFigures {
            name: Arc::clone(&self.name),
            shared: self.params.shared.is_some(),
            reachable: self.policy.reachable(now),
            replicas: self.policy.replicas(),
            throttled: self.throttled.iter().map(Count::get).sum(),
            asked: self.asked.load(Relaxed),
            granted: self.granted.load(Relaxed),
            short: self.short.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

/// A quota at one moment.
pub(crate) struct QuotaFigures {
    pub(crate) name: Arc<str>,
    pub(crate) shared: bool,
    pub(crate) reachable: bool,
    pub(crate) replicas: u32,
    pub(crate) throttled: u64,
    pub(crate) asked: u64,
    pub(crate) granted: u64,
    pub(crate) short: u64,
    pub(crate) failed: u64,
}

/// Every quota of the process. Those whose parameters stay keep what was spent when the configuration changes.
pub(crate) struct Quotas {
    clock: Clock,
    workers: usize,
    seed: u64,
    runtime: Handle,
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    quotas: BTreeMap<String, Arc<Quota>>,
    /// Stops the tasks that fetch slices.
    stop: CancellationToken,
}

impl Quotas {
    /// None yet. Slices are fetched on `runtime`, which should belong to no worker.
    pub(crate) fn new(clock: Clock, workers: usize, runtime: Handle, seed: u64) -> Self {
        Self { clock, workers, seed, runtime, live: Mutex::default() }
    }

    /// Makes the quotas those of `wanted`.
    pub(crate) fn apply(&self, wanted: &BTreeMap<String, config::Quota>) -> BTreeMap<String, Arc<Quota>> {
        let mut live = self.live.lock();
        let unchanged = live.quotas.len() == wanted.len()
            && wanted
                .iter()
                .all(|(name, params)| live.quotas.get(name).is_some_and(|one| one.params == *params));
        if unchanged {
            return live.quotas.clone();
        }
        let quota = |(name, params): (&String, &config::Quota)| {
            let kept = live.quotas.get(name).filter(|known| known.params == *params);
            let quota = kept.cloned().unwrap_or_else(|| {
                Arc::new(Quota::new(name, params, self.workers, policy::seed(self.seed, "table")))
            });
            (name.clone(), quota)
        };
        let quotas: BTreeMap<_, _> = wanted.iter().map(quota).collect();
        live.stop.cancel();
        *live = Live { quotas: quotas.clone(), stop: CancellationToken::new() };
        let mut stores: BTreeMap<&str, Vec<Arc<Quota>>> = BTreeMap::new();
        for quota in quotas.values() {
            if let Some(store) = &quota.params.shared {
                stores.entry(store).or_default().push(Arc::clone(quota));
            }
        }
        for (address, quotas) in stores {
            let fetching = store::fetch(address.to_owned(), quotas.clone(), self.clock, self.seed);
            let stop = live.stop.clone();
            self.runtime.spawn(async move { stop.run_until_cancelled(fetching).await });
        }
        quotas
    }

    /// Every quota at this moment, by name.
    pub(crate) fn figures(&self) -> Vec<QuotaFigures> {
        let now = self.clock.now();
        self.live.lock().quotas.values().map(|quota| quota.figures(now)).collect()
    }
}
