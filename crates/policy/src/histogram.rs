//! A log-linear histogram of latencies that many threads count into.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};
use core::time::Duration;

use crate::backoff::nanos;

/// Buckets between one power of two and the next: a bucket is an eighth of its lower edge wide.
const STEPS_LOG2: u32 = 3;
const STEPS: usize = 1 << STEPS_LOG2;

/// The first bucket ends at `2^SHORTEST_LOG2` ns (16 µs), the last one at `2^LONGEST_LOG2` ns (137 s).
const SHORTEST_LOG2: u32 = 14;
const LONGEST_LOG2: u32 = 37;

/// One bucket for everything shorter, one for everything longer.
const BUCKETS: usize = (LONGEST_LOG2 - SHORTEST_LOG2) as usize * STEPS + 2;

/// What a quantile came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quantile {
    /// The upper edge of its bucket: more than the quantile by at most an eighth.
    AtMost(Duration),
    /// Beyond the longest latency told apart.
    OutOfRange,
    /// Nothing can be said.
    TooFewSamples,
}

/// Counts latencies with an error of at most an eighth. Less than 1 KiB.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl Histogram {
    pub(crate) fn record(&self, latency: Duration) {
        self.buckets[bucket(nanos(latency))].fetch_add(1, Relaxed);
    }

    /// Forgets everything but what other threads count at this very moment.
    pub(crate) fn clear(&self) {
        self.buckets.iter().for_each(|bucket| bucket.store(0, Relaxed));
    }

    /// The latency that at least `share` of the samples in all `histograms` do not exceed.
    pub(crate) fn quantile<'a>(
        histograms: impl Iterator<Item = &'a Histogram>,
        share: f64,
        samples_min: u64,
    ) -> Quantile {
        let mut sums = [0u64; BUCKETS];
        for histogram in histograms {
            for (sum, bucket) in sums.iter_mut().zip(&histogram.buckets) {
                *sum += u64::from(bucket.load(Relaxed));
            }
        }
        let samples: u64 = sums.iter().sum();
        if samples < samples_min.max(1) {
            return Quantile::TooFewSamples;
        }
        let wanted = share * samples as f64;
        let mut below = 0;
        for (index, sum) in sums[..BUCKETS - 1].iter().enumerate() {
            below += sum;
            if below > 0 && below as f64 >= wanted {
                return Quantile::AtMost(Duration::from_nanos(upper_edge(index)));
            }
        }
        Quantile::OutOfRange
    }
}

/// The bucket of a latency; a latency on an edge belongs to the bucket below it.
fn bucket(nanos: u64) -> usize {
    let Some(last) = nanos.checked_sub(1).filter(|last| last >> SHORTEST_LOG2 > 0) else { return 0 };
    let power = last.ilog2();
    let step = (last >> (power - STEPS_LOG2)) as usize & (STEPS - 1);
    ((power - SHORTEST_LOG2) as usize * STEPS + step + 1).min(BUCKETS - 1)
}

/// The longest latency in a bucket other than the last.
fn upper_edge(bucket: usize) -> u64 {
    match bucket.checked_sub(1) {
        None => 1 << SHORTEST_LOG2,
        Some(above) => {
            let (power, step) = ((above / STEPS) as u32 + SHORTEST_LOG2, above % STEPS);
            ((STEPS + step + 1) as u64) << (power - STEPS_LOG2)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::iter;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_bucket_contains_what_it_counts(nanos in 0..1u64 << LONGEST_LOG2) {
            let bucket = bucket(nanos);
            prop_assert!(nanos <= upper_edge(bucket));
            prop_assert!(bucket == 0 || nanos > upper_edge(bucket - 1));
        }

        #[test]
        fn the_edge_is_at_most_an_eighth_too_far(nanos in 1u64 << SHORTEST_LOG2..1 << LONGEST_LOG2) {
            prop_assert!(upper_edge(bucket(nanos)) <= nanos + nanos / 8 + 1);
        }

        #[test]
        fn the_share_does_not_exceed_its_quantile(
            mut micros in prop::collection::vec(1..100_000_000u64, 1..200), share in 0.0..=1.0f64,
        ) {
            let histogram = Histogram::default();
            micros.iter().for_each(|micros| histogram.record(Duration::from_micros(*micros)));
            let Quantile::AtMost(edge) = Histogram::quantile(iter::once(&histogram), share, 1) else { panic!() };
            micros.sort_unstable();
            let within = micros.iter().filter(|micros| Duration::from_micros(**micros) <= edge).count();
            prop_assert!(within as f64 >= share * micros.len() as f64);
            let exact = micros[((share * micros.len() as f64).ceil() as usize).clamp(1, micros.len()) - 1];
            prop_assert!(edge <= Duration::from_micros(exact * 9 / 8 + 20), "{edge:?} {exact}");
        }
    }

    #[test]
    fn says_when_it_does_not_know() {
        let histogram = Histogram::default();
        let quantile = |samples_min| Histogram::quantile(iter::once(&histogram), 0.5, samples_min);
        assert_eq!(quantile(0), Quantile::TooFewSamples);
        histogram.record(Duration::from_secs(1_000));
        assert_eq!((quantile(1), quantile(2)), (Quantile::OutOfRange, Quantile::TooFewSamples));
    }
}
