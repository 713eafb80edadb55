//! Retry budget: caps retries at a share of first attempts.

use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::{Instant, Ratio};
use serde::{Deserialize, Serialize};

use crate::sharded::{Padded, Sharded};

/// Bounds of a retry budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudgetParams {
    /// Retries earned per first attempt.
    pub ratio: Ratio,
    /// Retries per second allowed whatever the traffic, so that a quiet client can still retry.
    pub floor_per_sec: u32,
    /// Most retries that can be saved up.
    pub burst: NonZeroU32,
}

impl Default for RetryBudgetParams {
    fn default() -> Self {
        Self { ratio: Ratio::percent(10), floor_per_sec: 1, burst: const { NonZeroU32::new(100).unwrap() } }
    }
}

/// One retry in the fixed-point unit that balances are kept in. Coarse enough that sums last for years at a million
/// requests per second, fine enough for ratios of a thousandth of a percent.
const RETRY: u64 = 100_000;

/// A new budget starts with what this much time earns, and nothing else.
const HEAD_START: Duration = Duration::from_secs(1);

/// Caps retries at a share of first attempts, so that retrying cannot multiply an outage. Hedges spend it too.
///
/// Over any span it grants at most `burst + floor_per_sec × elapsed + ratio × first attempts`, and since it began at
/// most `floor_per_sec × (elapsed + 1 s) + ratio × first attempts`: it starts empty but for one second of its floor,
/// because the initial tokens of many clients add up to a retry storm. Both bounds are exact, whatever threads race.
/// Fails towards fewer retries: a decision may miss first attempts that other threads began within the last few
/// hundred nanoseconds, and a retry granted but never sent stays spent.
///
/// So an endpoint that fails within the first second finds the budget cold: until it is taken out, users see whatever one
/// second of the floor and the share of the few requests so far do not pay for. That is the price of the second bound, and
/// it is paid on purpose: what one client is lent at its start is lent to a whole fleet when all of it starts at once, which
/// happens above all when something is wrong. A service that must not pay it gets a higher `floor_per_sec`: a rate, which
/// its endpoints can be sized for, and one second of it to begin with.
///
/// Ask when a retry is *scheduled*, before its back-off, not when it is sent: otherwise all that wait in back-off
/// evade the count.
///
/// Source: SRE book, ch. 21; Finagle `RetryBudget`, which expires deposits where this caps the balance.
#[derive(Debug)]
pub struct RetryBudget {
    /// First attempts, by worker.
    requests: Sharded<AtomicU64>,
    /// What was spent or expired, on the scale of [`RetryBudget::earned`]: the balance is the difference, and
    /// whatever lies more than `burst` behind has expired. One number, so that one exchange decides.
    spent: Padded<AtomicU64>,
    started: Instant,
    per_request: u64,
    per_sec: u64,
    burst: u64,
}

impl RetryBudget {
    /// A budget shared by `workers` workers that begins at `now`.
    #[must_use]
    pub fn new(params: &RetryBudgetParams, workers: usize, now: Instant) -> Self {
        // The nudge keeps a ratio such as 0.29, which is a hair less in binary, from losing a whole unit.
        let per_request = (params.ratio.get() * RETRY as f64 + 1e-6) as u64;
        Self {
            requests: Sharded::new(workers),
            spent: Padded::default(),
            started: now,
            per_request,
            per_sec: u64::from(params.floor_per_sec) * RETRY,
            burst: u64::from(params.burst.get()) * RETRY,
        }
    }

    /// A request made its first attempt. `shard` is the number of the calling worker.
    pub fn on_request(&self, shard: usize) {
        self.requests.get(shard).fetch_add(1, Relaxed);
    }

    /// Takes one retry if there is one.
    #[must_use]
    pub fn try_retry(&self, now: Instant) -> bool {
        let earned = self.earned(now);
        let expired = earned.saturating_sub(self.burst);
        let spend = |spent: u64| spent.max(expired).checked_add(RETRY).filter(|spent| *spent <= earned);
        self.spent.0.fetch_update(Relaxed, Relaxed, spend).is_ok()
    }

    /// Retries that could be granted at `now`.
    #[must_use]
    pub fn balance(&self, now: Instant) -> f64 {
        let balance = self.earned(now).saturating_sub(self.spent.0.load(Relaxed));
        balance.min(self.burst) as f64 / RETRY as f64
    }

