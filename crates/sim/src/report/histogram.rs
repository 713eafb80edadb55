//! A log-linear histogram of latencies: fixed size, one addition to count, quantiles within 2 %.

use std::time::Duration;

/// Buckets between one power of two and the next. A bucket is 1/32 of its lower edge wide and is reported by its middle,
/// so a quantile is at most 1/64 off.
const STEPS_LOG2: u32 = 5;
const STEPS: usize = 1 << STEPS_LOG2;

/// The first bucket ends at `2^SHORTEST_LOG2` ns (about 1 µs), the last one at `2^LONGEST_LOG2` ns (about 1 100 s).
const SHORTEST_LOG2: u32 = 10;
const LONGEST_LOG2: u32 = 40;

/// One bucket for everything shorter, one for everything longer.
const BUCKETS: usize = (LONGEST_LOG2 - SHORTEST_LOG2) as usize * STEPS + 2;

/// Counts latencies. 7.5 KiB, allocated once.
///
/// Between 1 µs and 18 minutes a quantile is within 1.6 % of the exact one; what is shorter is reported as half a
/// microsecond, what is longer as 18 minutes.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([0; BUCKETS]), count: 0 }
    }
}

impl Histogram {
    /// Counts one latency.
    pub(super) fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(nanos)] += 1;
        self.count += 1;
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        if self.count > 0 {
            self.buckets.fill(0);
            self.count = 0;
        }
    }

    /// Counts what another has counted, too.
    pub(super) fn add(&mut self, other: &Self) {
        self.buckets.iter_mut().zip(other.buckets.iter()).for_each(|(sum, count)| *sum += count);
        self.count += other.count;
    }

    /// The latencies that at least each of `shares` does not exceed; `shares` rises. `None` when nothing was counted.
    #[must_use]
    pub(super) fn quantiles<const N: usize>(&self, shares: [f64; N]) -> Option<[Duration; N]> {
        if self.count == 0 {
            return None;
        }
        let mut found = [Duration::ZERO; N];
        let (mut index, mut below) = (0, self.buckets[0]);
        for (share, found) in shares.iter().zip(&mut found) {
            // Not more than there are, whatever rounding does.
            let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count);
            while below < rank {
                index += 1;
                below += self.buckets[index];
            }
            *found = Duration::from_nanos(middle(index));
        }
        Some(found)
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos >> SHORTEST_LOG2 == 0 {
        return 0;
    }
    let power = nanos.ilog2();
    let step = (nanos >> (power - STEPS_LOG2)) as usize & (STEPS - 1);
    ((power - SHORTEST_LOG2) as usize * STEPS + step + 1).min(BUCKETS - 1)
}

fn middle(bucket: usize) -> u64 {
    match bucket.checked_sub(1) {
        None => 1 << (SHORTEST_LOG2 - 1),
        Some(above) if bucket < BUCKETS - 1 => {
            let (power, step) = ((above / STEPS) as u32 + SHORTEST_LOG2, above % STEPS);
            let (lower, width) = (((STEPS + step) as u64) << (power - STEPS_LOG2), 1 << (power - STEPS_LOG2));
            lower + width / 2
        }
        Some(_) => 1 << LONGEST_LOG2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_quantile_is_within_two_percent(
            mut nanos in prop::collection::vec((1_024.0f64.log2()..40.0f64).prop_map(|log| log.exp2() as u64), 1..300),
            share in 0.0..=1.0f64,
        ) {
            let mut histogram = Histogram::default();
            nanos.iter().for_each(|nanos| histogram.record(Duration::from_nanos(*nanos)));
            let [found] = histogram.quantiles([share]).unwrap();
            nanos.sort_unstable();
            let rank = ((share * nanos.len() as f64).ceil() as usize).clamp(1, nanos.len());
            let (exact, found) = (nanos[rank - 1] as f64, found.as_nanos() as f64);
            prop_assert!((found - exact).abs() <= 0.02 * exact, "{found} instead of {exact}");
        }

        #[test]
        fn several_quantiles_are_what_each_is_alone(
            nanos in prop::collection::vec(0..u64::MAX, 1..100), low in 0.0..=1.0f64, high in 0.0..=1.0f64,
        ) {
            let mut histogram = Histogram::default();
            nanos.iter().for_each(|nanos| histogram.record(Duration::from_nanos(*nanos)));
            let (low, high) = (low.min(high), low.max(high));
            let alone = [low, high].map(|share| histogram.quantiles([share]).unwrap()[0]);
            prop_assert_eq!(histogram.quantiles([low, high]).unwrap(), alone);
        }
    }

    #[test]
    fn nothing_counted_is_no_quantile_and_extremes_stay_in_range() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantiles([0.5]), None);
        histogram.record(Duration::ZERO);
        histogram.record(Duration::MAX);
        let [short, long] = histogram.quantiles([0.5, 1.0]).unwrap();
        assert!(short < Duration::from_micros(1) && long > Duration::from_secs(1_000));
        histogram.clear();
        assert_eq!(histogram.quantiles([0.5]), None);
    }
}
