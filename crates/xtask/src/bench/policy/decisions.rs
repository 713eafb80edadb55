//! What does not depend on the number of endpoints.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use model::{Criticality, Deadline, Instant, Ratio, Retry, Verdict};
use policy::admission::{self, AdmissionParams, End, Entry, Who};
use policy::attempts::{Facts, Failure, RetryPolicyParams, decide};
use policy::backoff::{self, BackoffParams};
use policy::breaker::{Breaker, BreakerParams, CallEnd, Force};
use policy::budget::{RetryBudget, RetryBudgetParams};
use policy::bulkhead::{Admission, Bulkhead, BulkheadParams};
use policy::callers::{Callers, RetryAdviceParams};
use policy::deadline;
use policy::degrade::{Governor, Measures, ModeParams, Modes, Signals};
use policy::ejection::Streak;
use policy::hedge::{HedgeParams, HedgeTimer};
use policy::limit::LimitParams;
use policy::queue::{Queue, QueueParams, Waiter};
use policy::quota::{Quota, QuotaParams};
use policy::rate_limit::{RateLimitParams, RateLimiter};
use policy::split::Split;
use policy::throttle::{Throttle, ThrottleParams};
use policy::{Ended, Endpoint, Report};

use super::{Bench, THREADS, Turn};

const START: Instant = Instant::from_secs(1);
const LATENCY: Duration = Duration::from_millis(3);
/// So much that it never runs out.
const PLENTY: u32 = 1_000_000_000;

pub(super) fn on_the_way(bench: &mut Bench) {
    endpoint(bench);
    breaker(bench);
    retries(bench);
    limits(bench);
    throttles(bench);
    admissions(bench);
    quotas(bench);
    modes(bench);
    hedging(bench);
    deadlines(bench);
    placement(bench);
}

fn endpoint(bench: &mut Bench) {
    for (name, verdict) in [("success", Verdict::Success), ("failure", Verdict::Failure)] {
        let endpoint = Endpoint::new("10.0.0.1:8080", 1, u32::MAX, Instant::ORIGIN);
        bench.measure(&format!("endpoint: start and end, {name}"), |turn| {
            let started = endpoint.try_start(turn.now);
            endpoint.on_end(turn.now, Ended { latency: LATENCY, verdict });
            started
        });
    }
    for (name, verdict) in [("success", Verdict::Success), ("failure", Verdict::Failure)] {
        let streak = Streak::new(5);
        bench.measure(&format!("streak: {name}"), |_| streak.on_end(verdict));
    }
    let endpoint = Endpoint::new("10.0.0.1:8080", 1, u32::MAX, Instant::ORIGIN);
    let text = b"TEXT cpu_utilization=0.31, rps_fractional=812.5, eps=0.2, named_metrics.rif=4";
    let json = br#"JSON {"cpu_utilization": 0.31, "rps_fractional": 812.5, "eps": 0.2, "named_metrics": {"rif": 4}}"#;
    bench.measure("report: parse text", |_| Report::parse(black_box(text)));
    bench.measure("report: parse JSON", |_| Report::parse(black_box(json)));
    let report = Report::parse(text).unwrap_or_default();
    bench.measure("report: keep", |turn| endpoint.on_report(turn.now, &report));
}

fn breaker(bench: &mut Bench) {
    let call = |turn: &mut Turn<'_>, breaker: &Breaker, end: CallEnd| {
        let entered = breaker.try_enter(turn.shard, turn.now, turn.rng);
        if let Ok(permit) = entered {
            breaker.on_end(permit, turn.now.after(LATENCY), end, LATENCY, turn.rng);
        }
    };
    let slow_after =
        BreakerParams { slow_after: Some(model::Span::from_millis(100)), ..BreakerParams::default() };
    for (name, params) in [("closed", BreakerParams::default()), ("closed, slow calls counted", slow_after)] {
        let breaker = Breaker::new(&params, THREADS, START);
        bench.measure(&format!("breaker: enter and end, {name}"), |turn| {
            call(turn, &breaker, CallEnd::from(Verdict::Success));
        });
    }
    let breaker = Breaker::new(&BreakerParams::default(), THREADS, START);
    bench.measure("breaker: enter and end, every call fails", |turn| {
        call(turn, &breaker, CallEnd::from(Verdict::Failure));
    });
    let breaker = Breaker::new(&BreakerParams::default(), THREADS, START);
    breaker.force(Force::Open, START);
    bench.measure("breaker: refuse, forced open", |turn| {
        breaker.try_enter(turn.shard, turn.now, turn.rng).is_ok()
    });
}

