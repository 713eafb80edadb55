//! What to do when an attempt has failed: try again, or tell the caller.

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use model::{ByteSize, Instant, Retry, Span};
use serde::{Deserialize, Serialize};

use crate::Rng;
use crate::backoff::{self, BackoffParams};
use crate::budget::{RetryBudget, try_retry_all};

/// A way in which an attempt fails without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// No connection came about.
    ConnectFailure,
    /// The connection broke before an answer began.
    Reset,
    /// No answer began within the time-out of one attempt.
    Timeout,
}

/// When a failed attempt is followed by another one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryPolicyParams {
    /// Attempts per request, the first one included; 1 turns retries off.
    pub attempts_max: u32,
    /// Failures without an answer that are retried.
    pub on: Vec<Condition>,
    /// Answers that are retried.
    pub statuses: Vec<u16>,
    /// Also repeats requests that may have had an effect already (POST, PATCH). Without it only idempotent methods
    /// are repeated, and others only when the endpoint has certainly not seen them.
    pub non_idempotent: bool,
    /// Longest request body that is kept for another attempt; a request with a longer one is not retried.
    pub replay_max: ByteSize,
    /// Longest wait for one attempt's answer to begin. Absent: all that is left of the request's deadline.
    pub attempt_timeout: Option<Span>,
    /// How long to wait before each retry.
    pub backoff: BackoffParams,
}

impl Default for RetryPolicyParams {
    fn default() -> Self {
        Self {
            attempts_max: 3,
            on: [Condition::ConnectFailure, Condition::Reset, Condition::Timeout].into(),
            statuses: [502, 503, 504].into(),
            non_idempotent: false,
            replay_max: ByteSize::kib(64),
            attempt_timeout: None,
            backoff: BackoffParams::default(),
        }
    }
}

impl RetryPolicyParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if !(1..=ATTEMPTS_LIMIT).contains(&self.attempts_max) {
            let why = alloc::format!("must be between 1 (no retries) and {ATTEMPTS_LIMIT}, such as 3");
            wrong.push(("attempts_max", why));
        }
        for status in self.statuses.iter().filter(|status| !(400..=599).contains(*status)) {
            let why = alloc::format!("{status} is no error: name statuses between 400 and 599, such as 503");
            wrong.push(("statuses", why));
        }
        if self.attempt_timeout.is_some_and(Span::is_zero) {
            wrong.push(("attempt_timeout", "must be longer than 0, or absent".into()));
        }
        let inner = self.backoff.check().into_iter();
        wrong.extend(inner.map(|(field, why)| ("backoff", alloc::format!("{field}: {why}"))));
        wrong
    }
}

/// More attempts than this are a load generator.
const ATTEMPTS_LIMIT: u32 = 10;

/// How an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Without an answer.
    NoAnswer(Condition),
    /// With an answer of this status.
    Status(u16),
}

/// What is known when an attempt has failed.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Attempts made so far, the failed one included.
    pub attempts: u32,
    /// How it failed.
    pub failure: Failure,
    /// Whether a repetition can do harm, by [`model::Fault::retry`].
    pub retry: Retry,
    /// Whether the method is idempotent.
    pub idempotent: bool,
    /// The endpoint said "overloaded, don't retry": the whole service is, so another endpoint is no better.
    pub dont_retry: bool,
    /// The whole body is still at hand.
    pub body_replayable: bool,
    /// What is left of the request's deadline.
    pub deadline_left: Duration,
}

/// What to do about a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Try again. The budgets have paid for it.
    Retry {
        /// How long to wait first.
        delay: Duration,
        /// How long the new attempt may take: never more than the request has left after the delay.
        timeout: Duration,
    },
    /// Tell the caller.
    Stop(Stop),
}

/// Why a request is not tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// It had as many attempts as it may have.
    Attempts,
    /// The endpoint asked for it.
    DontRetry,
    /// It is not a failure that the route retries, or trying again is useless.
    NotRetriable,
    /// It may have had an effect, and must not have it twice.
    NotIdempotent,
    /// Its body was too long to keep.
    BodyTooLarge,
    /// It would come too late.
    Deadline,
    /// A retry budget is empty.
    Budget,
}

