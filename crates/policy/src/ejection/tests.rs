use super::*;
use crate::Rng;
use model::{Ratio, Span, Verdict};
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// An endpoint with 100 calls in the interval.
fn seen(key: u64, failures: u64, millis: u32) -> Observation {
    Observation { key, usable: true, calls: 100, failures, latency: Some(MS * millis) }
}

/// What one interval decides about a fresh fleet.
fn decide(params: &EjectionParams, observations: &[Observation]) -> Vec<(u64, Reason)> {
    let mut ejector = Ejector::new(params, Instant::ORIGIN);
    let decisions = ejector.on_interval(Instant::from_secs(10), observations, &mut Rng::with_seed(1));
    let ejected = decisions.into_iter().map(|decision| match decision.action {
        Action::Eject { why, .. } => (decision.key, why),
        Action::Return => panic!("nobody was out"),
    });
    ejected.collect()
}

#[test]
fn trap_12_three_hosts_that_all_fail_are_not_all_ejected() {
    let params = EjectionParams { share_max: Ratio::ONE, ..EjectionParams::default() };
    assert_eq!(decide(&params, &[seen(1, 33, 10), seen(2, 33, 10), seen(3, 33, 10)]), []);
    assert_eq!(decide(&params, &[seen(1, 100, 10), seen(2, 100, 10), seen(3, 100, 10)]), []);
    // Nor by failures in a row, even where all of them may be out.
    let mut ejector = Ejector::new(&params, Instant::ORIGIN);
    let mut rng = Rng::with_seed(1);
    for (key, serving, out) in [(1, 3, true), (2, 2, true), (3, 1, false)] {
        let headcount = Headcount { endpoints: 3, serving };
        assert_eq!(ejector.on_streak(Instant::ORIGIN, key, headcount, &mut rng).is_some(), out, "{key}");
    }
}

#[test]
fn the_one_that_fails_more_than_the_others_is_ejected() {
    let params = EjectionParams::default();
    assert_eq!(
        decide(&params, &[seen(1, 1, 10), seen(2, 0, 10), seen(3, 50, 10)]),
        [(3, Reason::SuccessRate)]
    );
    // A few failures more than none are no illness.
    assert_eq!(decide(&params, &[seen(1, 0, 10), seen(2, 0, 10), seen(3, 4, 10)]), []);
    // Too few calls, or too few endpoints, say nothing.
    let quiet = Observation { calls: 49, ..seen(3, 49, 10) };
    assert_eq!(decide(&params, &[seen(1, 0, 10), seen(2, 0, 10), quiet]), []);
    assert_eq!(decide(&params, &[seen(1, 0, 10), seen(2, 99, 10)]), []);
}

#[test]
fn trap_13_when_all_are_slow_nobody_is_ejected() {
    let params = EjectionParams::default();
    assert_eq!(decide(&params, &[seen(1, 0, 9_000), seen(2, 0, 8_000), seen(3, 0, 10_000)]), []);
    assert_eq!(decide(&params, &[seen(1, 0, 9_000), seen(2, 0, 8_000), seen(3, 0, 10)]), []);
    assert_eq!(decide(&params, &[seen(1, 0, 20), seen(2, 0, 20), seen(3, 0, 900)]), [(3, Reason::Latency)]);
    // Many times slower, and fast enough all the same.
    assert_eq!(decide(&params, &[seen(1, 0, 1), seen(2, 0, 1), seen(3, 0, 40)]), []);
}

#[test]
fn the_worst_go_first_and_within_the_share() {
    let params = EjectionParams { share_max: Ratio::percent(20), ..EjectionParams::default() };
    let mut fleet: Vec<_> = (0..10).map(|key| seen(key, 0, 10)).collect();
    (fleet[3].failures, fleet[5].failures, fleet[7].failures) = (60, 90, 70);
    assert_eq!(decide(&params, &fleet), [(5, Reason::SuccessRate), (7, Reason::SuccessRate)]);
}

