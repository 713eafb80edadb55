use super::*;
use crate::Rng;
use model::{Ratio, Span};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::thread;
use std::vec::Vec;

const FAST: Duration = Duration::from_millis(5);

fn params() -> BreakerParams {
    BreakerParams { slow_after: Some(Span::from_secs(1)), ..BreakerParams::default() }
}

/// A breaker with its clock and dice.
struct Bench {
    breaker: Breaker,
    now: Instant,
    rng: Rng,
}

impl Bench {
    fn new(params: &BreakerParams) -> Self {
        Self {
            breaker: Breaker::new(params, 1, Instant::ORIGIN),
            now: Instant::ORIGIN,
            rng: Rng::with_seed(7),
        }
    }

    fn wait(&mut self, millis: u64) {
        self.now = self.now.after(Duration::from_millis(millis));
    }

    fn enter(&mut self) -> Result<Permit, Refused> {
        self.breaker.try_enter(0, self.now, &mut self.rng)
    }

    fn end(&mut self, permit: Permit, end: CallEnd) {
        self.breaker.on_end(permit, self.now, end, FAST, &mut self.rng);
    }

    /// Makes calls that end at once; answers how many were let through.
    fn calls(&mut self, number: u32, end: CallEnd) -> u32 {
        let mut entered = 0;
        for _ in 0..number {
            if let Ok(permit) = self.enter() {
                entered += 1;
                self.end(permit, end);
            }
        }
        entered
    }

    fn state(&self) -> State {
        self.breaker.state()
    }

    /// Waits until it lets a probe through; answers how long it was open.
    fn open_time(&mut self) -> (Duration, Permit) {
        assert_eq!(self.state(), State::Open);
        let since = self.now;
        loop {
            match self.enter() {
                Ok(probe) => return (self.now.since(since), probe),
                Err(refused) => self.now = self.now.after(refused.retry_after),
            }
        }
    }
}

#[test]
fn opens_at_the_failure_rate_and_closes_after_good_probes() {
    let mut bench = Bench::new(&params());
    assert_eq!(bench.calls(20, CallEnd::Success), 20);
    assert_eq!(bench.calls(20, CallEnd::Failure), 20);
    assert_eq!(bench.state(), State::Open);
    assert_eq!(bench.breaker.snapshot(bench.now).opens, 1);
    let (open, probe) = bench.open_time();
    assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&open), "{open:?}");
    assert!(probe.is_probe());
    bench.end(probe, CallEnd::Success);
    assert_eq!(bench.calls(1, CallEnd::Success), 1);
    assert_eq!(bench.state(), State::HalfOpen);
    assert_eq!(bench.calls(1, CallEnd::Success), 1);
    assert_eq!(bench.state(), State::Closed);
    // What was counted before is forgotten.
    assert_eq!(bench.calls(19, CallEnd::Failure), 19);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn trap_2_calls_that_hang_are_seen_before_they_end() {
    let mut bench = Bench::new(&params());
    let mut hanging = Vec::new();
    while let Ok(permit) = bench.enter() {
        hanging.push(permit);
        bench.wait(50);
        assert!(hanging.len() < 100, "nobody notices that nothing is answered");
    }
    // `calls_min` calls begun, the last of them `slow_after` ago, and a tenth of the window on top.
    assert!(bench.now <= Instant::from_millis(20 * 50 + 1_000 + 1_100), "{:?}", bench.now);
    assert_eq!(bench.state(), State::Open);
}

#[test]
fn trap_2_a_caller_that_waited_too_long_and_left_counts_as_slow() {
    let mut bench = Bench::new(&params());
    for _ in 0..20 {
        let permit = bench.enter().unwrap();
        bench.breaker.on_end(permit, bench.now, CallEnd::Ignored, Duration::from_secs(1), &mut bench.rng);
    }
    assert_eq!(bench.state(), State::Open);
}

#[test]
fn calls_that_take_their_time_are_no_harm_where_nobody_said_what_is_slow() {
    let mut bench = Bench::new(&BreakerParams::default());
    for _ in 0..1_000 {
        let _ = bench.enter().expect("long polls must not open it");
        bench.wait(50);
    }
}

