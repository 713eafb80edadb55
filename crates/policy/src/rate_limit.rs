//! Rate limits per route and customer, in requests or cost.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};
use core::time::Duration;

use model::Instant;
use serde::{Deserialize, Serialize};

use crate::customers::{CUSTOMERS_LIMIT, Customers};

/// How much a customer may ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitParams {
    /// Cost per second that is granted in the long run. A request costs 1 unless it says more.
    pub per_sec: f64,
    /// Cost that may be saved up and spent at once.
    pub burst: f64,
    /// Customers told apart at a time; one that has not asked for a while is forgotten first.
    pub customers_max: u32,
}

impl Default for RateLimitParams {
    fn default() -> Self {
        Self { per_sec: 100.0, burst: 100.0, customers_max: 16_384 }
    }
}

/// Rates that nanoseconds can tell apart, and whose bursts can be saved up in a lifetime.
const PER_SEC: core::ops::RangeInclusive<f64> = 1e-6..=1e8;

impl RateLimitParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if !PER_SEC.contains(&self.per_sec) {
            let why = alloc::format!(
                "{} is no usable rate: between 0.000001 and 100000000, such as 100",
                self.per_sec
            );
            wrong.push(("per_sec", why));
        }
        if !(self.burst >= 1.0 && self.burst.is_finite()) {
            let why = alloc::format!("{} must be at least 1, or no request is ever granted", self.burst);
            wrong.push(("burst", why));
        }
        if !(1..=CUSTOMERS_LIMIT).contains(&self.customers_max) {
            let why = alloc::format!("must be between 1 and {CUSTOMERS_LIMIT}, such as 16384");
            wrong.push(("customers_max", why));
        }
        wrong
    }
}

/// Too soon: ask again after this long, when nobody else of the same customer does. [`Duration::MAX`]: never, because
/// the cost exceeds what can be saved up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub Duration);

/// Limits each customer to a rate with a burst (GCRA, a token bucket in one number), in bounded memory.
///
/// Over any span a customer is granted at most `burst + per_sec × elapsed`, exactly, whatever threads race, as long
/// as it is not forgotten. A customer whose bucket is full again may be forgotten without any difference. One that is
/// spending is forgotten only when more than eight customers of one set (see below) are spending at the same time:
/// the newcomer inherits the fullest bucket as it stands, and the one forgotten inherits another when it returns. So
/// the table as a whole never grants more than that bound times its buckets, however many names a customer makes up;
/// it fails towards refusing newcomers. (Threads that meet the same new customer in the same instant, while its
/// neighbours' buckets fill up, may give it two buckets once.)
///
/// Customers are hashed to sets of eight buckets, with at least twice as many buckets as `customers_max`. With that
/// many spending at once, two in a hundred share; with half as many, two in ten thousand.
///
/// Shared by all workers of the process, without a lock. Requests of one customer meet in one number: that is the
/// price of an exact bound; those of different customers do not meet.
///
/// Source: ITU-T I.371 (generic cell rate algorithm).
#[derive(Debug)]
pub struct RateLimiter {
    /// When each customer's bucket will be full again, in nanoseconds (GCRA's theoretical arrival time): full when that has
    /// passed, empty when it lies a whole burst ahead.
    buckets: Customers<AtomicU64>,
    nanos_per_cost: f64,
    burst: u64,
}

impl RateLimiter {
    /// A limiter that knows no customer. `seed` keeps customers from choosing whom they share a set with.
    #[must_use]
    pub fn new(params: &RateLimitParams, seed: u64) -> Self {
        let nanos_per_cost = 1e9 / params.per_sec.clamp(*PER_SEC.start(), *PER_SEC.end());
        Self {
            buckets: Customers::new(params.customers_max, seed),
            nanos_per_cost,
            burst: (params.burst.max(0.0) * nanos_per_cost) as u64,
        }
    }

    /// Takes `cost` from the bucket of `customer`, a hash of its name. A cost below zero, or none at all, is free.
    ///
    /// # Errors
    /// [`Wait`] when the bucket does not hold as much; nothing is taken then.
    pub fn try_take(&self, now: Instant, customer: u64, cost: f64) -> Result<(), Wait> {
        let span = self.span(cost);
        if span > self.burst {
            return Err(Wait(Duration::MAX));
        }
        let now = now.as_nanos();
        let latest = now.saturating_add(self.burst);
        let take = |full_at: u64| full_at.max(now).checked_add(span).filter(|full_at| *full_at <= latest);
        let bucket = self.bucket(customer, now);
        match bucket.fetch_update(AcqRel, Acquire, take) {
            Ok(_) => Ok(()),
            Err(full_at) => {
                Err(Wait(Duration::from_nanos(full_at.saturating_add(span).saturating_sub(latest))))
            }
        }
    }

    /// A request turned out to cost `more` than was taken, or less when negative. What exceeds the bucket is owed: it
    /// delays later requests instead of refusing this one.
    pub fn on_cost(&self, now: Instant, customer: u64, more: f64) {
        let now = now.as_nanos();
        let correct = |full_at: u64| {
            let full_at = full_at.max(now);
            Some(if more < 0.0 {
                full_at.saturating_sub(self.span(-more)).max(now)
            } else {
                full_at.saturating_add(self.span(more))
            })
        };
        // An update that is always wanted always succeeds.
        let _ = self.bucket(customer, now).fetch_update(AcqRel, Relaxed, correct);
    }

