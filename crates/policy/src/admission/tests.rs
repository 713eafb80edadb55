use super::simulation::*;
use super::*;
use crate::Rng;
use core::sync::atomic::AtomicU32;
use proptest::prelude::*;
use std::{format, thread, vec, vec::Vec};

fn who(class: Criticality, customer: u64) -> Who {
    Who { class, customer, deadline: Deadline::NONE }
}

/// A limit of `limit` that does not move.
fn fixed(limit: u32, workers: usize) -> Admission {
    let limit = LimitParams { min: limit, max: limit, initial: Some(limit), ..LimitParams::default() };
    Admission::new(&AdmissionParams { limit, ..AdmissionParams::default() }, workers, Instant::ORIGIN)
}

pub(super) fn overload(seed: u64, work: Work, servers: usize, load: f64) -> Scenario {
    let mut scenario = Scenario::new(seed, work, servers);
    scenario.streams = vec![Stream::new(Criticality::Critical, load * scenario.capacity())];
    scenario
}

/// From its third second's worth of a 20 ms service on, the lower class sends twelve times as much as before.
pub(super) fn spike(seed: u64, mean: f64) -> Scenario {
    let mut scenario = Scenario::new(seed, Work::Exponential(mean), 40);
    let capacity = scenario.capacity();
    scenario.streams = vec![
        Stream::new(Criticality::CriticalPlus, 0.4 * capacity),
        Stream::new(Criticality::Sheddable, 0.3 * capacity),
        Stream {
            from: 200.0 * mean,
            until: 450.0 * mean,
            ..Stream::new(Criticality::Sheddable, 11.0 * 0.3 * capacity)
        },
    ];
    scenario.lasts = 500.0 * mean;
    scenario
}

/// Ten customers that use half of what there is, and one that wants ten times all of it.
pub(super) fn greedy(seed: u64, mean: f64) -> Scenario {
    let mut scenario = Scenario::new(seed, Work::Exponential(mean), 60);
    let capacity = scenario.capacity();
    let stream =
        |customer, load: f64| Stream { customer, ..Stream::new(Criticality::Critical, load * capacity) };
    scenario.streams = (1..=10).map(|customer| stream(customer, 0.05)).collect();
    scenario.streams.push(Stream { from: 150.0 * mean, ..stream(99, 10.0) });
    scenario.lasts = 400.0 * mean;
    scenario
}

/// A quantile of what an answer takes when nobody queues.
pub(super) fn unloaded(work: Work, quantile: f64) -> f64 {
    let mut rng = Rng::with_seed(1);
    let mut times: Vec<f64> = (0..20_000).map(|_| work.draw(&mut rng)).collect();
    times.sort_by(f64::total_cmp);
    times[(20_000.0 * quantile) as usize]
}

#[test]
fn ten_times_what_it_can_do_leaves_goodput_and_latency_alone() {
    let works: [fn(f64) -> Work; 4] = [
        Work::Constant,
        Work::Exponential,
        |mean| Work::LogNormal(mean, 1.5),
        |mean| Work::Bimodal(mean, 0.05, 50.0),
    ];
    let (mut worst, mut sum, mut runs) = (f64::INFINITY, 0.0, 0.0);
    for work in works {
        for (servers, shared) in [(8, false), (8, true), (30, false), (30, true)] {
            let mut scenario = overload(1, work(0.02), servers, 10.0);
            scenario.shared = shared;
            scenario.lasts = 9.0;
            let (from, until) = (5.0, scenario.lasts);
            let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
            let goodput = log.goodput(from, until) / scenario.capacity();
            let (_, p99) = log.latency(0.99, from, until);
            let case = format!("{:?}, {servers} servers, shared {shared}", scenario.work);
            let slower = p99 / unloaded(scenario.work, 0.99);
            let steady = matches!(scenario.work, Work::Constant(_) | Work::Exponential(_));
            // In these seconds chance alone gives eight servers a tenth more or less heavy work than usual.
            let least = if steady { 0.9 } else { 0.8 };
            assert!(goodput > least, "{case}: goodput {goodput}");
            // Where all share the servers, or a few are heavy, whatever waits makes everybody slower: the record says by how
            // much. Wanted: 3. Trying now and then whether there is room costs a little more where all work is alike.
            assert!(slower < 3.2 || shared || !steady, "{case}: p99 {slower} times unloaded");
            (worst, sum, runs) = (goodput.min(worst), sum + goodput.min(1.0), runs + 1.0);
        }
    }
    assert!(sum / runs > 0.95, "on average {}, at worst {worst}", sum / runs);
}