impl Stop {
    /// Every reason.
    pub const ALL: [Stop; 7] = [
        Self::Attempts,
        Self::DontRetry,
        Self::NotRetriable,
        Self::NotIdempotent,
        Self::BodyTooLarge,
        Self::Deadline,
        Self::Budget,
    ];

    /// The name used in metrics and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::DontRetry => "dont_retry",
            Self::NotRetriable => "not_retriable",
            Self::NotIdempotent => "not_idempotent",
            Self::BodyTooLarge => "body_too_large",
            Self::Deadline => "deadline",
            Self::Budget => "budget",
        }
    }
}

/// Decides about a failed attempt. Every reason against a retry is looked at before the budgets, so that only a retry
/// that will be scheduled is paid for, and all `budgets` pay for it or none.
#[must_use]
pub fn decide(
    params: &RetryPolicyParams,
    facts: &Facts,
    budgets: &[&RetryBudget],
    now: Instant,
    rng: &mut Rng,
) -> Decision {
    if let Some(stop) = objection(params, facts) {
        return Decision::Stop(stop);
    }
    let delay = backoff::delay(&params.backoff, facts.attempts.saturating_sub(1), rng);
    let left = facts.deadline_left.saturating_sub(delay);
    if left.is_zero() {
        return Decision::Stop(Stop::Deadline);
    }
    if !try_retry_all(budgets, now) {
        return Decision::Stop(Stop::Budget);
    }
    let timeout = params.attempt_timeout.map_or(left, |timeout| timeout.get().min(left));
    Decision::Retry { delay, timeout }
}