#[test]
fn trap_3_a_few_failures_do_not_cut_off_a_quiet_service() {
    let mut bench = Bench::new(&params());
    assert_eq!(bench.calls(3, CallEnd::Failure), 3);
    bench.wait(2_000);
    assert_eq!(bench.calls(16, CallEnd::Failure), 16);
    assert_eq!(bench.state(), State::Closed);
    bench.wait(12_000);
    // Nor does a slow trickle that never gathers enough in one window.
    for _ in 0..200 {
        bench.wait(1_000);
        assert_eq!(bench.calls(1, CallEnd::Failure), 1);
    }
}

#[test]
fn trap_8_answers_of_an_older_generation_are_ignored() {
    let mut bench = Bench::new(&params());
    let late: Vec<_> = (0..50).map(|_| bench.enter().unwrap()).collect();
    bench.calls(20, CallEnd::Failure);
    let (_, probe) = bench.open_time();
    for permit in &late[..25] {
        bench.end(*permit, CallEnd::Failure);
        bench.end(*permit, CallEnd::Success);
    }
    assert_eq!(bench.state(), State::HalfOpen);
    bench.end(probe, CallEnd::Success);
    bench.calls(2, CallEnd::Success);
    assert_eq!(bench.state(), State::Closed);
    late[25..].iter().for_each(|permit| bench.end(*permit, CallEnd::Failure));
    assert_eq!(bench.state(), State::Closed);
    assert_eq!(bench.breaker.snapshot(bench.now).failure_rate, 0.0);
}

#[test]
fn trap_8_probes_of_an_older_generation_are_ignored() {
    let mut bench = Bench::new(&params());
    bench.calls(20, CallEnd::Failure);
    let (_, bad) = bench.open_time();
    let late = [bench.enter().unwrap(), bench.enter().unwrap()];
    bench.end(bad, CallEnd::Failure);
    let (_, good) = bench.open_time();
    bench.end(late[0], CallEnd::Failure);
    assert_eq!(bench.state(), State::HalfOpen);
    bench.end(good, CallEnd::Success);
    bench.calls(1, CallEnd::Success);
    bench.end(late[1], CallEnd::Success);
    assert_eq!(bench.state(), State::HalfOpen, "two good probes of this generation are not three");
}

#[test]
fn trap_8_the_open_time_doubles_and_is_reset_only_on_evidence() {
    let mut bench = Bench::new(&params());
    bench.calls(20, CallEnd::Failure);
    for expected in [1, 2, 4, 8, 16, 30, 30] {
        let (open, probe) = bench.open_time();
        let nominal = Duration::from_secs(expected);
        assert!((nominal / 2..=nominal).contains(&open), "{open:?} of {nominal:?}");
        bench.end(probe, CallEnd::Failure);
    }
    // Three good probes close it, but they and a few seconds of good traffic prove nothing: the next time it stays open
    // as long as before.
    let (_, probe) = bench.open_time();
    bench.end(probe, CallEnd::Success);
    bench.calls(2, CallEnd::Success);
    assert_eq!(bench.state(), State::Closed);
    for _ in 0..25 {
        bench.wait(200);
        bench.calls(1, CallEnd::Success);
    }
    bench.calls(40, CallEnd::Failure);
    let (open, probe) = bench.open_time();
    assert!(open >= Duration::from_secs(15), "{open:?}");
    // A whole window of good traffic does.
    bench.end(probe, CallEnd::Success);
    bench.calls(2, CallEnd::Success);
    for _ in 0..120 {
        bench.wait(100);
        bench.calls(1, CallEnd::Success);
    }
    bench.wait(12_000);
    bench.calls(20, CallEnd::Failure);
    let (open, _) = bench.open_time();
    assert!(open <= Duration::from_secs(1), "{open:?}");
}

#[test]
fn a_probe_that_never_returns_does_not_wedge_it() {
    let mut bench = Bench::new(&params());
    bench.calls(20, CallEnd::Failure);
    // This probe and two more are lost, and so is the one that each window adds.
    let _lost = bench.open_time();
    assert_eq!((0..5).filter(|_| bench.enter().is_ok()).count(), 2);
    for _ in 0..3 {
        bench.wait(10_000);
        assert_eq!((0..5).filter(|_| bench.enter().is_ok()).count(), 1);
    }
    bench.wait(10_000);
    // The first that is answered makes room for the others.
    assert_eq!(bench.calls(3, CallEnd::Success), 3);
    assert_eq!(bench.state(), State::Closed);
}

