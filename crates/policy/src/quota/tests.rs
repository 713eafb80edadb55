use super::*;
use crate::Rng;
use proptest::prelude::*;
use std::collections::HashMap;
use std::thread;
use std::vec;

const MS: Duration = Duration::from_millis(1);

fn at(millis: u64) -> Instant {
    Instant::from_secs(1_000).after(MS * millis as u32)
}

fn shared(limit: f64, burst: f64) -> QuotaParams {
    QuotaParams { limit, per: Span::from_secs(1), burst, shared: true, ..QuotaParams::default() }
}

/// The store's part, as the script that the gateway sends writes it: a bucket for each customer.
struct Store {
    per_sec: f64,
    burst: f64,
    /// When a customer's bucket is full again, in seconds.
    full_at: HashMap<u64, f64>,
    granted: f64,
}

impl Store {
    fn new(params: &QuotaParams) -> Self {
        let (per_sec, burst) = (params.per_sec() * ATOMS, params.burst * ATOMS);
        Self { per_sec, burst, full_at: HashMap::new(), granted: 0.0 }
    }

    fn take(&mut self, now: Instant, slice: Slice) -> u64 {
        let now = now.as_nanos() as f64 / 1e9;
        let full_at = self.full_at.entry(slice.customer).or_insert(now);
        *full_at = full_at.max(now);
        let available = (self.burst - (*full_at - now) * self.per_sec).max(0.0);
        let granted = (slice.wanted as f64).min(available.floor());
        *full_at += granted / self.per_sec;
        self.granted += granted;
        granted as u64
    }
}

/// How the store is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Health {
    Well,
    /// Answers take so long.
    Slow(u64),
    Gone,
}

/// When an answer arrives, at which replica, and what it says.
type Answer = (u64, usize, Result<(Slice, u64), ()>);

/// Replicas around one store. Answers arrive after their delay; a request that was not answered in 100 ms is given up
/// by the replica that sent it, although the store may have granted it.
struct Cluster {
    replicas: Vec<Quota>,
    store: Store,
    health: Health,
    millis: u64,
    under_way: Vec<Answer>,
}

impl Cluster {
    fn new(params: &QuotaParams, replicas: usize) -> Self {
        Self {
            replicas: (0..replicas).map(|seed| Quota::new(params, seed as u64)).collect(),
            store: Store::new(params),
            health: Health::Well,
            millis: 0,
            under_way: vec![],
        }
    }

    fn now(&self) -> Instant {
        at(self.millis)
    }

    /// One millisecond: answers arrive, and every fifth millisecond each replica asks.
    fn step(&mut self) {
        self.millis += 1;
        let now = self.now();
        let (due, rest): (Vec<Answer>, _) =
            std::mem::take(&mut self.under_way).into_iter().partition(|(when, ..)| *when <= self.millis);
        self.under_way = rest;
        for (_, replica, answer) in due {
            let count = self.replicas.len() as u32;
            match answer {
                Ok((slice, granted)) => {
                    self.replicas[replica].on_slice(now, slice, granted);
                    self.replicas[replica].on_answer(count);
                }
                Err(()) => self.replicas[replica].on_unreachable(now),
            }
        }
        if !self.millis.is_multiple_of(5) {
            return;
        }
        for index in 0..self.replicas.len() {
            for slice in self.replicas[index].poll_refill(now, 16) {
                let answer = match self.health {
                    Health::Well => (self.millis + 1, index, Ok((slice, self.store.take(now, slice)))),
                    Health::Slow(delay) => {
                        let granted = self.store.take(now, slice);
                        let answer = if delay > 100 { Err(()) } else { Ok((slice, granted)) };
                        (self.millis + delay.min(100), index, answer)
                    }
                    Health::Gone => (self.millis + 1, index, Err(())),
                };
                self.under_way.push(answer);
            }
        }
    }

    fn slice(&self) -> f64 {
        2.0 * self.replicas[0].half as f64 / ATOMS
    }
}