/// A calm time, then everything at once, from its first moment on: the limit comes down from a hundred places to the dozen
/// that are needed while it lasts.
#[test]
fn load_that_comes_in_one_step_is_met_within_a_second() {
    for work in [Work::Constant(0.02), Work::Exponential(0.02), Work::LogNormal(0.02, 1.0)] {
        for (seed, load) in [(1, 2.0), (2, 2.0), (3, 10.0), (4, 10.0)] {
            let mut scenario = overload(seed, work, 8, 0.9);
            scenario.streams[0].until = 2.0;
            let all = load * scenario.capacity();
            for (class, rate) in [
                (Criticality::CriticalPlus, 0.1 * scenario.capacity()),
                (Criticality::Critical, 0.5 * all),
                (Criticality::Sheddable, 0.5 * all),
            ] {
                for customer in 1..=16 {
                    let stream = Stream { customer, from: 2.0, ..Stream::new(class, rate / 16.0) };
                    scenario.streams.push(stream);
                }
            }
            scenario.lasts = 8.0;
            let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
            let case = format!("{work:?}, seed {seed}, {load} times: {:?}", log.limits);
            assert!(log.goodput(2.0, 8.0) > 0.93 * scenario.capacity(), "{case}");
            assert!((3..7).all(|second| log.limit_at(f64::from(second)) <= 50), "{case}");
            let high: f64 = (1..=16).map(|stream| log.success(stream, 2.0, 7.8)).sum();
            assert!(high / 16.0 > 0.99, "{case}: CRITICAL_PLUS {}", high / 16.0);
            let typical = log.latency(0.5, 2.0, 8.0).1 / unloaded(work, 0.5);
            assert!(typical < 7.0, "{case}: p50 {typical} times unloaded");
        }
    }
}

#[test]
fn half_the_servers_die_and_come_back() {
    for seed in 0..3 {
        let mut scenario = overload(seed, Work::Exponential(0.02), 100, 3.0);
        scenario.changes = vec![(4.0, Change::Servers(50)), (9.0, Change::Servers(100))];
        scenario.lasts = 15.0;
        let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
        let goodput = |from: f64, until| log.goodput(from, until) / scenario.capacity();
        let limits = [log.limit_at(3.9), log.limit_at(8.9), log.limit_at(14.9)];
        assert!(goodput(2.0, 4.0) > 0.88 && goodput(12.0, 15.0) > 0.88, "seed {seed}: {limits:?}");
        assert!((0.43..0.55).contains(&goodput(6.0, 9.0)), "seed {seed}: {limits:?}");
        // Twice what is needed while it is tried whether there is room.
        assert!(limits[1] < 250, "seed {seed}: {limits:?}");
    }
}

#[test]
fn overload_ends_and_so_do_refusals() {
    for seed in 0..4 {
        let mut scenario = overload(seed, Work::Exponential(0.02), 50, 0.8);
        let flood = 9.2 * scenario.capacity();
        scenario.streams.push(Stream { from: 2.0, until: 6.0, ..Stream::new(Criticality::Critical, flood) });
        scenario.lasts = 12.0;
        let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
        let after = log.success(0, 8.0, 11.5);
        assert!(after > 0.99, "seed {seed}: {after}, limit {}", log.limit_at(8.0));
    }
}

#[test]
fn a_service_that_slows_down_for_its_own_reasons_keeps_its_places() {
    for seed in 0..2 {
        // A dependency makes every answer ten times slower; the servers are not busier.
        let mut scenario = overload(seed, Work::Exponential(0.002), 1_000, 0.01);
        scenario.changes = vec![(0.0, Change::Delay(0.01)), (3.0, Change::Delay(0.1))];
        scenario.lasts = 10.0;
        let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
        let after = log.success(0, 7.0, 9.5);
        // Ten times the places are found within seconds; looking for them costs some answers.
        assert!(after > 0.7, "seed {seed}: {after}, limit {}", log.limit_at(9.0));
    }
}

