//! What all balancers promise, and the traps that they must not fall into.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::time::Duration;
use std::format;
use std::vec::Vec;

use model::{Instant, Ratio, Span, Verdict};
use proptest::prelude::*;

use super::simulation::{Load, run};
use super::*;
use crate::slow_start::SlowStartParams;
use crate::{Ended, Endpoint, Report, Rng, Unavailable, mix};

const START: Instant = Instant::from_secs(1_000);
const MS: Duration = Duration::from_millis(1);

fn ring(load_bound: f64) -> Balance {
    Balance::RingHash(RingHashParams { key: HashKey::Path, points: 100, load_bound })
}

fn maglev() -> Balance {
    Balance::Maglev(MaglevParams { key: HashKey::Path, table_size: 2_000 })
}

fn all_balances() -> [Balance; 8] {
    [
        Balance::RoundRobin,
        Balance::Random,
        Balance::LeastLoaded,
        Balance::PeakEwma,
        Balance::WeightedByLoad(WeightedByLoadParams::default()),
        Balance::Prequal(PrequalParams::default()),
        ring(1.25),
        maglev(),
    ]
}

fn fleet(weights: &[u32]) -> Fleet {
    let endpoints = weights.iter().enumerate().map(|(n, weight)| {
        Arc::new(Endpoint::new(&format!("10.0.0.{n}:80"), *weight, 1_000, Instant::ORIGIN))
    });
    Fleet::new(endpoints.collect(), Ratio::ZERO)
}

fn equal(count: usize) -> Fleet {
    fleet(&std::vec![1; count])
}

fn balancer(balance: &Balance, fleet: &Fleet) -> Box<dyn Balancer> {
    build(balance, fleet, START, 7)
}

fn keyed(key: u64) -> Pick<'static> {
    Pick { now: START, key: Some(mix(key)), tried: &[] }
}

