//! Promises of the throttle, against simulated back ends and many seeds.

use std::collections::VecDeque;
use std::vec::Vec;

use model::{Ratio, Span};
use proptest::prelude::*;

use super::*;
use crate::Rng;

const SEEDS: u64 = 20;
/// What the overloaded back end can do in a second.
const CAPACITY: f64 = 100.0;
const HIGHEST: Criticality = Criticality::CriticalPlus;

/// What one second brought, by class.
#[derive(Clone, Copy, Debug, Default)]
struct Second {
    offered: [u32; CLASSES],
    sent: [u32; CLASSES],
    accepted: [u32; CLASSES],
}

fn sum(counts: [u32; CLASSES]) -> f64 {
    f64::from(counts.iter().sum::<u32>())
}

/// Offers `rates(second)` requests per second and class for `secs` seconds, arriving at random. `serve` says for a
/// request that is sent in a millisecond whether it is accepted; acceptance is learnt `latency` ms later.
fn drive(
    params: &ThrottleParams,
    seed: u64,
    secs: u64,
    latency: u64,
    rates: impl Fn(u64) -> [f64; CLASSES],
    mut serve: impl FnMut(u64, Criticality) -> bool,
) -> Vec<Second> {
    let mut rng = Rng::with_seed(seed);
    let throttle = Throttle::new(params, 4, Instant::ORIGIN);
    let mut answers: VecDeque<(u64, Criticality)> = VecDeque::new();
    let mut seconds = std::vec![Second::default(); secs as usize];
    for millis in 0..secs * 1_000 {
        let (now, second) = (Instant::from_millis(millis), millis / 1_000);
        while let Some(&(started, class)) = answers.front().filter(|(started, _)| started + latency <= millis)
        {
            answers.pop_front();
            throttle.on_accept(rng.usize(..4), class, Instant::from_millis(started));
        }
        let rates = rates(second);
        // The lowest class comes first within a millisecond, so that nothing but the throttle favours a higher one.
        for class in Criticality::ALL.into_iter().rev() {
            let rate = rates[class.index()] / 1_000.0;
            let arrivals = rate as u32 + u32::from(rng.f64() < rate % 1.0);
            for _ in 0..arrivals {
                let counts = &mut seconds[second as usize];
                counts.offered[class.index()] += 1;
                if throttle.try_send(rng.usize(..4), class, now, &mut rng).is_ok() {
                    counts.sent[class.index()] += 1;
                    if serve(millis, class) {
                        counts.accepted[class.index()] += 1;
                        answers.push_back((millis, class));
                    }
                }
            }
        }
    }
    seconds
}

/// Accepts exactly its capacity and refuses the rest; `reserved` keeps a share of it for the highest class.
fn capacity(per_sec: f64, reserved: f64) -> impl FnMut(u64, Criticality) -> bool {
    let (mut tokens, mut at) = (0.0f64, 0);
    move |millis, class| {
        tokens = (tokens + (millis - at) as f64 * per_sec / 1_000.0).min(per_sec / 10.0);
        at = millis;
        let needed = if class == HIGHEST { 1.0 } else { 1.0 + reserved * per_sec / 10.0 };
        let accepted = tokens >= needed;
        tokens -= f64::from(u8::from(accepted));
        accepted
    }
}

fn only(class: Criticality, rate: f64) -> [f64; CLASSES] {
    let mut rates = [0.0; CLASSES];
    rates[class.index()] = rate;
    rates
}

fn mean(seconds: &[Second], figure: impl Fn(&Second) -> f64) -> f64 {
    seconds.iter().map(figure).sum::<f64>() / seconds.len() as f64
}

/// Seconds from `end` until at least nine in ten requests are accepted, in that second and every later one.
fn recovered_after(seconds: &[Second], end: usize) -> usize {
    let bad = |second: &Second| sum(second.accepted) < 0.9 * sum(second.offered);
    seconds[end..].iter().rposition(bad).map_or(0, |last| last + 1)
}