    /// The time in which `cost` is earned, rounded up.
    fn span(&self, cost: f64) -> u64 {
        let nanos = cost.max(0.0) * self.nanos_per_cost;
        let whole = nanos as u64;
        if (whole as f64) < nanos { whole.saturating_add(1) } else { whole }
    }

    /// The bucket of `customer`: its own, else one taken over from a customer whose bucket is full again, else the
    /// fullest of the set.
    fn bucket(&self, customer: u64, now: u64) -> &AtomicU64 {
        self.buckets.find_or_take_over(customer, |full_at| full_at.load(Relaxed).max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::thread;

    fn limiter(per_sec: f64, burst: f64, customers_max: u32) -> RateLimiter {
        RateLimiter::new(&RateLimitParams { per_sec, burst, customers_max }, 42)
    }

    proptest! {
        #[test]
        fn never_grants_a_customer_more_than_it_promises(
            per_sec in 0.1..1_000.0f64, burst in 1.0..100.0f64, from in 0..200usize,
            ops in prop::collection::vec((0..5u64, 0.0..5.0f64, -5..400i64), 0..400),
        ) {
            let limiter = limiter(per_sec, burst, 1_024);
            let (mut nanos, mut latest, mut begin) = (0u64, 0u64, 0);
            let mut granted: HashMap<u64, f64> = HashMap::new();
            for (index, (customer, cost, millis)) in ops.into_iter().enumerate() {
                nanos = nanos.saturating_add_signed(millis * 1_000_000);
                if index == from {
                    granted.clear();
                    begin = latest;
                }
                latest = latest.max(nanos);
                if limiter.try_take(Instant::from_nanos(nanos), customer, cost).is_ok() {
                    *granted.entry(customer).or_default() += cost;
                }
                let bound = burst + per_sec * (latest - begin) as f64 / 1e9;
                for (customer, granted) in &granted {
                    prop_assert!(*granted <= bound * (1.0 + 1e-9) + 1e-6, "{customer}: {granted} > {bound}");
                }
            }
        }

        #[test]
        fn whoever_waits_as_told_is_served(
            per_sec in 0.1..10_000.0f64, burst in 1.0..100.0f64, costs in prop::collection::vec(0.0..1.0f64, 1..100),
        ) {
            let limiter = limiter(per_sec, burst, 8);
            let mut now = Instant::ORIGIN;
            for cost in costs {
                if let Err(Wait(wait)) = limiter.try_take(now, 1, cost) {
                    now = now.after(wait);
                    prop_assert_eq!(limiter.try_take(now, 1, cost), Ok(()));
                }
            }
        }

        #[test]
        fn made_up_names_do_not_multiply_the_limit(names in 100..3_000u64, secs in 0..10u64) {
            let limiter = limiter(1.0, 10.0, 64);
            let size = limiter.buckets.slots() as f64;
            let mut granted = 0.0;
            for second in 0..=secs {
                for name in 0..names {
                    granted += f64::from(limiter.try_take(Instant::from_secs(second), name, 1.0).is_ok() as u8);
                }
            }
            prop_assert!(granted <= size * (10.0 + secs as f64), "{granted}");
        }
    }

    #[test]
    fn forgetting_a_customer_whose_bucket_is_full_makes_no_difference() {
        let limiter = limiter(1.0, 10.0, 8);
        // A thousand customers, one after the other, in sixteen buckets: each finds a full one.
        for customer in 0..1_000 {
            let now = Instant::from_secs(20 + customer * 2);
            assert_eq!((0..20).filter(|_| limiter.try_take(now, customer, 1.0).is_ok()).count(), 10);
        }
    }

    #[test]
    fn measured_cost_is_settled_afterwards() {
        let limiter = limiter(1.0, 10.0, 8);
        let now = Instant::from_secs(5);
        assert_eq!(limiter.try_take(now, 1, 1.0), Ok(()));
        limiter.on_cost(now, 1, 19.0);
        assert_eq!(limiter.try_take(now, 1, 1.0), Err(Wait(Duration::from_secs(11))));
        limiter.on_cost(now, 1, -19.0);
        assert_eq!(limiter.try_take(now, 1, 9.0), Ok(()));
        limiter.on_cost(now, 1, -1_000.0);
        assert_eq!(limiter.try_take(now, 1, 10.0), Ok(()));
        assert_eq!(limiter.try_take(now, 1, 0.5), Err(Wait(Duration::from_millis(500))));
    }

    #[test]
    fn senseless_costs_and_bounds() {
        let limiter = limiter(1.0, 10.0, 8);
        let now = Instant::ORIGIN;
        assert_eq!(limiter.try_take(now, 1, 11.0), Err(Wait(Duration::MAX)));
        assert_eq!(limiter.try_take(now, 1, f64::INFINITY), Err(Wait(Duration::MAX)));
        assert_eq!(limiter.try_take(now, 1, -5.0), Ok(()));
        assert_eq!(limiter.try_take(now, 1, f64::NAN), Ok(()));
        assert_eq!(limiter.try_take(now, 1, 10.0), Ok(()));
        assert!(RateLimitParams::default().check().is_empty());
        for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let params = RateLimitParams { per_sec: bad, burst: bad, customers_max: 0 };
            let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
            assert_eq!(fields, ["per_sec", "burst", "customers_max"], "{bad}");
        }
    }

    #[test]
    fn racing_threads_share_one_bound() {
        let limiter = &limiter(1.0, 1_000.0, 8);
        let granted: usize = thread::scope(|scope| {
            let take =
                || (0..5_000).filter(|_| limiter.try_take(Instant::from_secs(9), 7, 1.0).is_ok()).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(granted, 1_000);
    }
}
