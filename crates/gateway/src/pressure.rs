//! Tells every service's admission how busy this process, its host and the service's endpoints are.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use model::Instant;
use parking_lot::Mutex;

use crate::metrics::WorkerMetrics;
use crate::service::{Control, View};
use crate::signals::{Executor, Host, Signal, SignalParams, Signals, Utilisation};

/// How often admission is told.
pub(crate) const INTERVAL: Duration = Duration::from_millis(100);
/// An endpoint's report says nothing about now once it is this old.
const REPORT_AGE_MAX: Duration = Duration::from_secs(10);
/// What runs out only for those who may wait: a process that uses all of its CPU time may still answer in time. Lag shows
/// when it does not, and memory that is gone is gone for everybody.
const SOFT: [Signal; 2] = [Signal::Cpu, Signal::RunQueue];
const HARD: [Signal; 2] = [Signal::Memory, Signal::Lag];

/// What is known of the process and its host.
pub(crate) struct Pressure {
    workers: Vec<Arc<WorkerMetrics>>,
    known: Mutex<Known>,
}

struct Known {
    params: SignalParams,
    signals: Signals,
    host: Host,
    utilisation: Utilisation,
}

impl Pressure {
    pub(crate) fn new(params: &SignalParams, workers: Vec<Arc<WorkerMetrics>>) -> Self {
        let known = Known {
            params: params.clone(),
            signals: Signals::new(params),
            host: Host::default(),
            utilisation: Utilisation::default(),
        };
        Self { workers, known: Mutex::new(known) }
    }

    /// Other parameters: what was smoothed begins anew.
    pub(crate) fn reconfigure(&self, params: &SignalParams) {
        let mut known = self.known.lock();
        if known.params != *params {
            (known.params, known.signals) = (params.clone(), Signals::new(params));
        }
    }

    /// What was read last.
    pub(crate) fn utilisation(&self) -> Utilisation {
        self.known.lock().utilisation
    }

    /// Reads everything and tells `services`; to be called every [`INTERVAL`].
    pub(crate) fn tell(&self, now: Instant, services: &[Arc<Control>]) {
        let lag = self.workers.iter().map(|worker| worker.lag_nanos.load(Relaxed)).max();
        let utilisation = {
            let known = &mut *self.known.lock();
            let executor = Executor { busy: None, lag: lag.map(Duration::from_nanos) };
            known.utilisation = known.signals.on_readings(now, &known.host.read(), &executor);
            known.utilisation
        };
        let most = |signals: [Signal; 2]| signals.into_iter().filter_map(|signal| utilisation.get(signal));
        let (soft, hard) = (most(SOFT).fold(0.0, f64::max), most(HARD).fold(0.0, f64::max));
        for service in services {
            let view = service.service().view();
            let soft = soft.max(reported(&view, now).unwrap_or(0.0));
            view.entrance.set_pressure(soft, hard);
        }
    }
}

/// The mean of what the service's endpoints lately said of their utilisation; one that is busier than the others is for the
/// balancer to spare.
fn reported(view: &View, now: Instant) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0_u32);
    for target in &view.targets {
        if let Some((at, report)) = target.endpoint.report()
            && now.since(at) <= REPORT_AGE_MAX
            && let Some(utilisation) = report.utilization()
        {
            (sum, count) = (sum + utilisation, count + 1);
        }
    }
    (count > 0).then(|| sum / f64::from(count))
}
