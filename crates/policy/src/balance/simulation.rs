//! A service in virtual time: an open stream of requests through a real balancer to make-believe endpoints.

use alloc::collections::BinaryHeap;
use core::cmp::Reverse;
use core::time::Duration;
use std::vec::Vec;

use model::{Instant, Verdict};

use super::{Balancer, Pick};
use crate::{Ended, Fleet, Report, Rng};

/// What is sent, and what endpoints tell of themselves.
pub(super) struct Load {
    pub(super) start: Instant,
    pub(super) span: Duration,
    /// Requests per second, at random times.
    pub(super) rps: f64,
    /// Random endpoints that report per request, as probing makes them.
    pub(super) probes: u32,
    /// Whether an answer reports too.
    pub(super) reports: bool,
    pub(super) seed: u64,
}

impl Load {
    pub(super) fn new(rps: f64, secs: u64) -> Self {
        Self {
            start: Instant::from_secs(1_000),
            span: Duration::from_secs(secs),
            rps,
            probes: 0,
            reports: false,
            seed: 1,
        }
    }
}

/// What became of it.
pub(super) struct Served {
    /// Requests that each endpoint got.
    pub(super) counts: Vec<u64>,
    /// Requests that nobody could be picked for.
    pub(super) refused: u64,
    /// Milliseconds of each request, in the order that they ended.
    latencies: Vec<f64>,
    pub(super) failures: u64,
}

impl Served {
    pub(super) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn share(&self, index: usize) -> f64 {
        self.counts[index] as f64 / self.total() as f64
    }

    pub(super) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[(sorted.len() - 1) * percent / 100]
    }
}

/// Runs `load`; `answer` says how the endpoint at an index answers a request that starts now. Every request has ended
/// when this returns.
pub(super) fn run(
    fleet: &Fleet,
    balancer: &dyn Balancer,
    load: &Load,
    mut answer: impl FnMut(u32, Instant, &mut Rng) -> Ended,
) -> Served {
    let count = fleet.endpoints().len();
    let mut rng = Rng::with_seed(load.seed);
    let mut ends = BinaryHeap::new();
    let mut estimates = std::vec![Duration::from_millis(1); count];
    let mut served = Served { counts: std::vec![0; count], refused: 0, latencies: Vec::new(), failures: 0 };
    let report = |index: u32, now: Instant, estimates: &[Duration]| {
        let endpoint = fleet.endpoint(index);
        let report = Report {
            requests_in_flight: Some(endpoint.active()),
            latency: Some(estimates[index as usize]),
            ..Report::default()
        };
        endpoint.on_report(now, &report);
        balancer.on_probe(index);
    };
    let over = load.start.after(load.span);
    let mut now = load.start;
    loop {
        now = now.after(Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / load.rps));
        let stop = if now < over { now } else { Instant::NEVER };
        while let Some(&Reverse((end, index, nanos, failed))) = ends.peek()
            && end <= stop
        {
            ends.pop();
            let latency = Duration::from_nanos(nanos);
            let verdict = match failed {
                0 => Verdict::Success,
                1 => Verdict::Overloaded,
                _ => Verdict::Failure,
            };
            fleet.endpoint(index).on_end(end, Ended { latency, verdict });
            served.latencies.push(latency.as_secs_f64() * 1e3);
            served.failures += u64::from(verdict != Verdict::Success);
            let estimate = &mut estimates[index as usize];
            *estimate = (*estimate * 7 + latency) / 8;
            if load.reports {
                report(index, end, &estimates);
            }
        }
        if now >= over {
            return served;
        }
        for _ in 0..load.probes {
            report(rng.u32(..count as u32), now, &estimates);
        }
        let pick = Pick { now, key: Some(rng.u64(..)), tried: &[] };
        let Some(index) = balancer.pick(fleet, &pick, &mut rng) else {
            served.refused += 1;
            continue;
        };
        served.counts[index as usize] += 1;
        fleet.endpoint(index).on_start(now);
        let Ended { latency, verdict } = answer(index, now, &mut rng);
        let failed = match verdict {
            Verdict::Success => 0,
            Verdict::Overloaded => 1,
            Verdict::Failure | Verdict::Unknown => 2,
        };
        ends.push(Reverse((now.after(latency), index, latency.as_nanos() as u64, failed)));
    }
}
