//! Health: turns the answers of active checks into a state.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use model::{Instant, Ratio, Span};
use serde::{Deserialize, Serialize};

use crate::Rng;
use crate::backoff::nanos;

/// How many answers it takes to change an opinion, and how often to ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct HealthParams {
    /// Time between checks of one endpoint; jittered so that endpoints are not asked at once.
    pub interval: Span,
    /// An answer later than this is a failure.
    pub timeout: Span,
    /// Failures in a row that make it unhealthy.
    pub unhealthy_after: u32,
    /// Successes in a row that make it healthy again.
    pub healthy_after: u32,
    /// Share of the interval by which a check may come earlier or later.
    pub jitter: Ratio,
}

impl Default for HealthParams {
    fn default() -> Self {
        Self {
            interval: Span::from_secs(5),
            timeout: Span::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 2,
            jitter: Ratio::percent(20),
        }
    }
}

impl HealthParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        let mut refuse = |field, why: &str| wrong.push((field, String::from(why)));
        if self.interval.is_zero() {
            refuse("interval", "must be longer than 0, such as 5s");
        }
        if self.timeout.is_zero() {
            refuse("timeout", "must be longer than 0, such as 1s");
        }
        if self.unhealthy_after == 0 {
            refuse("unhealthy_after", "must be at least 1, such as 3");
        }
        if self.healthy_after == 0 {
            refuse("healthy_after", "must be at least 1, such as 2");
        }
        if self.jitter == Ratio::ONE {
            refuse("jitter", "must be less than 1, such as 0.2: with 1 a check may follow at once");
        }
        wrong
    }
}

/// What the opinion about an endpoint changed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It may be used again.
    Healthy,
    /// It must not be used.
    Unhealthy,
}

/// A check under way.
#[derive(Clone, Copy, Debug)]
struct Check {
    /// Whether it was sent so late that this process cannot have been well.
    sent_late: bool,
    /// When an answer is too late.
    deadline: Instant,
}

/// The opinion about one endpoint, formed from active checks.
///
/// `unhealthy_after` failures in a row make it unhealthy, `healthy_after` successes healthy again; it begins healthy,
/// so that a restart does not take everything away. The first check comes at a random point within the interval and
/// the others are jittered, so that many endpoints are never checked at once. While real traffic succeeds, a healthy
/// endpoint is not checked at all. A failure that this process judged late, because it had no time to send or to
/// look, says more about this process than about the endpoint and is discarded: fails towards keeping the opinion.
///
/// A cold-path value, owned by whoever runs the checks: at [`Health::poll_timeout`] call [`Health::on_start`] and
/// send a check, then call [`Health::on_check`] with its answer, or when [`Health::deadline`] has passed without one.
#[derive(Debug)]
pub struct Health {
    params: HealthParams,
    healthy: bool,
    /// Answers in a row that speak against the opinion.
    against: u32,
    next_check: Instant,
    check: Option<Check>,
}

impl Health {
    /// A healthy endpoint whose first check comes within one interval.
    #[must_use]
    pub fn new(params: &HealthParams, now: Instant, rng: &mut Rng) -> Self {
        let first = Duration::from_nanos(rng.u64(0..=nanos(params.interval.get())));
        Self { params: params.clone(), healthy: true, against: 0, next_check: now.after(first), check: None }
    }