/// Picks per endpoint, with all endpoints idle.
fn counts(balancer: &dyn Balancer, fleet: &Fleet, picks: u64) -> Vec<u64> {
    let mut rng = Rng::with_seed(3);
    let mut counts = std::vec![0; fleet.endpoints().len()];
    for key in 0..picks {
        counts[balancer.pick(fleet, &keyed(key), &mut rng).unwrap() as usize] += 1;
    }
    counts
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whoever is picked can take the request, and somebody is picked whenever anybody can: an endpoint already tried
    /// only when no other is left.
    #[test]
    fn picks_somebody_exactly_when_somebody_can_be_picked(
        states in prop::collection::vec((0u32..4, 0u32..3, 0u32..3, prop::option::of(0usize..4), any::<bool>()), 0..12),
        panic_below in 0u8..=100,
        late in prop::option::of(any::<prop::sample::Index>()),
        key in prop::option::of(any::<u64>()),
        seed in any::<u64>(),
    ) {
        let mut tried = Vec::new();
        let endpoints: Vec<_> = states.iter().enumerate().map(|(n, (weight, active, max, out, was_tried))| {
            let joined = START.before(Duration::from_secs(3 * n as u64));
            let endpoint = Endpoint::new(&format!("e{n}"), *weight, *max, joined);
            (0..*active).for_each(|_| endpoint.on_start(START));
            if let Some(reason) = out {
                endpoint.set_unavailable(Unavailable::ALL[*reason], true);
            }
            if *was_tried {
                tried.push(n as u32);
            }
            Arc::new(endpoint)
        }).collect();
        let fleet = Fleet::new(endpoints, Ratio::percent(panic_below))
            .with_slow_start(&SlowStartParams::default(), START);
        let balancers = all_balances().map(|balance| balancer(&balance, &fleet));
        if let (Some(late), false) = (late, states.is_empty()) {
            fleet.endpoints()[late.index(states.len())].set_unavailable(Unavailable::Ejected, true);
        }
        let able: Vec<u32> = fleet.candidates().iter().copied().filter(|index| {
            let endpoint = fleet.endpoint(*index);
            endpoint.weight() > 0 && endpoint.has_room()
                && (endpoint.available() || fleet.panicking() && !endpoint.is_unavailable(Unavailable::Disabled))
        }).collect();
        let fresh: Vec<u32> = able.iter().copied().filter(|index| !tried.contains(index)).collect();
        let wanted = if fresh.is_empty() { &able } else { &fresh };
        let mut rng = Rng::with_seed(seed);
        for (balancer, balance) in balancers.iter().zip(all_balances()) {
            for _ in 0..5 {
                match balancer.pick(&fleet, &Pick { now: START, key, tried: &tried }, &mut rng) {
                    Some(index) => prop_assert!(wanted.contains(&index), "{balance:?} picked {index}"),
                    None => prop_assert!(wanted.is_empty(), "{balance:?} picked nobody of {wanted:?}"),
                }
            }
        }
    }

    /// Idle endpoints get their weight's share from all policies that configured weights count for.
    #[test]
    fn idle_endpoints_are_picked_by_weight(weights in prop::collection::vec(1u32..10, 1..8)) {
        let fleet = fleet(&weights);
        let total = f64::from(weights.iter().sum::<u32>());
        for balance in [Balance::RoundRobin, Balance::Random, Balance::LeastLoaded, Balance::PeakEwma, maglev()] {
            let counts = counts(&*balancer(&balance, &fleet), &fleet, 4_000);
            for (count, weight) in counts.iter().zip(&weights) {
                let (share, due) = (*count as f64 / 4_000.0, f64::from(*weight) / total);
                prop_assert!((share - due).abs() < 0.04, "{balance:?}: {counts:?} for {weights:?}");
            }
        }
    }

    /// Weighted turns are exact over a run, and spread evenly: over any stretch no endpoint is off by more than a few.
    #[test]
    fn weighted_turns_are_smooth(weights in prop::collection::vec(1u32..50, 1..10), seed in any::<u64>()) {
        let fleet = fleet(&weights);
        let balancer = RoundRobin::new(&fleet, seed);
        let total = f64::from(weights.iter().sum::<u32>());
        let mut rng = Rng::with_seed(1);
        let mut counts = std::vec![0.0; weights.len()];
        for turn in 1..2_000 {
            counts[balancer.pick(&fleet, &keyed(0), &mut rng).unwrap() as usize] += 1.0;
            for (count, weight) in counts.iter().zip(&weights) {
                let due = f64::from(turn) * f64::from(*weight) / total;
                let slots = (f64::from(*weight) * weights.len() as f64 / total).ceil();
                prop_assert!((count - due).abs() <= slots + 3.0, "{count} of {due} at {turn} for {weights:?}");
            }
        }
    }
}

#[test]
fn equal_turns_meet_everyone_once_a_round() {
    let fleet = equal(7);
    for seed in 0..20 {
        let balancer = RoundRobin::new(&fleet, mix(seed));
        let mut rng = Rng::with_seed(1);
        let picks: Vec<u32> = (0..70).map(|_| balancer.pick(&fleet, &keyed(0), &mut rng).unwrap()).collect();
        for round in picks.windows(7) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4, 5, 6]);
        }
    }
}

fn answers(latency: Duration, verdict: Verdict, rng: &mut Rng) -> Ended {
    Ended { latency: latency.mul_f64(0.7 + 0.6 * rng.f64()), verdict }
}

/// An endpoint that refuses everything in a millisecond has no active requests and the shortest latency. It must get
/// less than its even share all the same, and traffic again once it is well.
#[test]
fn a_fast_failing_endpoint_does_not_attract_traffic() {
    failing_endpoints_get_little(MS, 1.0);
}

#[test]
fn an_endpoint_that_fails_half_of_its_requests_gets_little_traffic() {
    failing_endpoints_get_little(MS * 50, 0.5);
}