#[test]
fn one_endpoint_may_always_be_out_unless_it_is_the_only_one() {
    let params = EjectionParams { share_max: Ratio::ZERO, ..EjectionParams::default() };
    let mut rng = Rng::with_seed(1);
    let mut out = |endpoints, serving| {
        let mut ejector = Ejector::new(&params, Instant::ORIGIN);
        ejector.on_streak(Instant::ORIGIN, 1, Headcount { endpoints, serving }, &mut rng).is_some()
    };
    assert!(out(2, 2));
    assert!(!out(1, 1));
    assert!(!out(3, 1), "the others are down for other reasons");
}

#[test]
fn the_time_out_doubles_and_is_forgiven_in_good_times() {
    let params = EjectionParams { time_max: Span::from_secs(30), ..EjectionParams::default() };
    let mut ejector = Ejector::new(&params, Instant::ORIGIN);
    let mut rng = Rng::with_seed(1);
    let mut now = Instant::ORIGIN;
    let headcount = Headcount { endpoints: 4, serving: 4 };
    let mut eject = |ejector: &mut Ejector, now: &mut Instant| {
        let decision = ejector.on_streak(*now, 1, headcount, &mut rng).expect("within the bounds");
        let Action::Eject { until, why: Reason::Consecutive } = decision.action else {
            panic!("{decision:?}")
        };
        assert!(ejector.is_ejected(1) && ejector.poll_timeout() <= until);
        assert_eq!(ejector.on_timeout(until.before(Duration::from_nanos(1))), []);
        assert_eq!(ejector.on_timeout(until), [Decision { key: 1, action: Action::Return }]);
        let lasted = until.since(*now);
        *now = until;
        lasted
    };
    for nominal in [10, 20, 30, 30] {
        let nominal = Duration::from_secs(nominal);
        let lasted = eject(&mut ejector, &mut now);
        assert!((nominal.mul_f64(0.8)..=nominal).contains(&lasted), "{lasted:?} of {nominal:?}");
    }
    let fleet: Vec<_> = (1..5).map(|key| seen(key, 0, 10)).collect();
    let mut quiet = Rng::with_seed(2);
    for _ in 0..12 {
        now = now.after(Duration::from_secs(10));
        assert_eq!(ejector.on_interval(now, &fleet, &mut quiet), []);
    }
    assert!(eject(&mut ejector, &mut now) <= Duration::from_secs(10));
}

#[test]
fn those_ejected_together_do_not_return_together() {
    let mut ejector = Ejector::new(&EjectionParams::default(), Instant::ORIGIN);
    let mut rng = Rng::with_seed(1);
    for key in 0..50 {
        let headcount = Headcount { endpoints: 100, serving: 100 - key as usize };
        assert!(ejector.on_streak(Instant::ORIGIN, key, headcount, &mut rng).is_some());
    }
    let mut wakes = 0;
    while ejector.ejected() > 0 {
        let now = ejector.poll_timeout();
        if ejector.interval_due(now) {
            break;
        }
        assert!(ejector.on_timeout(now).len() <= 2);
        wakes += 1;
    }
    assert!(wakes > 25, "{wakes}");
}

#[test]
fn whoever_has_left_takes_no_place_among_the_ejected() {
    let mut ejector = Ejector::new(&EjectionParams::default(), Instant::ORIGIN);
    let mut rng = Rng::with_seed(1);
    let headcount = Headcount { endpoints: 3, serving: 3 };
    assert!(ejector.on_streak(Instant::ORIGIN, 1, headcount, &mut rng).is_some());
    assert!(ejector.on_streak(Instant::ORIGIN, 2, headcount, &mut rng).is_none(), "half of three is one");
    let fleet: Vec<_> = (2..5).map(|key| seen(key, 0, 10)).collect();
    assert_eq!(ejector.on_interval(Instant::from_secs(1), &fleet, &mut rng), []);
    assert!(ejector.on_streak(Instant::from_secs(1), 2, headcount, &mut rng).is_some());
}