#[test]
fn trap_9_our_own_refusals_do_not_count() {
    let mut bench = Bench::new(&params());
    assert_eq!(bench.calls(1_000, CallEnd::from(Verdict::Unknown)), 1_000);
    assert_eq!(bench.calls(1_000, CallEnd::from(Verdict::Overloaded)), 1_000);
    assert_eq!(bench.state(), State::Closed);
    assert_eq!(bench.breaker.snapshot(bench.now).calls, 0);
    // As probes they neither close nor open it, and give their place back.
    bench.calls(20, CallEnd::Failure);
    let (_, probe) = bench.open_time();
    bench.end(probe, CallEnd::Ignored);
    assert_eq!(bench.calls(100, CallEnd::Ignored), 100);
    assert_eq!(bench.state(), State::HalfOpen);
}

#[test]
fn operators_override_it() {
    let mut bench = Bench::new(&params());
    bench.breaker.force(Force::Open, bench.now);
    assert_eq!((bench.calls(10, CallEnd::Success), bench.state()), (0, State::Open));
    bench.breaker.force(Force::Closed, bench.now);
    assert_eq!((bench.calls(100, CallEnd::Failure), bench.state()), (100, State::Closed));
    bench.breaker.force(Force::Auto, bench.now);
    assert_eq!((bench.calls(100, CallEnd::Failure), bench.state()), (20, State::Open));
    bench.breaker.reset(bench.now);
    assert_eq!((bench.calls(19, CallEnd::Failure), bench.state()), (19, State::Closed));
}

#[test]
fn off_means_off() {
    let mut bench = Bench::new(&BreakerParams { enabled: false, ..params() });
    assert_eq!(bench.calls(1_000, CallEnd::Failure), 1_000);
    assert_eq!(bench.breaker.snapshot(bench.now).calls, 0);
}

proptest! {
    /// Never opens below `calls_min`; never more probes at once than allowed; and once the callee is well it
    /// closes again (safety, then liveness).
    #[test]
    fn keeps_its_promises(
        seed: u64, probes_max in 1..5u32, probes_to_close in 1..5u32, calls_min in 1..50u32,
        ops in prop::collection::vec((0..4u8, 0..500u64), 1..400),
    ) {
        let params = BreakerParams { probes_max, probes_to_close, calls_min, ..params() };
        let mut bench = Bench::new(&params);
        bench.rng = Rng::with_seed(seed);
        let mut under_way: VecDeque<(Permit, Instant)> = VecDeque::new();
        let (mut started, mut opens) = (0, 0);
        for (op, millis) in ops {
            bench.wait(millis);
            match op {
                0 | 1 => {
                    if let Ok(permit) = bench.enter() {
                        started += 1;
                        under_way.push_back((permit, bench.now));
                    }
                }
                _ => if let Some((permit, begun)) = under_way.pop_front() {
                    let end = if op == 2 { CallEnd::Failure } else { CallEnd::Success };
                    let latency = bench.now.since(begun);
                    bench.breaker.on_end(permit, bench.now, end, latency, &mut bench.rng);
                }
            }
            let snapshot = bench.breaker.snapshot(bench.now);
            if snapshot.opens > opens {
                prop_assert!(opens > 0 || started >= calls_min, "opened after {started} calls");
                opens = snapshot.opens;
            }
        }
        let mut calls = 0;
        while bench.state() != State::Closed || calls < 100 {
            bench.calls(1, CallEnd::Success);
            bench.wait(100);
            calls += 1;
            prop_assert!(calls < 5_000, "it never closes");
        }
    }
}

