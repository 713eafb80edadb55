use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use model::Instant;

use super::stride::Stride;
use super::{Balancer, DRAWS, Pick, WeightedByLoadParams, anybody, may_take};
use crate::{Endpoint, Fleet, Rng};

/// Weights are kept within this factor of their mean, both ways.
const FACTOR_MAX: f64 = 10.0;

/// In turn, by what endpoints report: an endpoint's weight is the requests per second that it would serve at full
/// utilisation, `rps / (utilization + error_penalty × eps / rps)`.
///
/// Reports are not believed during the blackout after joining, nor when they are too old; an endpoint without a
/// believed report has the mean weight, and with fewer than two believed reports all weights are equal. Weights are
/// kept within a factor of ten of their mean, so that everyone stays measured. Weights configured in the file do not
/// count. They are computed at most once per update interval, by the pick that notices.
///
/// Source: gRPC's weighted round robin (gRFC A58), whose blackout counts from the first report.
#[derive(Debug)]
pub struct WeightedByLoad {
    params: WeightedByLoadParams,
    stride: Stride,
    /// Nanoseconds.
    update_at: AtomicU64,
}

impl WeightedByLoad {
    /// For the candidates of `fleet`; `seed` decides who is first.
    #[must_use]
    pub fn new(params: &WeightedByLoadParams, fleet: &Fleet, now: Instant, seed: u64) -> Self {
        let balancer = Self {
            params: params.clone(),
            stride: Stride::new(fleet.candidates().len(), seed),
            update_at: AtomicU64::new(0),
        };
        balancer.update(fleet, now);
        balancer
    }

    fn update_if_due(&self, fleet: &Fleet, now: Instant) {
        let due = self.update_at.load(Relaxed);
        let next = now.after(self.params.update_interval.get()).as_nanos();
        if now.as_nanos() >= due && self.update_at.compare_exchange(due, next, Relaxed, Relaxed).is_ok() {
            self.update(fleet, now);
        }
    }

    fn update(&self, fleet: &Fleet, now: Instant) {
        let believed = || fleet.candidates().iter().map(|index| self.believed(fleet.endpoint(*index), now));
        let (mut sum, mut count) = (0.0, 0u32);
        for weight in believed().flatten() {
            sum += weight;
            count += 1;
        }
        let mean = sum / f64::from(count.max(1));
        let spread = if count < 2 { mean..=mean } else { mean / FACTOR_MAX..=mean * FACTOR_MAX };
        self.stride.set(
            believed().map(|weight| weight.unwrap_or(mean).clamp(*spread.start(), *spread.end()).max(1e-9)),
        );
    }

    /// The weight that the endpoint's report gives it, if it is believed.
    fn believed(&self, endpoint: &Endpoint, now: Instant) -> Option<f64> {
        let (at, report) = endpoint.report()?;
        let settled = at >= endpoint.joined().after(self.params.blackout.get());
        let fresh = now.since(at) <= self.params.report_age_max.get();
        let rps = report.rps_fractional.filter(|rps| *rps > 0.0)?;
        let errors = report.eps.unwrap_or(0.0) / rps * self.params.error_penalty.max(0.0);
        let utilization = report.utilization().filter(|utilization| *utilization > 0.0)?;
        let weight = rps / (utilization + errors);
        (settled && fresh && weight.is_finite() && weight > 0.0).then_some(weight)
    }
}

impl Balancer for WeightedByLoad {
    fn pick(&self, fleet: &Fleet, pick: &Pick<'_>, rng: &mut Rng) -> Option<u32> {
        if fleet.candidates().is_empty() {
            return None;
        }
        self.update_if_due(fleet, pick.now);
        for _ in 0..DRAWS {
            let index = fleet.candidates()[self.stride.next()];
            if may_take(fleet, pick, index) && fleet.admits(fleet.endpoint(index), pick.now, rng) {
                return Some(index);
            }
        }
        anybody(fleet, pick, rng)
    }
}