fn failing_endpoints_get_little(failing_takes: Duration, failing_share: f64) {
    let prequal = |probe_path| Balance::Prequal(PrequalParams { probe_path, ..PrequalParams::default() });
    let cases = [
        (Balance::LeastLoaded, 0),
        (Balance::PeakEwma, 0),
        (prequal(None), 0),
        (prequal(Some("/load".into())), 3),
    ];
    for (balance, probes) in cases {
        for verdict in [Verdict::Overloaded, Verdict::Failure] {
            for rps in [20.0, 500.0] {
                let fleet = equal(10);
                let balancer = balancer(&balance, &fleet);
                let sick_until = START.after(Duration::from_secs(20));
                let load = Load { probes, ..Load::new(rps, 20) };
                let sick = run(&fleet, &*balancer, &load, |index, now, rng| {
                    if index == 0 && now < sick_until && rng.f64() < failing_share {
                        answers(failing_takes, verdict, rng)
                    } else {
                        answers(MS * 50, Verdict::Success, rng)
                    }
                });
                assert!(sick.share(0) < 0.05, "{balance:?} {verdict:?} {rps}: {:?}", sick.counts);
                let load =
                    Load { start: sick_until.after(Duration::from_secs(30)), probes, ..Load::new(rps, 30) };
                let well =
                    run(&fleet, &*balancer, &load, |_, _, rng| answers(MS * 50, Verdict::Success, rng));
                assert!(well.share(0) > 0.02, "{balance:?} {verdict:?} {rps}: {:?}", well.counts);
            }
        }
    }
}

/// Without the penalty the trap is real: the same endpoint whose failures are not told draws nearly everything.
#[test]
fn the_fast_failure_attractor_is_real_when_failures_are_not_told() {
    let fleet = equal(10);
    let balancer = balancer(&Balance::PeakEwma, &fleet);
    let served = run(&fleet, &*balancer, &Load::new(1_000.0, 20), |index, _, rng| {
        answers(if index == 0 { MS } else { MS * 50 }, Verdict::Success, rng)
    });
    assert!(served.share(0) > 0.15, "{:?}", served.counts);
}

/// Newcomers get some traffic from the first second on, two at once do not surge, and the old ones carry at most
/// twice their due meanwhile.
#[test]
fn newcomers_ramp_up_and_nobody_surges() {
    let params = SlowStartParams { window: Span::from_secs(30), weight_min: Ratio::percent(10) };
    for balance in all_balances() {
        let endpoints = (0..12).map(|n| {
            let joined = if n < 10 { Instant::ORIGIN } else { START };
            Arc::new(Endpoint::new(&format!("10.0.0.{n}:80"), 1, 1_000, joined))
        });
        let fleet = Fleet::new(endpoints.collect(), Ratio::ZERO).with_slow_start(&params, START);
        let balancer = balancer(&balance, &fleet);
        let serve = |start, secs| {
            let load = Load { start, ..Load::new(1_000.0, secs) };
            run(&fleet, &*balancer, &load, |_, _, rng| answers(MS * 20, Verdict::Success, rng))
        };
        let first = serve(START, 2);
        for newcomer in [10, 11] {
            assert!(first.counts[newcomer] > 0, "{balance:?}: {:?}", first.counts);
            assert!(first.share(newcomer) < 0.06, "{balance:?}: {:?}", first.counts);
        }
        assert!((0..10).all(|old| first.share(old) < 2.0 / 12.0), "{balance:?}: {:?}", first.counts);
        let settled = serve(START.after(Duration::from_secs(31)), 4);
        for index in [10, 11] {
            assert!(settled.share(index) > 0.04, "{balance:?}: {:?}", settled.counts);
        }
    }
}

/// A maintenance that ends while requests of the time before are still under way must not grant the limit anew.
#[test]
fn limits_are_not_doubled_when_an_endpoint_returns() {
    for balance in all_balances() {
        let endpoint = Arc::new(Endpoint::new("a", 1, 3, Instant::ORIGIN));
        let mut started = 0;
        for disabled in [false, true, false, true, false] {
            endpoint.set_unavailable(Unavailable::Disabled, disabled);
            let fleet = Fleet::new(std::vec![Arc::clone(&endpoint)], Ratio::ZERO);
            let balancer = balancer(&balance, &fleet);
            let mut rng = Rng::with_seed(1);
            for key in 0..10 {
                if let Some(index) = balancer.pick(&fleet, &keyed(key), &mut rng) {
                    fleet.endpoint(index).on_start(START);
                    started += 1;
                }
            }
        }
        assert_eq!((started, endpoint.active()), (3, 3), "{balance:?}");
    }
}