#[test]
fn trap_01_a_total_outage_is_over_within_30_s_of_its_end() {
    let (begin, end) = (20, 320);
    for (rate, latency, seeds) in [(500.0, 5, 10), (500.0, 200, 3), (50.0, 5, SEEDS), (2_000.0, 50, 1)] {
        for seed in 0..seeds {
            let up = |millis, _| !(begin * 1_000..end * 1_000).contains(&millis);
            let rates = |_| only(Criticality::Critical, rate);
            let seconds = drive(&ThrottleParams::default(), seed, end + 45, latency, rates, up);
            let took = recovered_after(&seconds, end as usize);
            assert!(took <= 30, "{rate}/s answered in {latency} ms, seed {seed}: {took} s");
            let probes = mean(&seconds[60..300], |second| sum(second.sent));
            assert!(probes <= 0.011 * rate + 1.5, "{rate}/s, seed {seed}: {probes}/s during the outage");
            assert!(seconds[..begin as usize].iter().all(|second| second.sent == second.offered));
        }
    }
}

/// The share of the capacity that the back end sees, and that it turns to good account, once it is settled.
fn overloaded(
    seed: u64,
    latency: u64,
    factors: [f64; CLASSES],
    serve: impl FnMut(u64, Criticality) -> bool,
) -> (f64, f64) {
    let rates = |_| factors.map(|factor| factor * CAPACITY);
    let seconds = drive(&ThrottleParams::default(), seed, 80, latency, rates, serve);
    let share =
        |figure: fn(&Second) -> [u32; CLASSES]| mean(&seconds[20..], |second| sum(figure(second))) / CAPACITY;
    (share(|second| second.sent), share(|second| second.accepted))
}

#[test]
fn trap_01_an_overloaded_back_end_sees_at_most_one_and_a_half_times_its_capacity() {
    for (factor, latency, seeds) in [(2.0, 5, SEEDS), (10.0, 5, SEEDS), (10.0, 500, 5), (100.0, 5, 1)] {
        for seed in 0..seeds {
            let factors = only(Criticality::Critical, factor);
            let (seen, goodput) = overloaded(seed, latency, factors, capacity(CAPACITY, 0.0));
            let context = std::format!("{factor} x, answered in {latency} ms, seed {seed}");
            assert!(seen <= 1.5, "{context}: sees {seen}");
            assert!(goodput >= 0.95, "{context}: goodput {goodput}");
        }
    }
}

#[test]
fn trap_01_so_does_one_that_prefers_higher_classes() {
    for factors in [[0.5, 2.0, 3.5, 4.0], [0.0, 2.0, 0.0, 8.0], [2.5, 2.5, 2.5, 2.5]] {
        for seed in 0..SEEDS / 2 {
            let (seen, goodput) = overloaded(seed, 5, factors, capacity(CAPACITY, 0.5));
            assert!(seen <= 1.5, "{factors:?}, seed {seed}: sees {seen}");
            assert!(goodput >= 0.9, "{factors:?}, seed {seed}: goodput {goodput}");
        }
    }
}

#[test]
fn a_class_that_fits_is_let_through_while_lower_ones_are_refused() {
    for seed in 0..SEEDS / 2 {
        let factors = [0.3, 0.0, 0.0, 9.7];
        let rates = |_| factors.map(|factor| factor * CAPACITY);
        let seconds = drive(&ThrottleParams::default(), seed, 80, 5, rates, capacity(CAPACITY, 0.5));
        for second in &seconds {
            assert_eq!(second.sent[0], second.offered[0], "seed {seed}");
        }
        assert!(mean(&seconds[20..], |second| f64::from(second.sent[3])) < 0.2 * 9.7 * CAPACITY);
    }
}

#[test]
fn trap_02_calls_that_hang_are_noticed() {
    let throttle = Throttle::new(&ThrottleParams::default(), 1, Instant::ORIGIN);
    let mut rng = Rng::with_seed(1);
    let sent = |from: u64, to: u64, rng: &mut Rng| {
        let each = (from * 100..to * 100).map(|centi| Instant::from_millis(centi * 10));
        each.filter(|now| throttle.try_send(0, Criticality::Critical, *now, rng).is_ok()).count()
    };
    assert_eq!(sent(0, 2, &mut rng), 200, "they may yet be answered");
    sent(2, 10, &mut rng);
    assert!(sent(10, 20, &mut rng) < 200);
}