fn retries(bench: &mut Bench) {
    let plenty = RetryBudgetParams {
        ratio: Ratio::ONE,
        floor_per_sec: PLENTY,
        burst: NonZeroU32::new(PLENTY).unwrap_or(NonZeroU32::MIN),
    };
    for (name, params) in [("granted", &plenty), ("refused", &RetryBudgetParams::default())] {
        let budget = RetryBudget::new(params, THREADS, START);
        bench.measure(&format!("retry budget: retry, {name}"), |turn| budget.try_retry(turn.now));
    }
    let budget = RetryBudget::new(&RetryBudgetParams::default(), THREADS, START);
    bench.measure("retry budget: a first attempt", |turn| budget.on_request(turn.shard));

    let params = RetryPolicyParams::default();
    let facts = Facts {
        attempts: 1,
        failure: Failure::Status(503),
        retry: Retry::IfIdempotent,
        idempotent: true,
        dont_retry: false,
        body_replayable: true,
        deadline_left: Duration::from_secs(1),
    };
    let (service, process) =
        (RetryBudget::new(&plenty, THREADS, START), RetryBudget::new(&plenty, THREADS, START));
    bench.measure("retry: decide, two budgets pay", |turn| {
        decide(&params, black_box(&facts), &[&service, &process], turn.now, turn.rng)
    });
    let exhausted = Facts { attempts: 3, ..facts };
    bench.measure("retry: decide, no attempt left", |turn| {
        decide(&params, black_box(&exhausted), &[&service, &process], turn.now, turn.rng)
    });
    let backoff = BackoffParams::default();
    bench.measure("backoff: delay", |turn| backoff::delay(&backoff, black_box(2), turn.rng));
}

fn limits(bench: &mut Bench) {
    let enter_and_leave = |turn: &mut Turn<'_>, bulkhead: &Bulkhead| match bulkhead.try_enter(turn.shard) {
        Admission::Enter => bulkhead.leave(turn.shard),
        Admission::Wait => {
            bulkhead.give_up();
            false
        }
        Admission::Refuse => false,
    };
    let roomy = BulkheadParams { active_max: 1000, ..BulkheadParams::default() };
    let bulkhead = Bulkhead::new(&roomy, THREADS);
    bench.measure("bulkhead: enter and leave", |turn| enter_and_leave(turn, &bulkhead));
    let bulkhead = Bulkhead::new(
        &BulkheadParams { active_max: 1, waiting_max: 1, ..BulkheadParams::default() },
        THREADS,
    );
    let taken = bulkhead.try_enter(0);
    bench.measure("bulkhead: full, wait and give up", |turn| {
        debug_assert_eq!(taken, Admission::Enter);
        enter_and_leave(turn, &bulkhead)
    });

    let generous = RateLimitParams { per_sec: 1e9, burst: 1e9, customers_max: 10_000 };
    let mean = RateLimitParams { per_sec: 1.0, burst: 1.0, customers_max: 10_000 };
    for (name, params) in [("granted", generous), ("refused", mean)] {
        let limiter = RateLimiter::new(&params, 7);
        bench.measure(&format!("rate limit: one customer, {name}"), |turn| {
            limiter.try_take(turn.now, 4711, 1.0).is_ok()
        });
        let limiter = RateLimiter::new(&params, 7);
        bench.measure(&format!("rate limit: 10 000 customers, {name}"), |turn| {
            let customer = policy::mix(turn.rng.u64(..10_000));
            limiter.try_take(turn.now, customer, 1.0).is_ok()
        });
    }
}

fn throttles(bench: &mut Bench) {
    for (name, accepts) in [("all accepted", true), ("none accepted", false)] {
        let throttle = Throttle::new(&ThrottleParams::default(), THREADS, START);
        bench.measure(&format!("throttle: send, {name}"), |turn| {
            let sent = throttle.try_send(turn.shard, Criticality::Critical, turn.now, turn.rng);
            if accepts && sent.is_ok() {
                throttle.on_accept(turn.shard, Criticality::Critical, turn.now, turn.now);
            }
            sent
        });
    }
    let callers = Callers::new(&RetryAdviceParams::default(), THREADS, START);
    bench.measure("callers: count an attempt and advise", |turn| {
        callers.on_request(turn.shard, (turn.nth % 8) as u32, turn.now);
        callers.advice(turn.now)
    });
}