#[test]
fn trap_9_overload_and_our_own_refusals_are_no_failures_in_a_row() {
    let streak = Streak::new(3);
    for _ in 0..100 {
        assert!(!streak.on_end(Verdict::Overloaded));
        assert!(!streak.on_end(Verdict::Unknown));
    }
    let tripped = |verdicts: &[Verdict]| verdicts.iter().filter(|verdict| streak.on_end(**verdict)).count();
    assert_eq!(tripped(&[Verdict::Failure, Verdict::Failure, Verdict::Success]), 0);
    assert_eq!(tripped(&[Verdict::Failure, Verdict::Overloaded, Verdict::Failure, Verdict::Failure]), 1);
    // A refused ejection is asked for again.
    assert_eq!(tripped(&[Verdict::Failure; 6]), 2);
    assert!((0..100).all(|_| !Streak::new(0).on_end(Verdict::Failure)));
}

#[test]
fn off_means_off() {
    let params = EjectionParams { enabled: false, ..EjectionParams::default() };
    assert_eq!(decide(&params, &[seen(1, 0, 10), seen(2, 0, 10), seen(3, 100, 10)]), []);
    let mut ejector = Ejector::new(&params, Instant::ORIGIN);
    let headcount = Headcount { endpoints: 9, serving: 9 };
    assert!(ejector.on_streak(Instant::ORIGIN, 1, headcount, &mut Rng::with_seed(1)).is_none());
    assert_eq!(ejector.poll_timeout(), Instant::NEVER);
}

#[test]
fn senseless_bounds_are_named() {
    assert!(EjectionParams::default().check().is_empty());
    let params = EjectionParams {
        interval: Span::default(),
        calls_min: 0,
        endpoints_min: 1,
        success_rate_deviations: f64::NAN,
        latency_factor: 1.0,
        time_base: Span::from_secs(1),
        time_max: Span::default(),
        ..EjectionParams::default()
    };
    let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
    let expected =
        ["interval", "calls_min", "endpoints_min", "success_rate_deviations", "latency_factor", "time_max"];
    assert_eq!(fields, expected);
}

proptest! {
    /// However the fleet behaves: at most the share is out, somebody takes traffic, whoever is out comes back, and
    /// whoever is ejected stood out.
    #[test]
    fn keeps_its_bounds_and_returns_everybody(
        seed: u64, share in 0..=100u8, endpoints in 1..12usize,
        rounds in prop::collection::vec(
            prop::collection::vec((any::<bool>(), 0..200u64, 0..=100u64, 1..5_000u32), 12),
            1..20,
        ),
    ) {
        let params = EjectionParams { share_max: Ratio::percent(share), ..EjectionParams::default() };
        let mut ejector = Ejector::new(&params, Instant::ORIGIN);
        let mut rng = Rng::with_seed(seed);
        let mut now = Instant::ORIGIN;
        for round in rounds {
            now = now.after(Duration::from_secs(5));
            let observe = |(key, facts): (u64, &(bool, u64, u64, u32))| {
                let (usable, calls, failed, millis) = *facts;
                Observation { usable, calls, ..seen(key, calls * failed / 100, millis) }
            };
            let fleet: Vec<_> = (0u64..).zip(&round[..endpoints]).map(observe).collect();
            let decisions = ejector.on_interval(now, &fleet, &mut rng);
            let ejects = decisions.iter().any(|decision| matches!(decision.action, Action::Eject { .. }));
            let out_max = (endpoints * usize::from(share) / 100).max(1);
            prop_assert!(ejector.ejected() <= out_max);
            prop_assert!(!ejects || fleet.iter().any(|seen| seen.usable && !ejector.is_ejected(seen.key)));
        }
        while ejector.ejected() > 0 {
            now = now.max(ejector.poll_timeout());
            ejector.on_timeout(now);
            if ejector.interval_due(now) {
                let calm: Vec<_> = (0..endpoints as u64).map(|key| seen(key, 0, 10)).collect();
                ejector.on_interval(now, &calm, &mut rng);
            }
            prop_assert!(now < Instant::from_secs(1_000));
        }
    }
}