#[test]
fn a_twelvefold_spike_of_the_lower_class_does_not_reach_the_higher() {
    let mut sum = 0.0;
    for seed in 0..6 {
        let scenario = spike(seed, 0.02);
        let capacity = scenario.capacity();
        let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
        let high = log.success(0, 4.0, 9.0);
        let all = log.goodput(5.0, 9.0) / capacity;
        assert!(high > 0.994, "seed {seed}: {high}");
        sum += high;
        assert!(all > 0.95, "seed {seed}: the lower class gets what is left, not {all}");
    }
    assert!(sum / 6.0 > 0.999, "{}", sum / 6.0);
}

#[test]
fn one_greedy_customer_does_not_push_the_others_out() {
    for seed in 0..4 {
        let scenario = greedy(seed, 0.02);
        let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
        let mean = (0..10).map(|index| log.success(index, 4.0, 7.5)).sum::<f64>() / 10.0;
        assert!(mean > 0.99, "seed {seed}: {mean}");
    }
}

#[test]
fn trap_20_a_constant_time_out_does_not_grow_the_limit() {
    let mut scenario = overload(3, Work::Exponential(0.02), 20, 3.0);
    scenario.changes = vec![(2.0, Change::Hang(1.0))];
    scenario.timeout = 0.25;
    scenario.lasts = 8.0;
    let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
    assert!(log.limit_at(7.9) <= log.limit_at(1.9), "{:?}", log.limits);
    assert!(log.limit_at(7.9) >= 2);
}

proptest! {
    /// Never more inside than the limit, never a lower class above its share, and nobody lost.
    #[test]
    fn admits_up_to_the_limit_and_each_class_up_to_its_share(
        limit in 1..400u32, workers in 1..5usize, ops in prop::collection::vec((0..6u8, 0..4usize, 0..4usize), 0..900),
    ) {
        let admission = fixed(limit, workers);
        let (mut inside, mut waiting) = (Vec::new(), Vec::new());
        for (op, class, shard) in ops {
            let who = who(Criticality::ALL[class], 0);
            let bar = ((f64::from(limit) * [1.0, 0.95, 0.85, 0.75][class]) as usize).max(1);
            match op {
                0..=2 => match admission.try_enter(shard, &who, Instant::ORIGIN) {
                    Entry::Enter(ticket) => {
                        prop_assert!(inside.len() < bar);
                        prop_assert!(waiting.iter().all(|waiter: &Who| waiter.class > who.class));
                        inside.push(ticket);
                    }
                    Entry::Wait => {
                        let ahead = waiting.iter().any(|waiter| waiter.class <= who.class);
                        prop_assert!(ahead || inside.len() >= bar, "{} of {bar}", inside.len());
                        waiting.push(who);
                    }
                    Entry::Refuse(shed) => prop_assert!(false, "{shed:?}"),
                },
                3 | 4 => if let Some(ticket) = inside.pop() {
                    let wake = admission.leave(shard, ticket, Instant::ORIGIN, End::Ignored);
                    prop_assert_eq!(wake, !waiting.is_empty());
                },
                _ => if let Some(waiter) = waiting.pop() {
                    match admission.try_enter_waiting(shard, &waiter, Instant::ORIGIN) {
                        Some(ticket) => inside.push(ticket),
                        None => admission.give_up(&waiter),
                    }
                },
            }
            prop_assert!(inside.len() <= limit as usize);
            prop_assert_eq!((admission.active(), admission.waiting()), (inside.len() as u32, waiting.len() as u32));
        }
    }
}

#[test]
fn nobody_is_greedy_with_one_place() {
    let admission = fixed(100, 1);
    // So many customers that a fair share is hardly a place.
    for customer in 1..=95 {
        let entry = admission.try_enter(0, &who(Criticality::Critical, customer), Instant::ORIGIN);
        assert!(matches!(entry, Entry::Enter(_)), "{customer}: {entry:?}");
    }
}