    /// Whether it may be used.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// When the next check is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.next_check
    }

    /// When the check under way has failed for want of an answer.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.check.map(|check| check.deadline)
    }

    /// A check is sent. One that is still under way is abandoned.
    pub fn on_start(&mut self, now: Instant, rng: &mut Rng) {
        let sent_late = now > self.next_check.after(self.tolerance());
        self.check = Some(Check { sent_late, deadline: now.after(self.params.timeout.get()) });
        self.next_check = now.after(self.jittered_interval(rng));
    }

    /// The check under way was answered well (`ok`), badly, or not at all by its deadline; `now` is when that was
    /// noticed. Ignored when none is under way.
    pub fn on_check(&mut self, ok: bool, now: Instant) -> Option<Change> {
        let check = self.check.take()?;
        let judged_late = now > check.deadline.after(self.tolerance());
        if !ok && (check.sent_late || judged_late) {
            return None;
        }
        self.against = if ok == self.healthy { 0 } else { self.against.saturating_add(1) };
        let enough = if self.healthy { self.params.unhealthy_after } else { self.params.healthy_after };
        if self.against < enough.max(1) {
            return None;
        }
        self.against = 0;
        self.healthy = ok;
        Some(if ok { Change::Healthy } else { Change::Unhealthy })
    }

    /// Real traffic succeeded there just now: a healthy endpoint need not be asked for another interval, and its
    /// failed checks are forgotten. An unhealthy one is asked all the same, because traffic that still succeeds there
    /// is on its way out.
    pub fn on_traffic_success(&mut self, now: Instant, rng: &mut Rng) {
        if self.healthy {
            self.against = 0;
            self.next_check = self.next_check.max(now.after(self.jittered_interval(rng)));
        }
    }

    /// How late this process may be before its own judgement is not trusted.
    fn tolerance(&self) -> Duration {
        self.params.timeout.get() / 2
    }

    fn jittered_interval(&self, rng: &mut Rng) -> Duration {
        let interval = nanos(self.params.interval.get());
        let spread = (interval as f64 * self.params.jitter.get()) as u64;
        let shortest = interval.saturating_sub(spread);
        Duration::from_nanos(rng.u64(shortest..=interval.saturating_add(spread)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use proptest::prelude::*;

    /// Runs one check that is answered `after` it was sent.
    fn check(health: &mut Health, ok: bool, after: Duration, rng: &mut Rng) -> Option<Change> {
        let now = health.poll_timeout();
        health.on_start(now, rng);
        health.on_check(ok, now.after(after))
    }

    const SOON: Duration = Duration::from_millis(1);

    proptest! {
        #[test]
        fn changes_only_after_enough_answers_in_a_row(
            answers in prop::collection::vec(any::<bool>(), 0..200), rise in 1..5u32, fall in 1..5u32, seed: u64,
        ) {
            let params = HealthParams { healthy_after: rise, unhealthy_after: fall, ..HealthParams::default() };
            let mut rng = Rng::with_seed(seed);
            let mut health = Health::new(&params, Instant::ORIGIN, &mut rng);
            let (mut run, mut last) = (0, true);
            for ok in answers {
                run = if ok == last { run + 1 } else { 1 };
                last = ok;
                let before = health.is_healthy();
                let change = check(&mut health, ok, SOON, &mut rng);
                let enough = run >= if ok { rise } else { fall };
                prop_assert_eq!(change.is_some(), ok != before && enough);
                prop_assert_eq!(health.is_healthy(), change.map_or(before, |change| change == Change::Healthy));
            }
        }

        #[test]
        fn checks_keep_their_distance(seed: u64, jitter in 0..90u8, interval in 1..100_000u64) {
            let params = HealthParams {
                interval: Span::from_millis(interval), jitter: Ratio::percent(jitter), ..HealthParams::default()
            };
            let mut rng = Rng::with_seed(seed);
            let mut health = Health::new(&params, Instant::ORIGIN, &mut rng);
            prop_assert!(health.poll_timeout() <= Instant::from_millis(interval));
            let (interval, jitter) = (interval as f64 / 1e3, f64::from(jitter) / 100.0);
            for _ in 0..20 {
                let before = health.poll_timeout();
                check(&mut health, true, SOON, &mut rng);
                let distance = health.poll_timeout().since(before).as_secs_f64();
                prop_assert!(distance >= interval * (1.0 - jitter) - 1e-6);
                prop_assert!(distance <= interval * (1.0 + jitter) + 1e-6);
            }
        }
    }

    #[test]
    fn trap_15_many_endpoints_are_never_checked_at_once() {
        let mut rng = Rng::with_seed(1);
        let mut all: Vec<_> =
            (0..1_000).map(|_| Health::new(&HealthParams::default(), Instant::ORIGIN, &mut rng)).collect();
        // Over a minute of 100 ms steps: a thousand checks in 5 s are 20 a step if evenly spread.
        for step in 1..600 {
            let now = Instant::from_millis(step * 100);
            let due = all.iter_mut().filter(|health| health.poll_timeout() <= now);
            let sent = due.map(|health| health.on_start(now, &mut rng)).count();
            assert!(sent <= 60, "{sent} checks in one step");
        }
    }

    #[test]
    fn trap_15_no_checks_while_real_traffic_succeeds() {
        let mut rng = Rng::with_seed(1);
        let mut health = Health::new(&HealthParams::default(), Instant::ORIGIN, &mut rng);
        for second in 0..100 {
            let now = Instant::from_secs(second);
            health.on_traffic_success(now, &mut rng);
            assert!(health.poll_timeout() > now.after(Duration::from_secs(3)));
        }
        // But an unhealthy endpoint is asked.
        while check(&mut health, false, SOON, &mut rng).is_none() {}
        let due = health.poll_timeout();
        health.on_traffic_success(due.before(SOON), &mut rng);
        assert_eq!(health.poll_timeout(), due);
    }

    #[test]
    fn trap_15_a_starved_prober_does_not_mark_the_world_dead() {
        let mut rng = Rng::with_seed(1);
        let mut health = Health::new(&HealthParams::default(), Instant::ORIGIN, &mut rng);
        for _ in 0..10 {
            // Judged ten seconds after the answer was due.
            assert_eq!(check(&mut health, false, Duration::from_secs(11), &mut rng), None);
            // Sent ten seconds late.
            let now = health.poll_timeout().after(Duration::from_secs(10));
            health.on_start(now, &mut rng);
            assert_eq!(health.on_check(false, now.after(SOON)), None);
        }
        assert!(health.is_healthy());
        // Once it has time again, it finds out.
        let timeout = Duration::from_secs(1);
        let changes: Vec<_> = (0..3).filter_map(|_| check(&mut health, false, timeout, &mut rng)).collect();
        assert_eq!(changes, [Change::Unhealthy]);
    }

    #[test]
    fn an_answer_to_no_check_is_ignored() {
        let mut rng = Rng::with_seed(1);
        let params = HealthParams { unhealthy_after: 1, ..HealthParams::default() };
        let mut health = Health::new(&params, Instant::ORIGIN, &mut rng);
        assert_eq!(health.on_check(false, Instant::ORIGIN), None);
        assert_eq!(health.deadline(), None);
    }

    #[test]
    fn senseless_bounds_are_named() {
        assert!(HealthParams::default().check().is_empty());
        let params = HealthParams {
            interval: Span::default(),
            timeout: Span::default(),
            unhealthy_after: 0,
            healthy_after: 0,
            jitter: Ratio::ONE,
        };
        let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["interval", "timeout", "unhealthy_after", "healthy_after", "jitter"]);
    }
}