#[test]
fn a_changed_weight_keeps_what_was_learnt() {
    let before = fleet(&[1, 1]);
    let endpoint = before.endpoint(0);
    endpoint.on_start(START);
    endpoint.on_start(START);
    endpoint.on_end(START, Ended { latency: MS * 30, verdict: Verdict::Failure });
    let learnt = (endpoint.active(), endpoint.penalty(START), endpoint.latency(START), endpoint.totals());
    endpoint.set_weight(5);
    let after = Fleet::new(before.endpoints().to_vec(), Ratio::ZERO);
    let endpoint = after.endpoint(0);
    assert_eq!(
        (endpoint.active(), endpoint.penalty(START), endpoint.latency(START), endpoint.totals()),
        learnt
    );
    let random = counts(&*balancer(&Balance::Random, &after), &after, 6_000);
    assert!((4_800..5_200).contains(&random[0]), "{random:?}");
}

/// The published figure of Prequal: two of sixteen endpoints are sixteen times slower.
#[test]
fn prequal_leaves_slow_endpoints_out() {
    let answer = |index: u32, _, rng: &mut Rng| {
        answers(if index < 2 { MS * 800 } else { MS * 50 }, Verdict::Success, rng)
    };
    let p99 = |balance: &Balance, probes, reports| {
        let fleet = equal(16);
        let load = Load { probes, reports, ..Load::new(500.0, 30) };
        run(&fleet, &*balancer(balance, &fleet), &load, answer).percentile(99)
    };
    let round_robin = p99(&Balance::RoundRobin, 0, false);
    assert!(round_robin > 700.0, "{round_robin}");
    let own_view = Balance::Prequal(PrequalParams::default());
    let probing =
        Balance::Prequal(PrequalParams { probe_path: Some("/load".into()), ..PrequalParams::default() });
    for (balance, probes, reports) in
        [(&own_view, 0, false), (&own_view, 0, true), (&probing, 3, false), (&Balance::PeakEwma, 0, false)]
    {
        let p99 = p99(balance, probes, reports);
        assert!(p99 < round_robin / 5.0, "{balance:?} with {probes} probes, reports {reports}: {p99}");
    }
}

#[test]
fn prequal_does_not_herd_when_the_pool_is_a_part_of_the_fleet() {
    let params = PrequalParams { probe_path: Some("/load".into()), ..PrequalParams::default() };
    let fleet = equal(100);
    let load = Load { probes: 3, ..Load::new(2_000.0, 10) };
    let served = run(&fleet, &*balancer(&Balance::Prequal(params), &fleet), &load, |_, _, rng| {
        answers(MS * 50, Verdict::Success, rng)
    });
    let most = *served.counts.iter().max().unwrap();
    assert!(most < 3 * served.total() / 100, "{:?}", served.counts);
    assert_eq!((served.refused, served.failures), (0, 0));
}

fn report(endpoint: &Endpoint, at: Instant, utilization: f64, rps: f64, eps: f64) {
    let report = Report {
        application_utilization: Some(utilization),
        rps_fractional: Some(rps),
        eps: Some(eps),
        ..Report::default()
    };
    endpoint.on_report(at, &report);
}