#[test]
fn nobody_has_too_much_while_a_lower_class_may_come_in() {
    let admission = fixed(100, 1);
    let enter = |class, customer| admission.try_enter(0, &who(class, customer), Instant::ORIGIN);
    for customer in 1..=60 {
        assert!(matches!(enter(Criticality::Sheddable, customer), Entry::Enter(_)));
    }
    for customer in 6..=8 {
        assert!(matches!(enter(Criticality::CriticalPlus, customer), Entry::Enter(_)));
    }
    for place in 64..=94 {
        assert!(matches!(enter(Criticality::CriticalPlus, 99), Entry::Enter(_)), "{place}");
    }
    assert_eq!(enter(Criticality::CriticalPlus, 99), Entry::Refuse(Shed::Customer));
    assert!(matches!(enter(Criticality::CriticalPlus, 7), Entry::Enter(_)), "others get the rest");
}

#[test]
fn a_limit_that_has_come_down_strands_no_place_with_a_worker() {
    for customer in [0, 7] {
        let admission = Admission::new(&AdmissionParams::default(), 2, Instant::ORIGIN);
        for request in 0..300 {
            let (shard, now) = (request as usize / 3 % 2, Instant::from_millis(2 * request));
            // One at a time, all of them refused by the service: the limit falls as low as it can.
            let Entry::Enter(ticket) = admission.try_enter(shard, &who(Criticality::Critical, customer), now)
            else {
                panic!("request {request} with a limit of {}: {admission:?}", admission.limit())
            };
            let _ = admission.leave(shard, ticket, now, End::Dropped);
        }
        assert_eq!(admission.limit(), 2);
    }
}

#[test]
fn trap_16_the_limit_holds_for_the_process_not_for_each_worker() {
    for limit in [7, 500] {
        let admission = fixed(limit, 4);
        let (inside, peak) = (AtomicU32::new(0), AtomicU32::new(0));
        thread::scope(|scope| {
            for shard in 0..4 {
                let (admission, inside, peak) = (&admission, &inside, &peak);
                scope.spawn(move || {
                    let who = who(Criticality::CriticalPlus, shard as u64);
                    for _ in 0..300 {
                        let held: Vec<Ticket> = (0..limit / 2)
                            .filter_map(|_| match admission.try_enter(shard, &who, Instant::ORIGIN) {
                                Entry::Enter(ticket) => Some(ticket),
                                Entry::Wait => {
                                    admission.give_up(&who);
                                    None
                                }
                                Entry::Refuse(_) => None,
                            })
                            .collect();
                        let count = held.len() as u32;
                        peak.fetch_max(inside.fetch_add(count, SeqCst) + count, SeqCst);
                        inside.fetch_sub(count, SeqCst);
                        for ticket in held {
                            let _ = admission.leave(shard, ticket, Instant::ORIGIN, End::Ignored);
                        }
                    }
                });
            }
        });
        assert!(peak.load(SeqCst) <= limit);
        assert_eq!((admission.active(), admission.waiting()), (0, 0));
    }
}

#[test]
fn pressure_cuts_the_lowest_class_first_and_gives_back_with_hysteresis() {
    let admission = fixed(100, 1);
    let enters = |class| match admission.try_enter(0, &who(class, 0), Instant::ORIGIN) {
        Entry::Enter(ticket) => {
            let _ = admission.leave(0, ticket, Instant::ORIGIN, End::Ignored);
            true
        }
        Entry::Refuse(shed) => {
            assert_eq!(shed, Shed::Pressure);
            false
        }
        Entry::Wait => unreachable!("nobody is inside"),
    };
    let all = || Criticality::ALL.map(enters);
    assert_eq!(all(), [true; 4]);
    let press = |times, soft, hard| (0..times).for_each(|_| admission.set_pressure(soft, hard));
    press(10, 1.0, 1.0);
    assert_eq!(all(), [true, true, true, false]);
    press(100, 1.0, 0.0);
    assert_eq!(all(), [true, true, false, false], "a busy CPU is no reason to refuse CRITICAL");
    press(100, 1.0, 1.0);
    assert_eq!(all(), [true, false, false, false]);
    press(100, 0.5, 0.88);
    assert_eq!(all(), [true, false, false, false], "not well below the target yet");
    press(11, 1.0, 0.5);
    assert_eq!(all(), [true, true, false, false]);
    press(31, 0.5, 0.5);
    assert_eq!(all(), [true; 4]);
    press(1, f64::NAN, f64::NAN);
    assert_eq!(all(), [true; 4]);
}