fn health() -> impl Strategy<Value = Health> {
    prop_oneof![
        2 => Just(Health::Well),
        1 => (1..300u64).prop_map(Health::Slow),
        1 => Just(Health::Gone),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The promise of the type, from any moment on, whatever the store does.
    #[test]
    fn all_replicas_together_grant_no_more_than_promised(
        limit in 1.0..500.0f64, burst in 1.0..500.0f64, slice in 1..=100u8, replicas in 1..5usize, seed in any::<u64>(),
        phases in prop::collection::vec((health(), 1..400u64), 1..8), from in 0..1_500u64, cost_max in 0.1..20.0f64,
        direction in prop_oneof![Just(WhenUnreachable::LocalShare), Just(WhenUnreachable::Closed)],
    ) {
        let params = QuotaParams {
            slice: Ratio::percent(slice), when_unreachable: direction, ..shared(limit, burst)
        };
        let mut cluster = Cluster::new(&params, replicas);
        let mut rng = Rng::with_seed(seed);
        let (mut granted, mut dearest) = (0.0, 0.0f64);
        for (health, millis) in phases {
            cluster.health = health;
            for _ in 0..millis {
                cluster.step();
                if cluster.millis == from {
                    granted = 0.0;
                }
                for _ in 0..rng.u32(0..6) {
                    let cost = rng.f64() * cost_max;
                    let replica = rng.usize(0..replicas);
                    if cluster.replicas[replica].try_take(cluster.now(), 7, Some(cost)).is_ok() {
                        granted += cost;
                        dearest = dearest.max(cost);
                    }
                }
                let since = if cluster.millis >= from { from } else { 0 };
                let elapsed = (cluster.millis - since) as f64 / 1e3;
                let in_hand = replicas as f64 * (cluster.slice() + dearest);
                let mut bound = burst + limit * elapsed + in_hand;
                if direction == WhenUnreachable::LocalShare {
                    // Before a replica has heard how many there are, it believes to be alone.
                    bound += in_hand + replicas as f64 * limit * elapsed;
                }
                prop_assert!(granted <= bound + 1e-3, "{granted} > {bound} in {elapsed} s");
            }
        }
    }

    /// Costs that are known only afterwards are bounded too: by what is owed at most.
    #[test]
    fn what_is_owed_is_bounded(
        limit in 1.0..500.0f64, costs in prop::collection::vec(0.0..1e9f64, 1..60), shared in any::<bool>(),
    ) {
        let params = QuotaParams { shared, ..self::shared(limit, limit) };
        let mut cluster = Cluster::new(&params, 1);
        for cost in costs {
            if let Ok(spent) = cluster.replicas[0].try_take(cluster.now(), 7, None) {
                cluster.replicas[0].charge(cluster.now(), 7, spent, cost);
            }
            cluster.step();
        }
        // A burst is owed at most, which is earned in `burst / limit` seconds; a burst and what was set aside besides.
        cluster.health = Health::Well;
        let mut waited = 0;
        while cluster.replicas[0].try_take(cluster.now(), 7, None).is_err() {
            cluster.step();
            waited += 1;
            prop_assert!(waited <= 3_000, "{:?}", cluster.replicas[0].accounts.find(7));
        }
    }

    #[test]
    fn made_up_names_gain_nothing_here(names in 1..2_000u64) {
        let params = QuotaParams { shared: false, customers_max: 64, ..shared(1.0, 10.0) };
        let quota = Quota::new(&params, 3);
        let granted = (0..names).flat_map(|name| [name; 20])
            .filter(|name| quota.try_take(at(0), *name, Some(1.0)).is_ok()).count();
        prop_assert!(granted <= quota.accounts.slots() * 10, "{granted}");
    }
}

/// Spends at `per_sec`, evenly over the replicas, for so long; answers how much was granted and how much refused.
fn spend(cluster: &mut Cluster, per_sec: f64, millis: u64) -> (f64, f64) {
    let (mut granted, mut refused, mut turn) = (0.0, 0.0, 0);
    for millis in 1..=millis {
        cluster.step();
        while (turn as f64) < per_sec * millis as f64 / 1e3 {
            turn += 1;
            let replica = &cluster.replicas[turn % cluster.replicas.len()];
            match replica.try_take(cluster.now(), 7, Some(1.0)) {
                Ok(_) => granted += 1.0,
                Err(_) => refused += 1.0,
            }
        }
    }
    (granted, refused)
}

#[test]
fn a_customer_within_its_quota_is_never_refused() {
    for replicas in [1, 3, 10] {
        let mut cluster = Cluster::new(&shared(1_000.0, 1_000.0), replicas);
        assert_eq!(spend(&mut cluster, 900.0, 5_000), (4_500.0, 0.0), "{replicas} replicas");
    }
}

#[test]
fn a_greedy_customer_gets_its_quota_and_no_more() {
    for replicas in [1, 3, 10] {
        let mut cluster = Cluster::new(&shared(1_000.0, 1_000.0), replicas);
        spend(&mut cluster, 5_000.0, 2_000);
        let (granted, _) = spend(&mut cluster, 5_000.0, 10_000);
        assert!((9_500.0..10_550.0).contains(&granted), "{granted} by {replicas} replicas");
    }
}

#[test]
fn slow_answers_neither_block_nor_open() {
    let mut cluster = Cluster::new(&shared(1_000.0, 1_000.0), 3);
    cluster.health = Health::Slow(20);
    spend(&mut cluster, 500.0, 1_000);
    let (granted, refused) = spend(&mut cluster, 500.0, 4_000);
    assert_eq!((granted, refused), (2_000.0, 0.0));
}

/// Safety while the store is gone, liveness once it is back.
#[test]
fn a_store_that_goes_and_comes_back() {
    for (direction, low, high) in [
        // About what the rate allows; nothing but what was in hand; everything.
        (WhenUnreachable::LocalShare, 8_500.0, 10_300.0),
        (WhenUnreachable::Closed, 0.0, 200.0),
        (WhenUnreachable::Open, 27_000.0, 30_000.0),
    ] {
        let params = QuotaParams { when_unreachable: direction, ..shared(1_000.0, 1_000.0) };
        let mut cluster = Cluster::new(&params, 3);
        spend(&mut cluster, 3_000.0, 2_000);
        cluster.health = Health::Gone;
        let (granted, _) = spend(&mut cluster, 3_000.0, 10_000);
        assert!((low..high).contains(&granted), "{direction:?}: {granted}");
        assert!(cluster.replicas.iter().all(|replica| !replica.reachable(cluster.now())));
        cluster.health = Health::Well;
        spend(&mut cluster, 3_000.0, 2_000);
        let (granted, _) = spend(&mut cluster, 3_000.0, 10_000);
        assert!((9_500.0..10_500.0).contains(&granted), "{direction:?}, back: {granted}");
        assert!(cluster.replicas.iter().all(|replica| replica.reachable(cluster.now())));
    }
}

#[test]
fn a_shell_that_never_asks_counts_as_a_store_that_is_gone() {
    let quota = Quota::new(&shared(1_000.0, 1_000.0), 3);
    let granted =
        (0..10_000).filter(|millis| quota.try_take(at(*millis), 7, Some(1.0)).is_ok()).count() as f64;
    assert!((9_500.0..10_100.0).contains(&granted), "{granted}");
}

#[test]
fn batches_are_bounded_and_everybody_has_a_turn() {
    let quota = Quota::new(&shared(1_000.0, 1_000.0), 3);
    for customer in 0..1_000 {
        assert!(quota.try_take(at(0), customer, Some(1.0)).is_ok());
    }
    let mut asked = vec![];
    loop {
        let batch = quota.poll_refill(at(1), 64);
        if batch.is_empty() {
            break;
        }
        // A set that is begun is finished.
        assert!(batch.len() < 64 + 8, "{}", batch.len());
        asked.extend(batch.into_iter().map(|slice| slice.customer));
    }
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), 1_000);
    assert!(quota.poll_refill(at(2), 64).is_empty());
}