fn admissions(bench: &mut Bench) {
    let who = Who { class: Criticality::Critical, customer: 4711, deadline: Deadline::NONE };
    let fixed = |limit, waiting_max| {
        let limit = LimitParams { min: limit, max: limit, initial: Some(limit), ..LimitParams::default() };
        let queue = QueueParams { waiting_max, ..QueueParams::default() };
        let params = AdmissionParams { limit, queue, ..AdmissionParams::default() };
        admission::Admission::new(&params, THREADS, START)
    };
    let roomy = fixed(1000, 100);
    bench.measure("admission: enter and leave", |turn| match roomy.try_enter(turn.shard, &who, turn.now) {
        Entry::Enter(ticket) => roomy.leave(turn.shard, ticket, turn.now, End::Success(LATENCY)),
        Entry::Wait | Entry::Refuse(_) => false,
    });
    let full = fixed(1, 0);
    let taken = full.try_enter(0, &who, START);
    bench.measure("admission: refuse at the limit", |turn| {
        debug_assert!(matches!(taken, Entry::Enter(_)));
        matches!(full.try_enter(turn.shard, &who, turn.now), Entry::Refuse(_))
    });
    // A line belongs to one worker; the locks are never contended.
    let queues = [(); THREADS].map(|()| Mutex::new(Queue::new(&QueueParams::default())));
    bench.measure("queue: push and pop", |turn| {
        let mut queue = queues[turn.shard].lock().unwrap_or_else(PoisonError::into_inner);
        let pushed = queue.push(turn.now, 100, LATENCY, Waiter { who, value: 1u32 }).is_ok();
        (pushed, queue.pop(turn.now, LATENCY, |_| Some(()), &mut |_, _| ()).is_some())
    });
}

fn quotas(bench: &mut Bench) {
    for (name, limit) in [("granted", 1e12), ("refused", 1.0)] {
        for (kind, shared) in [("local", false), ("shared", true)] {
            let params = QuotaParams { limit, burst: limit, shared, ..QuotaParams::default() };
            let quota = Quota::new(&params, 7);
            bench.measure(&format!("quota: {kind}, one customer, {name}"), |turn| {
                quota.try_take(turn.now, 4711, Some(1.0)).is_ok()
            });
            let quota = Quota::new(&params, 7);
            bench.measure(&format!("quota: {kind}, 10 000 customers, {name}"), |turn| {
                let customer = policy::mix(turn.rng.u64(..10_000));
                quota.try_take(turn.now, customer, Some(1.0)).is_ok()
            });
        }
    }
    let params = QuotaParams { limit: 1e12, burst: 1e12, ..QuotaParams::default() };
    let quota = Quota::new(&params, 7);
    bench.measure("quota: taken, and charged at the end", |turn| {
        let spent = quota.try_take(turn.now, 4711, None);
        spent.map(|spent| quota.charge(turn.now, 4711, spent, 3.0)).is_ok()
    });
}

/// Stands for what a mode leaves out.
#[derive(Clone, Default)]
struct Nothing;

impl Measures for Nothing {
    fn with(&self, _: &Self) -> Self {
        Self
    }
}

fn modes(bench: &mut Bench) {
    use policy::degrade::Force;
    for (name, force) in [("none in force", Force::Auto), ("one in force", Force::On)] {
        let params = ModeParams { force, ..ModeParams::default() };
        let modes = Modes::new(&[(params.clone(), Nothing)]);
        let mut governor = Governor::new(vec![params], START);
        let _ = governor.on_signals(START, &Signals::default());
        modes.set(&governor);
        bench.measure(&format!("modes: {name}"), |turn| modes.active(turn.rng).is_some());
    }
}

fn hedging(bench: &mut Bench) {
    let timer = HedgeTimer::new(&HedgeParams::default(), THREADS, START);
    bench.measure("hedge: latency seen", |turn| {
        timer.on_latency(turn.shard, turn.now, Duration::from_micros(turn.rng.u64(500..9000)));
    });
    bench.measure("hedge: delay", |_| timer.delay());
}

fn deadlines(bench: &mut Bench) {
    let max = Duration::from_secs(60);
    bench.measure("deadline: parse milliseconds", |_| deadline::parse_millis(black_box(b"14250"), max));
    bench
        .measure("deadline: parse grpc-timeout", |_| deadline::parse_grpc_timeout(black_box(b"14250m"), max));
    let left = Duration::from_micros(14_250_137);
    bench.measure("deadline: format milliseconds", |_| deadline::format_millis(black_box(left)));
    bench.measure("deadline: format grpc-timeout", |_| deadline::format_grpc_timeout(black_box(left)));
}

fn placement(bench: &mut Bench) {
    let key = b"customer-4711/cart";
    bench.measure("hash of an 18-byte key", |_| policy::hash(black_box(key)));
    let split = Split::new([(policy::hash(b"stable"), 95), (policy::hash(b"canary"), 5)]);
    bench.measure("split: by key", |turn| split.pick(Some(turn.nth), turn.rng));
    bench.measure("split: by chance", |turn| split.pick(None, turn.rng));
}