/// What speaks against a retry apart from time and budgets.
fn objection(params: &RetryPolicyParams, facts: &Facts) -> Option<Stop> {
    let listed = match facts.failure {
        Failure::NoAnswer(condition) => params.on.contains(&condition),
        Failure::Status(status) => params.statuses.contains(&status),
    };
    let repeatable = match facts.retry {
        Retry::Safe => true,
        Retry::IfIdempotent => facts.idempotent || params.non_idempotent,
        Retry::Never => false,
    };
    if facts.dont_retry {
        Some(Stop::DontRetry)
    } else if !listed || facts.retry == Retry::Never {
        Some(Stop::NotRetriable)
    } else if facts.attempts >= params.attempts_max {
        Some(Stop::Attempts)
    } else if !repeatable {
        Some(Stop::NotIdempotent)
    } else if !facts.body_replayable {
        Some(Stop::BodyTooLarge)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::budget::RetryBudgetParams;
    use proptest::prelude::*;

    const RETRIABLE: Facts = Facts {
        attempts: 1,
        failure: Failure::Status(503),
        retry: Retry::IfIdempotent,
        idempotent: true,
        dont_retry: false,
        body_replayable: true,
        deadline_left: Duration::from_secs(10),
    };

    /// A budget of `retries` retries.
    fn budget(retries: u32) -> RetryBudget {
        let params = RetryBudgetParams { ratio: model::Ratio::ONE, floor_per_sec: 0, ..Default::default() };
        let budget = RetryBudget::new(&params, 1, Instant::ORIGIN);
        (0..retries).for_each(|_| budget.on_request(0));
        budget
    }

    fn decide_once(params: &RetryPolicyParams, facts: &Facts) -> Decision {
        decide(params, facts, &[&budget(1)], Instant::ORIGIN, &mut Rng::with_seed(1))
    }

    #[test]
    fn each_reason_against_a_retry_is_named() {
        let params = RetryPolicyParams::default();
        assert!(matches!(decide_once(&params, &RETRIABLE), Decision::Retry { .. }));
        let cases = [
            (Stop::Attempts, Facts { attempts: 3, ..RETRIABLE }),
            (Stop::DontRetry, Facts { dont_retry: true, ..RETRIABLE }),
            (Stop::NotRetriable, Facts { failure: Failure::Status(500), ..RETRIABLE }),
            (Stop::NotRetriable, Facts { retry: Retry::Never, ..RETRIABLE }),
            (Stop::NotIdempotent, Facts { idempotent: false, ..RETRIABLE }),
            (Stop::BodyTooLarge, Facts { body_replayable: false, ..RETRIABLE }),
            (Stop::Deadline, Facts { deadline_left: Duration::ZERO, ..RETRIABLE }),
        ];
        for (stop, facts) in cases {
            assert_eq!(decide_once(&params, &facts), Decision::Stop(stop), "{facts:?}");
        }
        let broke = decide(&params, &RETRIABLE, &[&budget(0)], Instant::ORIGIN, &mut Rng::with_seed(1));
        assert_eq!(broke, Decision::Stop(Stop::Budget));
    }

    #[test]
    fn what_the_endpoint_never_saw_is_repeated_whatever_the_method() {
        let unseen = Facts {
            failure: Failure::NoAnswer(Condition::ConnectFailure),
            retry: Retry::Safe,
            idempotent: false,
            ..RETRIABLE
        };
        assert!(matches!(decide_once(&RetryPolicyParams::default(), &unseen), Decision::Retry { .. }));
        let route = RetryPolicyParams { non_idempotent: true, ..Default::default() };
        let seen = Facts { idempotent: false, ..RETRIABLE };
        assert!(matches!(decide_once(&route, &seen), Decision::Retry { .. }));
    }

    #[test]
    fn trap_7_a_body_too_large_to_replay_is_visibly_not_retried() {
        let facts = Facts { body_replayable: false, ..RETRIABLE };
        let Decision::Stop(stop) = decide_once(&RetryPolicyParams::default(), &facts) else {
            panic!("retried")
        };
        assert_eq!(stop.name(), "body_too_large");
    }

    #[test]
    fn only_a_retry_that_happens_is_paid_for() {
        let (service, process) = (budget(1), budget(0));
        let late = Facts { deadline_left: Duration::ZERO, ..RETRIABLE };
        let mut rng = Rng::with_seed(1);
        let params = RetryPolicyParams::default();
        let mut decide =
            |facts, budgets: &[&RetryBudget]| decide(&params, facts, budgets, Instant::ORIGIN, &mut rng);
        assert_eq!(decide(&late, &[&service]), Decision::Stop(Stop::Deadline));
        assert_eq!(decide(&RETRIABLE, &[&service, &process]), Decision::Stop(Stop::Budget));
        assert!(matches!(decide(&RETRIABLE, &[&service]), Decision::Retry { .. }));
        assert_eq!(decide(&RETRIABLE, &[&service]), Decision::Stop(Stop::Budget));
    }

    proptest! {
        #[test]
        fn trap_7_a_retry_gets_what_is_left_and_not_the_first_deadline(
            left in 0u64..2_000, timeout in prop::option::of(1u64..2_000), attempts in 1..3u32, seed: u64,
        ) {
            let params = RetryPolicyParams { attempt_timeout: timeout.map(Span::from_millis), ..Default::default() };
            let facts = Facts { attempts, deadline_left: Duration::from_millis(left), ..RETRIABLE };
            match decide(&params, &facts, &[], Instant::ORIGIN, &mut Rng::with_seed(seed)) {
                Decision::Retry { delay, timeout: granted } => {
                    prop_assert!(!granted.is_zero() && delay + granted <= facts.deadline_left);
                    prop_assert!(timeout.is_none_or(|timeout| granted <= Duration::from_millis(timeout)));
                }
                Decision::Stop(stop) => {
                    prop_assert_eq!(stop, Stop::Deadline);
                    prop_assert!(left <= 250);
                }
            }
        }
    }

    #[test]
    fn senseless_bounds_are_named() {
        assert!(RetryPolicyParams::default().check().is_empty());
        let params = RetryPolicyParams {
            attempts_max: 0,
            statuses: [200, 503].into(),
            attempt_timeout: Some(Span::default()),
            backoff: BackoffParams { delay_base: Span::from_secs(1), delay_max: Span::default() },
            ..Default::default()
        };
        let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["attempts_max", "statuses", "attempt_timeout", "backoff"]);
    }
}
