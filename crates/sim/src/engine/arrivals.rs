//! When requests arrive.

use std::time::Duration;

use model::Instant;
use policy::Rng;

use crate::scenario::{Arrival, Point};

/// A rate is taken for constant over so many nanoseconds.
const CELL: u64 = 10_000_000;

/// The rate at `at`, in requests per second.
fn rate(arrival: &Arrival, at: Duration, duration: Duration) -> f64 {
    match arrival {
        Arrival::Constant { per_sec } => *per_sec,
        Arrival::Ramp { from, to } => {
            from + (to - from) * (at.as_secs_f64() / duration.as_secs_f64()).clamp(0.0, 1.0)
        }
        Arrival::Spike { base, peak, at: begin, r#for } => {
            let inside = at >= begin.get() && at < begin.get() + r#for.get();
            if inside { *peak } else { *base }
        }
        Arrival::Steps(points) => {
            points.iter().rev().find(|point| point.at.get() <= at).map_or(0.0, |point| point.per_sec)
        }
        Arrival::Points(points) => between(points, at),
        Arrival::Sine { mean, amplitude, period } => {
            let turn = at.as_secs_f64() / period.get().as_secs_f64();
            mean + amplitude * (turn * std::f64::consts::TAU).sin()
        }
        Arrival::Herd { .. } | Arrival::Closed { .. } => 0.0,
    }
    .max(0.0)
}

/// The straight line between the points around `at`.
fn between(points: &[Point], at: Duration) -> f64 {
    let after = points.partition_point(|point| point.at.get() <= at);
    match (after.checked_sub(1).and_then(|before| points.get(before)), points.get(after)) {
        (None, None) => 0.0,
        (Some(only), None) | (None, Some(only)) => only.per_sec,
        (Some(before), Some(next)) => {
            let span = (next.at.get() - before.at.get()).as_secs_f64();
            let gone = (at - before.at.get()).as_secs_f64();
            before.per_sec + (next.per_sec - before.per_sec) * (gone / span)
        }
    }
}

/// The first arrival after `now`; `None` when there is none before `end`.
///
/// The rate is added up until it makes one request: exactly one for even arrivals, an exponentially distributed amount
/// for random ones, which makes them a Poisson process whatever the rate does.
pub(crate) fn next(
    arrival: &Arrival,
    even: bool,
    now: Instant,
    end: Instant,
    rng: &mut Rng,
) -> Option<Instant> {
    let mut wanted = if even { 1.0 } else { exponential(rng) };
    let mut at = now.as_nanos();
    while at < end.as_nanos() {
        let cell_end = (at / CELL + 1) * CELL;
        let middle = Duration::from_nanos(cell_end - CELL / 2);
        let per_nano = rate(arrival, middle, end.since(Instant::ORIGIN)) / 1e9;
        let here = per_nano * (cell_end - at) as f64;
        if here >= wanted {
            // At least a nanosecond, so that time goes on whatever the rate.
            let found = Instant::from_nanos(at + ((wanted / per_nano) as u64).max(1));
            return (found < end).then_some(found);
        }
        wanted -= here;
        at = cell_end;
    }
    None
}

/// An exponentially distributed number with mean 1.
pub(crate) fn exponential(rng: &mut Rng) -> f64 {
    -(1.0 - rng.f64()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::Span;

    fn count(arrival: &Arrival, even: bool, secs: std::ops::Range<u64>) -> u32 {
        let mut rng = Rng::with_seed(1);
        let end = Instant::from_secs(60);
        let mut now = Instant::ORIGIN;
        let mut count = 0;
        while let Some(at) = next(arrival, even, now, end, &mut rng) {
            assert!(at > now);
            now = at;
            count += u32::from((Instant::from_secs(secs.start)..Instant::from_secs(secs.end)).contains(&at));
        }
        count
    }

    #[test]
    fn as_many_arrive_as_the_shape_says() {
        let secs = Span::from_secs;
        let point = |at, per_sec| Point { at: secs(at), per_sec };
        let shapes = [
            (Arrival::Constant { per_sec: 100.0 }, 0..60, 6_000.0),
            (Arrival::Ramp { from: 0.0, to: 120.0 }, 0..30, 900.0),
            (Arrival::Spike { base: 10.0, peak: 200.0, at: secs(20), r#for: secs(10) }, 20..30, 2_000.0),
            (Arrival::Spike { base: 10.0, peak: 200.0, at: secs(20), r#for: secs(10) }, 30..60, 300.0),
            (Arrival::Steps(vec![point(10, 50.0), point(20, 100.0)]), 0..20, 500.0),
            (Arrival::Points(vec![point(0, 40.0), point(25, 80.0), point(50, 40.0)]), 0..50, 3_000.0),
            (Arrival::Sine { mean: 100.0, amplitude: 50.0, period: secs(60) }, 0..60, 6_000.0),
            (Arrival::Constant { per_sec: 0.0 }, 0..60, 0.0),
        ];
        for (arrival, secs, expected) in shapes {
            let even = f64::from(count(&arrival, true, secs.clone()));
            assert!((even - expected).abs() <= 0.01 * expected + 1.0, "{arrival:?}: {even}");
            let random = f64::from(count(&arrival, false, secs));
            assert!((random - expected).abs() <= 4.0 * expected.sqrt(), "{arrival:?}: {random}");
        }
    }
}