#[test]
fn reported_load_and_errors_become_weights_while_they_are_believed() {
    let params = WeightedByLoadParams::default();
    let fleet = equal(4);
    let balancer = WeightedByLoad::new(&params, &fleet, START.before(Duration::from_secs(2)), 0);
    let shares = |now: Instant| {
        let mut rng = Rng::with_seed(1);
        let mut counts = [0.0; 4];
        for _ in 0..13_000 {
            counts
                [balancer.pick(&fleet, &Pick { now, key: None, tried: &[] }, &mut rng).unwrap() as usize] +=
                1.0;
        }
        counts.map(|count| count / 13_000.0)
    };
    let near = |shares: [f64; 4], wanted: [f64; 4]| {
        let near = shares.iter().zip(wanted).all(|(share, wanted)| (share - wanted).abs() < 0.01);
        assert!(near, "{shares:?} instead of {wanted:?}");
    };
    // One report alone is nothing to compare with.
    report(fleet.endpoint(0), START, 0.1, 100.0, 0.0);
    near(shares(START), [0.25; 4]);
    // 100 rps at 20 %, at 80 %, and at 20 % with 60 % errors: 500, 125 and 125; the silent one gets the mean, 250.
    report(fleet.endpoint(0), START, 0.2, 100.0, 0.0);
    report(fleet.endpoint(1), START, 0.8, 100.0, 0.0);
    report(fleet.endpoint(2), START, 0.2, 100.0, 60.0);
    near(shares(START.after(Duration::from_secs(1))), [0.5, 0.125, 0.125, 0.25]);
    // Too old to be believed.
    near(shares(START.after(Duration::from_secs(182))), [0.25; 4]);
    // Believed only after the blackout.
    let back = START.after(Duration::from_secs(200));
    fleet.endpoint(0).on_join(back);
    for index in 0..4 {
        report(fleet.endpoint(index), back, if index == 0 { 0.1 } else { 0.5 }, 100.0, 0.0);
    }
    near(shares(back.after(Duration::from_secs(1))), [0.25; 4]);
    let later = back.after(Duration::from_secs(10));
    report(fleet.endpoint(0), later, 0.1, 100.0, 0.0);
    near(shares(later), [0.625, 0.125, 0.125, 0.125]);
}

/// Nobody's weight falls so low that it is never measured again.
#[test]
fn absurd_reports_do_not_starve_anybody() {
    let fleet = equal(4);
    let now = START.after(Duration::from_secs(20));
    for (index, (utilization, rps)) in
        [(1e-9, 1e300), (1e9, 1e-9), (0.5, 100.0), (0.0, 0.0)].into_iter().enumerate()
    {
        report(fleet.endpoint(index as u32), now, utilization, rps, 0.0);
    }
    let balancer = WeightedByLoad::new(&WeightedByLoadParams::default(), &fleet, now, 0);
    let counts = counts(&balancer, &fleet, 10_000);
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
}

fn places(balance: &Balance, fleet: &Fleet, keys: u64) -> Vec<u64> {
    let balancer = balancer(balance, fleet);
    let mut rng = Rng::with_seed(1);
    (0..keys).map(|key| fleet.endpoint(balancer.pick(fleet, &keyed(key), &mut rng).unwrap()).key()).collect()
}

#[test]
fn only_the_keys_of_a_lost_endpoint_move() {
    let before = equal(20);
    let lost = before.endpoint(7).key();
    let after = Fleet::new(
        before.endpoints().iter().filter(|endpoint| endpoint.key() != lost).cloned().rev().collect(),
        Ratio::ZERO,
    );
    for (balance, strays_max) in [(ring(0.0), 0.0), (maglev(), 0.03)] {
        let (old, new) = (places(&balance, &before, 20_000), places(&balance, &after, 20_000));
        let strays = old.iter().zip(&new).filter(|(old, new)| **old != lost && old != new).count();
        assert!(strays as f64 <= strays_max * 20_000.0, "{balance:?}: {strays}");
        assert!(!new.contains(&lost));
    }
}

/// A key's second choice is as lasting as its first: while its endpoint is out, all its requests go to one other.
#[test]
fn a_key_whose_endpoint_is_out_goes_to_one_other() {
    let fleet = equal(20);
    for balance in [ring(0.0), maglev()] {
        let balancer = balancer(&balance, &fleet);
        let home = balancer.pick(&fleet, &keyed(5), &mut Rng::with_seed(1)).unwrap();
        fleet.endpoint(home).set_unavailable(Unavailable::Ejected, true);
        let second: Vec<_> = (0..50)
            .map(|seed| balancer.pick(&fleet, &keyed(5), &mut Rng::with_seed(seed)).unwrap())
            .collect();
        assert!(
            second[0] != home && second.iter().all(|index| *index == second[0]),
            "{balance:?}: {second:?}"
        );
        fleet.endpoint(home).set_unavailable(Unavailable::Ejected, false);
    }
}

