use super::*;
use proptest::prelude::*;

fn limit(initial: u32) -> AdaptiveLimit {
    AdaptiveLimit::new(&LimitParams { initial: Some(initial), ..LimitParams::default() }, 2, Instant::ORIGIN)
}

/// `count` answers after `latency` each, evenly between two milliseconds; every one also kept somebody out if `bound`.
fn answers(limit: &AdaptiveLimit, from: u64, until: u64, count: u64, latency: u64, bound: bool) {
    for index in 0..count {
        let now = Instant::from_nanos((from * 1_000_000) + index * (until - from) * 1_000_000 / count);
        if bound {
            limit.on_kept_out(index as usize, now);
        }
        limit.on_answer(index as usize, now, Duration::from_millis(latency), || 0);
    }
}

proptest! {
    #[test]
    fn stays_between_its_guards_whatever_happens(
        ops in prop::collection::vec((0..4u8, 0..2_000_000_000u64, 0..100_000_000u64, any::<bool>()), 0..2_000),
        min in 1..50u32, more in 0..1_000u32,
    ) {
        let params = LimitParams { min, max: min + more, initial: Some(min + more / 2), ..LimitParams::default() };
        let limit = AdaptiveLimit::new(&params, 3, Instant::ORIGIN);
        let mut nanos = 0u64;
        for (shard, (op, latency, gap, bound)) in ops.into_iter().enumerate() {
            nanos = nanos.saturating_add_signed(gap as i64 - 5_000_000);
            let now = Instant::from_nanos(nanos);
            if bound {
                limit.on_kept_out(shard, now);
            }
            match op {
                0 => { limit.on_dropped(shard, now, || 5); }
                _ => { limit.on_answer(shard, now, Duration::from_nanos(latency), || 5); }
            }
            prop_assert!((params.min..=params.max).contains(&limit.get()));
        }
    }

    #[test]
    fn the_logarithm_is_monotone_and_undone(left: u64, right: u64) {
        prop_assert_eq!(left.max(1) < right.max(1) && law::log(left) > law::log(right), false);
    }
}

#[test]
fn trap_20_no_samples_change_nothing() {
    let limit = limit(20);
    for second in 0..100 {
        limit.on_answer(0, Instant::from_secs(second * 1_000), Duration::from_millis(5), || 0);
    }
    assert_eq!(limit.get(), 20);
    assert_eq!(limit.latency(), Duration::ZERO, "single samples in hours are no evidence");
}

#[test]
fn trap_20_traffic_far_below_the_limit_moves_it_neither_way() {
    let limit = limit(100);
    for (window, latency) in [5, 5, 80, 3, 500, 5, 5, 1].into_iter().enumerate() {
        answers(&limit, window as u64 * 5_000, window as u64 * 5_000 + 5_000, 2_000, latency, false);
        assert_eq!(limit.get(), 100);
    }
}

#[test]
fn a_limit_that_does_not_bind_comes_down_to_a_few_times_what_is_usual() {
    let limit = limit(5_000);
    let serve = |from: u64, active| {
        for index in 0..2_000 {
            let now = Instant::from_nanos((from * 1_000 + index) * 1_000_000);
            limit.on_answer(0, now, Duration::from_millis(5), || active);
        }
    };
    serve(0, 300);
    assert_eq!(limit.get(), 1_200);
    serve(2, 10);
    assert!((1_100..=1_200).contains(&limit.get()), "not forgotten at once: {}", limit.get());
}

#[test]
fn nobody_is_refused_for_long_while_nothing_is_known_to_be_slow() {
    // Long polls: nothing is answered for half a minute.
    let limit = limit(100);
    for millis in 0..10_000 {
        limit.on_kept_out(0, Instant::from_millis(millis));
    }
    assert_eq!(limit.get(), 10_000);
    // A service that is known to take 20 ms: more places at once would only queue.
    let limit = self::limit(100);
    answers(&limit, 0, 1_000, 1_000, 20, false);
    let before = limit.get();
    limit.on_kept_out(0, Instant::from_millis(1_001));
    assert_eq!(limit.get(), before);
}

#[test]
fn trap_20_looking_at_the_base_does_not_drop_the_limit_to_three() {
    let limit = limit(200);
    let (mut millis, mut lowest) = (0, u32::MAX);
    // A service that is exactly full: a cut always costs answers in proportion.
    for _ in 0..400 {
        let now = limit.get().min(200);
        answers(&limit, millis, millis + 100, u64::from(now) * 4, 25, true);
        millis += 100;
        lowest = lowest.min(limit.get());
    }
    assert!(lowest >= 100, "{lowest}");
}

#[test]
fn trap_20_only_time_outs_shrink_it_to_its_minimum_and_no_further() {
    let limit = limit(100);
    for millis in 0..60_000 {
        limit.on_kept_out(0, Instant::from_millis(millis));
        limit.on_dropped(0, Instant::from_millis(millis), || 0);
    }
    assert_eq!(limit.get(), LimitParams::default().min);
}