#[test]
fn trap_03_failures_of_a_cold_or_quiet_service_shed_nothing() {
    let throttle = Throttle::new(&ThrottleParams::default(), 1, Instant::ORIGIN);
    let mut rng = Rng::with_seed(1);
    for millis in [0, 700, 1_900].into_iter().chain((3_000..300_000).step_by(1_100)) {
        let now = Instant::from_millis(millis);
        assert_eq!(throttle.try_send(0, Criticality::Sheddable, now, &mut rng), Ok(()), "at {millis} ms");
    }
}

#[test]
fn switched_off_it_sends_everything() {
    let params = ThrottleParams { enabled: false, ..ThrottleParams::default() };
    let seconds = drive(&params, 1, 30, 5, |_| only(Criticality::Critical, 100.0), |_, _| false);
    assert!(seconds.iter().all(|second| second.sent == second.offered));
}

#[test]
fn a_throttle_that_would_never_reopen_is_refused() {
    let params = ThrottleParams {
        multiplier: 1.0,
        window: Span::default(),
        answer_within: Span::from_secs(1),
        rejection_max: Ratio::ONE,
        requests_per_sec_min: f64::NAN,
        ..ThrottleParams::default()
    };
    let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
    let all = ["multiplier", "window", "answer_within", "rejection_max", "requests_per_sec_min"];
    assert_eq!(fields, all);
    assert!(ThrottleParams::default().check().is_empty());
}

proptest! {
    /// Whatever the shape of the traffic, as long as answers come in time.
    #[test]
    fn healthy_traffic_is_never_throttled(
        bursts in prop::collection::vec((0..3_000u64, 1..200u32, 0..CLASSES, 0..=2_000u64), 1..60), seed: u64,
    ) {
        let throttle = Throttle::new(&ThrottleParams::default(), 4, Instant::ORIGIN);
        let mut rng = Rng::with_seed(seed);
        let mut answers: Vec<(u64, u64, Criticality)> = Vec::new();
        let mut millis = 0;
        for (gap, requests, class, latency) in bursts {
            millis += gap;
            answers.retain(|&(at, started, class)| {
                if at <= millis {
                    throttle.on_accept(started as usize, class, Instant::from_millis(started));
                }
                at > millis
            });
            let class = Criticality::ALL[class];
            for shard in 0..requests as usize {
                prop_assert!(throttle.try_send(shard, class, Instant::from_millis(millis), &mut rng).is_ok());
                answers.push((millis + latency, millis, class));
            }
        }
    }

    /// Whatever is accepted of which class, and however late.
    #[test]
    fn a_lower_class_is_rejected_at_least_as_probably(
        ops in prop::collection::vec((0..1_500u64, 1..100usize, 0..CLASSES, 0.0..1.0f64, 0..5_000u64), 1..60), seed: u64,
    ) {
        let params = ThrottleParams::default();
        let throttle = Throttle::new(&params, 4, Instant::ORIGIN);
        let mut rng = Rng::with_seed(seed);
        let mut millis = 0;
        for (gap, requests, class, accepted, late) in ops {
            millis += gap;
            let (now, class) = (Instant::from_millis(millis), Criticality::ALL[class]);
            for shard in 0..requests {
                let sent = throttle.try_send(shard, class, now, &mut rng).is_ok();
                if sent && rng.f64() < accepted {
                    throttle.on_accept(shard, class, now.before(core::time::Duration::from_millis(late)));
                }
            }
            let rejections = Criticality::ALL.map(|class| throttle.rejection(class, now));
            prop_assert!(rejections.is_sorted(), "{rejections:?}");
            prop_assert!(rejections.iter().all(|p| (0.0..=params.rejection_max.get() + 1e-6).contains(p)));
        }
    }
}