/// During slow start a key moves to a newcomer once and stays there.
#[test]
fn keys_move_to_a_newcomer_once() {
    let endpoints = (0..5).map(|n| {
        let joined = if n < 4 { Instant::ORIGIN } else { START };
        Arc::new(Endpoint::new(&format!("e{n}"), 1, 1_000, joined))
    });
    let fleet =
        Fleet::new(endpoints.collect(), Ratio::ZERO).with_slow_start(&SlowStartParams::default(), START);
    for balance in [ring(0.0), maglev()] {
        let balancer = balancer(&balance, &fleet);
        let mut rng = Rng::with_seed(1);
        for key in 0..2_000 {
            let mut moves = 0;
            let mut last = None;
            for second in 0..=12 {
                let pick = Pick { now: START.after(Duration::from_secs(second)), ..keyed(key) };
                let index = balancer.pick(&fleet, &pick, &mut rng);
                moves += u32::from(last.is_some() && last != Some(index));
                last = Some(index);
            }
            assert!(moves <= 1, "{balance:?}: key {key} moved {moves} times");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However unevenly keys are asked for, nobody has more than `load_bound` times the mean, rounded up.
    #[test]
    fn the_ring_bounds_everyones_load(
        count in 1usize..20, bound in 1.0f64..3.0, keys in prop::collection::vec(0u64..3, 1..400),
    ) {
        let fleet = equal(count);
        let balancer = balancer(&ring(bound), &fleet);
        let mut rng = Rng::with_seed(1);
        for (before, key) in (0u32..).zip(keys) {
            let index = balancer.pick(&fleet, &keyed(key), &mut rng).unwrap();
            fleet.endpoint(index).on_start(START);
            let most = (bound * f64::from(before + 1) / count as f64).ceil() as u32;
            let active = fleet.endpoint(index).active();
            prop_assert!(active <= most, "{active} where {most} is the bound");
        }
    }
}

#[test]
fn requests_without_a_key_are_spread() {
    let fleet = equal(5);
    for balance in [ring(1.25), maglev()] {
        let balancer = balancer(&balance, &fleet);
        let mut rng = Rng::with_seed(1);
        let mut counts = [0; 5];
        for _ in 0..5_000 {
            let pick = Pick { now: START, key: None, tried: &[] };
            counts[balancer.pick(&fleet, &pick, &mut rng).unwrap() as usize] += 1;
        }
        assert!(counts.iter().all(|count| (900..1_100).contains(count)), "{balance:?}: {counts:?}");
    }
}

/// Workers that share a balancer share what it decides: none panics, and turns stay fair over all of them.
#[test]
fn many_threads_share_one_balancer() {
    for balance in all_balances() {
        let fleet = equal(10);
        let balancer = balancer(&balance, &fleet);
        let mut totals = std::vec![0u64; 10];
        std::thread::scope(|scope| {
            let worker = |seed: u64| {
                let (fleet, balancer) = (&fleet, &balancer);
                scope.spawn(move || {
                    let mut rng = Rng::with_seed(seed);
                    let mut counts = std::vec![0u64; 10];
                    for nth in 0..2_000u64 {
                        let now = START.after(Duration::from_micros(nth * 50));
                        let pick = Pick { now, key: Some(rng.u64(..)), tried: &[] };
                        let index = balancer.pick(fleet, &pick, &mut rng).unwrap();
                        fleet.endpoint(index).on_start(now);
                        balancer.on_probe(index);
                        fleet.endpoint(index).on_end(now, answers(MS, Verdict::Success, &mut rng));
                        counts[index as usize] += 1;
                    }
                    counts
                })
            };
            for worker in [1, 2, 3, 4].map(worker) {
                totals.iter_mut().zip(worker.join().unwrap()).for_each(|(total, count)| *total += count);
            }
        });
        assert_eq!(totals.iter().sum::<u64>(), 8_000);
        if balance == Balance::RoundRobin {
            assert_eq!(totals, [800; 10]);
        }
        assert!(fleet.endpoints().iter().all(|endpoint| endpoint.active() == 0), "{balance:?}");
    }
}