#[test]
fn who_would_wait_and_cannot_be_answered_in_time_is_refused_at_once() {
    let admission = fixed(10, 1);
    for millis in (0..3_000).step_by(5) {
        let now = Instant::from_millis(millis);
        if let Entry::Enter(ticket) = admission.try_enter(0, &who(Criticality::Critical, 0), now) {
            let _ = admission.leave(0, ticket, now, End::Success(Duration::from_millis(50)));
        }
    }
    let now = Instant::from_secs(4);
    let within = |millis| Who {
        deadline: Deadline::within(now, Duration::from_millis(millis)),
        ..who(Criticality::CriticalPlus, 0)
    };
    let inside: Vec<_> = (0..10).map(|_| admission.try_enter(0, &within(200), now)).collect();
    assert!(inside.iter().all(|entry| matches!(entry, Entry::Enter(_))));
    assert_eq!(admission.try_enter(0, &within(20), now), Entry::Refuse(Shed::Deadline));
    assert_eq!(admission.try_enter(0, &within(200), now), Entry::Wait);
}

#[test]
fn a_short_deadline_is_no_reason_to_refuse_while_there_are_places() {
    let admission = fixed(1, 1);
    for millis in (0..3_000).step_by(5) {
        let now = Instant::from_millis(millis);
        if let Entry::Enter(ticket) = admission.try_enter(0, &who(Criticality::Critical, 0), now) {
            let _ = admission.leave(0, ticket, now, End::Success(Duration::from_millis(100)));
        }
    }
    assert!(admission.base_latency() > Duration::from_millis(50));
    let now = Instant::from_secs(4);
    let hurried =
        Who { deadline: Deadline::within(now, Duration::from_millis(5)), ..who(Criticality::Critical, 0) };
    assert!(matches!(admission.try_enter(0, &hurried, now), Entry::Enter(_)));
    assert_eq!(admission.try_enter(0, &hurried, now), Entry::Refuse(Shed::Deadline));
    assert_eq!(admission.waiting(), 0);
}

#[test]
fn as_many_as_usual_may_come_at_once_to_a_process_that_just_started() {
    let admission = Admission::new(&AdmissionParams::default(), 2, Instant::ORIGIN);
    for shard in 0..64 {
        let entry = admission.try_enter(shard % 2, &who(Criticality::Critical, 7), Instant::ORIGIN);
        assert!(matches!(entry, Entry::Enter(_)), "{shard}: {entry:?}");
    }
}

/// A closed loop always binds, and all of its latency is queueing.
#[test]
fn a_closed_loop_whose_delay_nobody_notices_is_not_refused() {
    for clients in [64, 512] {
        let mut scenario = Scenario::new(1, Work::Exponential(25e-6), 1);
        let class = Criticality::Critical;
        scenario.streams = vec![Stream { clients, ..Stream::new(class, 1_000.0) }];
        scenario.lasts = 1.5;
        let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
        let begin = if clients == 64 { 0.0 } else { 0.5 };
        let refused = |story: &&Story| matches!(story.fate, Fate::Shed(_)) && story.ended >= begin;
        assert_eq!(log.stories.iter().find(refused).map(|story| story.ended), None, "{:?}", log.limits);
        assert!(log.goodput(begin, 1.5) > 0.97 * scenario.capacity());
    }
}

#[test]
fn when_it_is_off_everybody_is_let_in() {
    let admission = fixed(1, 2);
    admission.reconfigure(&AdmissionParams { enabled: false, ..AdmissionParams::default() });
    for _ in 0..1_000 {
        assert!(matches!(
            admission.try_enter(1, &who(Criticality::Sheddable, 7), Instant::ORIGIN),
            Entry::Enter(_)
        ));
    }
    assert_eq!(admission.active(), 1_000);
}

#[test]
fn senseless_parameters_are_named() {
    assert!(AdmissionParams::default().check().is_empty());
    let shares = Shares { sheddable: Ratio::ONE, ..Shares::default() };
    let limit = LimitParams { min: 0, max: 0, initial: Some(5), ..LimitParams::default() };
    let queue = QueueParams { wait_max: model::Span::default(), ..QueueParams::default() };
    let params = AdmissionParams {
        shares,
        limit,
        queue,
        utilisation_target: Ratio::ZERO,
        ..AdmissionParams::default()
    };
    let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
    assert_eq!(fields, ["min", "initial", "wait_max", "shares", "utilisation_target"]);
}