#[test]
fn slow_requests_at_once_do_not_slip_through() {
    let params = QuotaParams { shared: false, ..shared(1_000.0, 1_000.0) };
    let quota = Quota::new(&params, 3);
    let first = quota.try_take(at(0), 7, None).unwrap();
    quota.charge(at(0), 7, first, 25.0);
    let together = (0..1_000).filter(|_| quota.try_take(at(0), 7, None).is_ok()).count();
    assert_eq!(together, 39);
}

#[test]
fn what_is_refused_later_costs_nothing() {
    for shared in [false, true] {
        let quota = Quota::new(&QuotaParams { shared, ..self::shared(10.0, 10.0) }, 3);
        for _ in 0..100 {
            let spent = quota.try_take(at(0), 7, Some(1.0)).unwrap();
            quota.give_back(at(0), 7, spent);
        }
    }
}

#[test]
fn refusals_say_when() {
    let local = Quota::new(&QuotaParams { shared: false, ..shared(10.0, 10.0) }, 3);
    assert!(local.try_take(at(0), 7, Some(10.0)).is_ok());
    assert_eq!(local.try_take(at(0), 7, Some(1.0)), Err(Wait(MS * 100)));
    assert_eq!(local.try_take(at(0), 7, Some(11.0)), Err(Wait(Duration::MAX)));
    let quota = Quota::new(&shared(10.0, 10.0), 3);
    while quota.try_take(at(0), 7, Some(1.0)).is_ok() {}
    let slice = quota.poll_refill(at(1), 8)[0];
    quota.on_slice(at(1), slice, 0);
    // Five requests ahead are owed, and one is wanted: six at ten a second.
    let Err(Wait(wait)) = quota.try_take(at(1), 7, Some(1.0)) else { panic!("it owes") };
    assert_eq!(wait.as_millis(), 600);
}

#[test]
fn racing_threads_spend_a_slice_once() {
    let quota = &Quota::new(&shared(1_000.0, 1_000.0), 3);
    let granted: usize = thread::scope(|scope| {
        let take = || (0..1_000).filter(|_| quota.try_take(at(0), 7, Some(1.0)).is_ok()).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(granted, 25, "half a slice ahead of the first answer");
}

#[test]
fn senseless_parameters_are_named() {
    assert!(QuotaParams::default().check().is_empty());
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let params = QuotaParams {
            limit: bad,
            per: Span::default(),
            burst: bad,
            slice: Ratio::ZERO,
            customers_max: 0,
            ..QuotaParams::default()
        };
        let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
        assert_eq!(fields, ["limit", "per", "burst", "slice", "customers_max"], "{bad}");
    }
}
