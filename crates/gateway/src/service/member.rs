use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use model::{Instant, Timestamp};
use policy::breaker::Breaker;
use policy::ejection::{Observation, Streak};
use policy::endpoint::Totals;
use policy::health::Health;
use policy::{Endpoint, Rng, Unavailable};

use super::Target;
use super::events::What;
use super::status::{BreakerStatus, EndpointStatus, ReasonStatus, ReportStatus, reason_name};
use crate::config;
use crate::discover::Discovered;

/// A lame duck that no HTTP check asks is tried again after this long: it may have been restarted meanwhile, and if it
/// was not, its first answer says so again.
pub(super) const LAME_DUCK_LAPSE: Duration = Duration::from_secs(30);

/// Of so many checks that traffic makes needless one is sent all the same if it is an HTTP check: an endpoint may say
/// lame duck in its health answer alone.
const SUPPRESSED_MAX: u32 = 3;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A target, and what only its service's control task knows of it.
pub(super) struct Member {
    pub(super) target: Arc<Target>,
    pub(super) name: Arc<str>,
    /// The opinion formed from active checks, when there are any.
    pub(super) health: Option<Health>,
    /// Whether a check is under way.
    pub(super) asking: bool,
    /// Where it stands.
    pub(super) zone: Option<String>,
    /// Whether discovery says that it is a lame duck. Then nothing else lifts that.
    pub(super) announced: bool,
    /// When a lame-duck mark is lifted that nobody else lifts.
    pub(super) lapses: Option<Instant>,
    /// What its attempts had come to when its health was last looked at, and at the last ejection interval.
    looked: Totals,
    compared: Totals,
    /// Checks in a row that traffic made needless.
    suppressed: u32,
    /// The reasons that events have told of.
    shown: Vec<Shown>,
}

struct Shown {
    reason: Unavailable,
    since: Timestamp,
    why: String,
}

impl Member {
    /// A newcomer. It is healthy until checked: to let nobody in before a check would make every restart of this
    /// process an outage, while one endpoint too many costs a request one more attempt.
    pub(super) fn new(
        found: &Discovered,
        params: &config::Service,
        workers: usize,
        now: Instant,
        rng: &mut Rng,
    ) -> Self {
        let endpoint = Endpoint::new(&found.name, found.weight, params.active_per_endpoint, now);
        let target = Target {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address: found.address,
            endpoint: Arc::new(endpoint),
            breaker: Breaker::new(&params.endpoint_breaker, workers, now),
            streak: Streak::new(params.ejection.consecutive_failures),
        };
        Self {
            target: Arc::new(target),
            name: found.name.as_str().into(),
            health: params.health.as_ref().map(|health| Health::new(&health.timing, now, rng)),
            asking: false,
            zone: None,
            announced: false,
            lapses: None,
            looked: Totals::default(),
            compared: Totals::default(),
            suppressed: 0,
            shown: Vec::new(),
        }
    }

    pub(super) fn is(&self, found: &Discovered) -> bool {
        self.target.address == found.address && *self.name == *found.name
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.target.endpoint
    }

    /// The same target, under the breaker and streak of other parameters. With `keep_force`, what an operator said of the
    /// old breaker holds for the new one.
    pub(super) fn reguard(
        &mut self,
        params: &config::Service,
        keep_force: bool,
        workers: usize,
        now: Instant,
    ) {
        let breaker = Breaker::new(&params.endpoint_breaker, workers, now);
        if keep_force {
            breaker.force(self.target.breaker.forced(), now);
        }
        self.target = Arc::new(Target {
            id: self.target.id,
            address: self.target.address,
            endpoint: Arc::clone(&self.target.endpoint),
            breaker,
            streak: Streak::new(params.ejection.consecutive_failures),
        });
    }

    /// Whether it may be used but for an ejection.
    pub(super) fn usable(&self) -> bool {
        self.endpoint().reasons().all(|reason| reason == Unavailable::Ejected)
    }

