use std::time::Duration;

use policy::quota::{Spent, Wait};

use super::Quota;
use crate::answer::{Reason, Refusal};
use crate::config::QuotaCost;
use crate::engine::classify::Request;
use crate::engine::worker::Worker;
use crate::road::Served;

/// What a request asks of its route's quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    /// Who asks, hashed.
    customer: u64,
    /// What the request costs; none when that is known at its end.
    cost: Option<f64>,
}

impl Asked {
    /// What a request of `customer` asks, whose header says `stated` of its cost.
    pub(crate) fn new(
        quota: &Quota,
        customer: Option<u64>,
        stated: impl FnOnce(&str) -> Option<f64>,
    ) -> Self {
        let cost = match &quota.params.cost {
            QuotaCost::Requests => Some(1.0),
            QuotaCost::Header(name) => Some(stated(name).unwrap_or(1.0)),
            QuotaCost::UpstreamMs | QuotaCost::Bytes => None,
        };
        // Whoever cannot be told apart shares one account.
        Self { customer: customer.unwrap_or(0), cost }
    }
}

/// Longest wait that a client is told: a day. Whoever would have to wait for ever is told nothing.
const RETRY_AFTER_MAX: u64 = 86_400;

/// Whether the quota of the request's route, if it has one, lets it in.
///
/// # Errors
/// The refusal, which says when to come back.
pub(crate) fn try_enter(worker: &Worker, request: &Request) -> Result<Option<Spent>, Refusal> {
    let (Some(quota), Some(asked)) = (&request.route().quota, &request.quota) else { return Ok(None) };
    match quota.policy.try_take(request.started, asked.customer, asked.cost) {
        Ok(spent) => Ok(Some(spent)),
        Err(Wait(wait)) => {
            quota.throttled[worker.id].one();
            let mut refusal = Refusal::from(Reason::QuotaExceeded);
            refusal.again.after_secs = (wait != Duration::MAX)
                .then(|| (wait.as_millis().div_ceil(1_000) as u64).clamp(1, RETRY_AFTER_MAX));
            Err(refusal)
        }
    }
}

/// Charges what the request has cost, now that it has ended, or gives back what was set aside when it never left.
pub(crate) fn settle(worker: &Worker, request: &Request, served: &Served) {
    let (Some(quota), Some(asked), Some(spent)) = (&request.route().quota, &request.quota, served.spent)
    else {
        return;
    };
    let now = worker.now();
    let Some(admitted) = served.admitted else {
        return quota.policy.give_back(now, asked.customer, spent);
    };
    let cost = match quota.params.cost {
        QuotaCost::Requests | QuotaCost::Header(_) => return,
        QuotaCost::UpstreamMs => {
            // A client that left before the answer has occupied the service all the same.
            let answered = match served.latency {
                Duration::ZERO => worker.tell_time(),
                latency => request.started.after(latency),
            };
            answered.since(admitted).as_secs_f64() * 1e3
        }
        QuotaCost::Bytes => (served.request_bytes + served.response_bytes) as f64,
    };
    quota.policy.charge(now, asked.customer, spent, cost);
}