    /// Takes back a grant that another budget vetoed.
    fn give_back(&self) {
        self.spent.0.fetch_sub(RETRY, Relaxed);
    }

    /// All that time and requests have earned since the beginning.
    fn earned(&self, now: Instant) -> u64 {
        let requests: u64 = self.requests.iter().map(|shard| shard.load(Relaxed)).sum();
        let nanos = (now.since(self.started) + HEAD_START).as_nanos();
        let by_time = nanos.saturating_mul(u128::from(self.per_sec)) / 1_000_000_000;
        let by_time = u64::try_from(by_time).unwrap_or(u64::MAX);
        requests.saturating_mul(self.per_request).saturating_add(by_time)
    }
}

/// Takes one retry from each of `budgets`, or from none: a request answers to the budget of its service and to that
/// of the process. While a veto is being undone, others may be refused a retry that they could have had.
#[must_use]
pub fn try_retry_all(budgets: &[&RetryBudget], now: Instant) -> bool {
    match budgets.iter().position(|budget| !budget.try_retry(now)) {
        None => true,
        Some(vetoed) => {
            budgets[..vetoed].iter().for_each(|budget| budget.give_back());
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;
    use std::vec::Vec;

    fn params(ratio: f64, floor_per_sec: u32, burst: u32) -> RetryBudgetParams {
        RetryBudgetParams {
            ratio: Ratio::new(ratio).unwrap(),
            floor_per_sec,
            burst: NonZeroU32::new(burst).unwrap(),
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Requests(u32),
        Retries(u32),
        /// Milliseconds; negative as racing threads deliver them.
        Wait(i32),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            (0..200u32).prop_map(Op::Requests),
            (0..200u32).prop_map(Op::Retries),
            (-5..3_000i32).prop_map(Op::Wait),
        ];
        prop::collection::vec(op, 0..60)
    }

    proptest! {
        #[test]
        fn never_grants_more_than_it_promises(
            ops in ops(), ratio in 0.0..=1.0f64, floor in 0..50u32, burst in 1..300u32, from in 0..30usize,
        ) {
            let budget = RetryBudget::new(&params(ratio, floor, burst), 4, Instant::ORIGIN);
            let (mut nanos, mut latest) = (0u64, 0u64);
            // The span that begins with the op numbered `from`, and the whole life.
            let mut begin = None;
            let (mut requests, mut granted) = (0u64, 0u64);
            for (index, op) in ops.iter().enumerate() {
                if index == from {
                    begin = Some((latest, requests, granted));
                }
                match *op {
                    Op::Requests(n) => for i in 0..n { requests += 1; budget.on_request(i as usize) },
                    Op::Retries(n) => for _ in 0..n {
                        granted += u64::from(budget.try_retry(Instant::from_nanos(nanos)));
                    },
                    Op::Wait(ms) => nanos = nanos.saturating_add_signed(i64::from(ms) * 1_000_000),
                }
                latest = latest.max(nanos);
            }
            let (floor, burst) = (f64::from(floor), f64::from(burst));
            let life = floor * (latest as f64 / 1e9 + 1.0) + ratio * requests as f64;
            prop_assert!(granted as f64 <= life + 1e-6, "{granted} > {life} in its life");
            if let Some((at, before, granted_before)) = begin {
                let span = burst + floor * (latest - at) as f64 / 1e9 + ratio * (requests - before) as f64;
                prop_assert!((granted - granted_before) as f64 <= span + 1e-6);
            }
            prop_assert!(budget.balance(Instant::from_nanos(latest)) <= burst);
        }

        #[test]
        fn takes_from_all_or_from_none(left in 0..5u32, right in 0..5u32) {
            let earn = |n: u32| {
                let budget = RetryBudget::new(&params(1.0, 0, 100), 1, Instant::ORIGIN);
                (0..n).for_each(|_| budget.on_request(0));
                budget
            };
            let (a, b) = (earn(left), earn(right));
            let granted = (0..10).filter(|_| try_retry_all(&[&a, &b], Instant::ORIGIN)).count();
            prop_assert_eq!(granted, left.min(right) as usize);
            prop_assert_eq!(a.balance(Instant::ORIGIN), f64::from(left - left.min(right)));
            prop_assert_eq!(b.balance(Instant::ORIGIN), f64::from(right - left.min(right)));
        }
    }

    #[test]
    fn trap_4_retries_that_wait_in_back_off_are_counted() {
        let budget = RetryBudget::new(&params(0.2, 0, 1_000), 1, Instant::ORIGIN);
        (0..1_000).for_each(|_| budget.on_request(0));
        // All fail at once and decide before any back-off has passed.
        let granted = (0..1_000).filter(|_| budget.try_retry(Instant::ORIGIN)).count();
        assert_eq!(granted, 200);
    }

    #[test]
    fn trap_5_many_clients_with_fresh_budgets_stay_below_the_ratio() {
        let (mut requests, mut retries) = (0, 0);
        for client in 0..1_000 {
            let budget = RetryBudget::new(&params(0.1, 0, 100), 1, Instant::ORIGIN);
            for request in 0..30 {
                budget.on_request(0);
                requests += 1;
                if (client + request) % 2 == 0 {
                    retries += i32::from(budget.try_retry(Instant::from_millis(request)));
                }
            }
        }
        let amplification = f64::from(requests + retries) / f64::from(requests);
        assert!((1.05..=1.1).contains(&amplification), "{amplification}");
    }

    /// One of four endpoints fails from the first request on and is taken out after five failures. Answers how many of
    /// those five users see, for a budget that began `secs` before.
    fn seen_of_five_failures(params: &RetryBudgetParams, secs: u64) -> usize {
        let budget = RetryBudget::new(params, 1, Instant::ORIGIN);
        (0..100 * secs).for_each(|_| budget.on_request(0));
        let begins = secs * 1_000;
        let fails = |request: &u64| {
            budget.on_request(0);
            request.is_multiple_of(4) && !budget.try_retry(Instant::from_millis(begins + 10 * request))
        };
        (0..20).filter(fails).count()
    }

    #[test]
    fn an_endpoint_that_fails_first_costs_what_a_cold_budget_has_not_earned() {
        let default = RetryBudgetParams::default();
        // Paid for: one by the first second of the floor, one by the first dozen requests.
        assert_eq!(seen_of_five_failures(&default, 0), 3);
        assert_eq!(seen_of_five_failures(&default, 1), 0);
        assert_eq!(seen_of_five_failures(&RetryBudgetParams { floor_per_sec: 5, ..default }, 0), 0);
    }

    #[test]
    fn trap_5_a_start_that_pays_for_such_a_loss_would_not_stay_below_the_ratio() {
        // What many clients would be granted that begin together, live for 30 requests and see every second one fail.
        let amplification = |head_start: u32| {
            let budget = RetryBudget::new(&params(0.1, head_start, 100), 1, Instant::ORIGIN);
            let granted = (0..30).filter(|request| {
                budget.on_request(0);
                request % 2 == 0 && budget.try_retry(Instant::ORIGIN)
            });
            1.0 + granted.count() as f64 / 30.0
        };
        assert!(amplification(0) <= 1.1);
        assert!(amplification(5) > 1.2, "{}", amplification(5));
    }

    #[test]
    fn a_quiet_client_can_still_retry() {
        let budget = RetryBudget::new(&RetryBudgetParams::default(), 1, Instant::ORIGIN);
        assert!(budget.try_retry(Instant::ORIGIN));
        assert!(!budget.try_retry(Instant::ORIGIN));
        assert!(budget.try_retry(Instant::from_secs(1)));
    }

    #[test]
    fn racing_threads_share_one_bound() {
        let budget = RetryBudget::new(&params(0.1, 0, 10_000), 4, Instant::ORIGIN);
        let granted: usize = thread::scope(|scope| {
            let work = |shard| {
                let budget = &budget;
                move || {
                    (0..20_000)
                        .filter(|_| {
                            budget.on_request(shard);
                            budget.try_retry(Instant::ORIGIN)
                        })
                        .count()
                }
            };
            let threads: Vec<_> = (0..4).map(|shard| scope.spawn(work(shard))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // Exactly what was earned: nothing granted twice, and nothing lost once the threads are done.
        let rest = (0..10_000).filter(|_| budget.try_retry(Instant::ORIGIN)).count();
        assert_eq!(granted + rest, 8_000);
    }
}