    /// Sets or lifts a reason against new requests; answers what to tell of it, if that is news. Whoever is free of
    /// its last reason starts slowly.
    pub(super) fn mark(
        &mut self,
        reason: Unavailable,
        holds: bool,
        why: &str,
        now: Instant,
        at: Timestamp,
    ) -> Option<What> {
        self.endpoint().set_unavailable(reason, holds);
        let shown = self.shown.iter().position(|shown| shown.reason == reason);
        match (shown, holds) {
            (None, true) => self.shown.push(Shown { reason, since: at, why: why.to_owned() }),
            (Some(position), false) => {
                self.shown.remove(position);
                if self.endpoint().available() {
                    self.endpoint().on_join(now);
                }
            }
            (None, false) | (Some(_), true) => return None,
        }
        Some(match (reason, holds) {
            (Unavailable::Unhealthy, true) => What::Unhealthy,
            (Unavailable::Unhealthy, false) => What::Healthy,
            (Unavailable::Ejected, true) => What::Ejected,
            (Unavailable::Ejected, false) => What::Returned,
            (Unavailable::LameDuck, true) => What::LameDuck,
            (Unavailable::LameDuck, false) => What::LameDuckEnded,
            (Unavailable::Disabled, true) => What::Disabled,
            (Unavailable::Disabled, false) => What::Enabled,
        })
    }

    /// Whether a worker marked it a lame duck and nobody has told of it.
    pub(super) fn untold_lame_duck(&self) -> bool {
        self.endpoint().is_unavailable(Unavailable::LameDuck)
            && self.shown.iter().all(|shown| shown.reason != Unavailable::LameDuck)
    }

    /// Whether the check that is due is needless, because real traffic has mostly succeeded since the last one was due.
    pub(super) fn suppresses(&mut self, check: &config::HealthCheck) -> bool {
        let totals = self.endpoint().totals();
        let Totals { successes, failures, .. } = totals.since(self.looked);
        self.looked = totals;
        let most = match check {
            config::HealthCheck::Tcp => u32::MAX,
            config::HealthCheck::Http(_) | config::HealthCheck::Grpc(_) => SUPPRESSED_MAX,
        };
        let suppresses = successes > failures && self.endpoint().available() && self.suppressed < most;
        self.suppressed = if suppresses { self.suppressed.saturating_add(1) } else { 0 };
        suppresses
    }

    /// What it did since this was last asked.
    pub(super) fn observe(&mut self) -> Observation {
        let totals = self.endpoint().totals();
        let interval = totals.since(self.compared);
        self.compared = totals;
        Observation {
            key: self.endpoint().key(),
            usable: self.usable(),
            calls: interval.successes + interval.overloads + interval.failures,
            failures: interval.failures,
            latency: interval.latency_mean(),
        }
    }

    pub(super) fn status(&self, now: Instant) -> EndpointStatus {
        let endpoint = self.endpoint();
        let totals = endpoint.totals();
        let reason = |shown: &Shown| ReasonStatus {
            reason: reason_name(shown.reason),
            since: shown.since,
            why: shown.why.clone(),
        };
        EndpointStatus {
            name: self.name.to_string(),
            address: self.target.address,
            weight: endpoint.weight(),
            available: endpoint.available(),
            reasons: self.shown.iter().map(reason).collect(),
            joined_secs: now.since(endpoint.joined()).as_secs_f64(),
            active: endpoint.active(),
            requests: totals.successes + totals.overloads + totals.failures,
            failures: totals.failures,
            overloads: totals.overloads,
            error_share: endpoint.error_share(now),
            latency_secs: endpoint.latency(now).map(|latency| latency.as_secs_f64()),
            report: endpoint.report().map(|(at, report)| ReportStatus::new(at, &report, now)),
            breaker: BreakerStatus::new(&self.target.breaker, now),
        }
    }
}