proptest! {
    /// Its staleness is bounded in calls: whatever the spread over workers, `calls_min` bad calls too many at most.
    #[test]
    fn opens_soon_when_everything_fails(
        workers in 1..20usize, calls_min in 1..100u32, shards in prop::collection::vec(0..20usize, 300),
    ) {
        let params = BreakerParams { calls_min, ..params() };
        let breaker = Breaker::new(&params, workers, Instant::ORIGIN);
        let mut rng = Rng::with_seed(1);
        let mut calls = 0;
        for shard in shards {
            let Ok(permit) = breaker.try_enter(shard, Instant::ORIGIN, &mut rng) else { break };
            breaker.on_end(permit, Instant::ORIGIN, CallEnd::Failure, FAST, &mut rng);
            calls += 1;
        }
        prop_assert!((calls_min..=2 * calls_min).contains(&calls), "{calls}");
        prop_assert_eq!(breaker.state(), State::Open);
    }

    /// Below the threshold it lets everything through.
    #[test]
    fn stays_closed_below_the_failure_rate(percent in 0..=47u32) {
        let mut bench = Bench::new(&BreakerParams { calls_min: 100, ..params() });
        for call in 0..3_000 {
            bench.wait(10);
            // Failures spread evenly, so that no window holds a greater share of them.
            let end = if call * percent % 100 < percent { CallEnd::Failure } else { CallEnd::Success };
            prop_assert_eq!(bench.calls(1, end), 1);
        }
    }
}

#[test]
fn trap_8_racing_threads_get_no_more_probes_than_allowed() {
    for round in 0..200 {
        let mut bench = Bench::new(&params());
        bench.calls(20, CallEnd::Failure);
        bench.wait(1_000);
        let (breaker, now) = (&bench.breaker, bench.now);
        let probes: usize = thread::scope(|scope| {
            let enter = |shard: usize| {
                let mut rng = Rng::with_seed(shard as u64);
                (0..20).filter(|_| breaker.try_enter(shard, now, &mut rng).is_ok()).count()
            };
            let threads: Vec<_> = (0..4).map(|shard| scope.spawn(move || enter(shard))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(probes, 3, "round {round}");
    }
}

#[test]
fn racing_threads_open_it_once() {
    let breaker = Breaker::new(&params(), 4, Instant::ORIGIN);
    let breaker = &breaker;
    thread::scope(|scope| {
        for shard in 0..4 {
            scope.spawn(move || {
                let mut rng = Rng::with_seed(shard as u64);
                while let Ok(permit) = breaker.try_enter(shard, Instant::ORIGIN, &mut rng) {
                    breaker.on_end(permit, Instant::ORIGIN, CallEnd::Failure, FAST, &mut rng);
                }
            });
        }
    });
    assert_eq!(breaker.state(), State::Open);
    assert_eq!(breaker.snapshot(Instant::ORIGIN).opens, 1);
}

#[test]
fn senseless_bounds_are_named() {
    assert!(params().check().is_empty());
    let params = BreakerParams {
        window: Span::default(),
        calls_min: 0,
        failure_rate: Ratio::ZERO,
        slow_rate: Ratio::ZERO,
        slow_after: Some(Span::from_secs(1)),
        open_base: Span::default(),
        open_max: Span::default(),
        probes_max: 0,
        probes_to_close: 20_000,
        enabled: true,
        force: Force::Auto,
    };
    let fields: Vec<_> = params.check().into_iter().map(|(field, _)| field).collect();
    let expected = [
        "window",
        "calls_min",
        "failure_rate",
        "slow_rate",
        "slow_after",
        "open_base",
        "probes_max",
        "probes_to_close",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn a_breaker_is_born_as_its_configuration_forces_it() {
    let mut rng = Rng::with_seed(1);
    let forced =
        |force| Breaker::new(&BreakerParams { force, ..BreakerParams::default() }, 1, Instant::ORIGIN);
    assert!(forced(Force::Open).try_enter(0, Instant::ORIGIN, &mut rng).is_err());
    let closed = forced(Force::Closed);
    for _ in 0..100 {
        let permit = closed.try_enter(0, Instant::ORIGIN, &mut rng).expect("forced closed");
        closed.on_end(permit, Instant::ORIGIN, CallEnd::Failure, Duration::ZERO, &mut rng);
    }
    assert!(closed.try_enter(0, Instant::ORIGIN, &mut rng).is_ok());
}
