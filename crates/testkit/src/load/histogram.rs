//! Latencies in fixed memory, to better than one per cent.

use std::time::Duration;

/// Values below `2^SUB_BITS` have a bucket each; above, every power of two is split into `2^SUB_BITS` buckets.
const SUB_BITS: u32 = 7;
const SUB: usize = 1 << SUB_BITS;
const BUCKETS: usize = (65 - SUB_BITS as usize) * SUB;

/// Counts of spans in log-linear buckets of nanoseconds: a quantile is at most 1/128 too high, never too low, and
/// never above the maximum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Box<[u64]>,
    count: u64,
    total: u128,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into(), count: 0, total: 0, max: 0 }
    }
}

impl Histogram {
    /// Counts one span.
    pub fn record(&mut self, span: Duration) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanos)] += 1;
        self.count += 1;
        self.total += u128::from(nanos);
        self.max = self.max.max(nanos);
    }

    /// Adds all that `other` counted.
    pub fn merge(&mut self, other: &Self) {
        for (own, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *own += theirs;
        }
        self.count += other.count;
        self.total += other.total;
        self.max = self.max.max(other.max);
    }

    /// How many spans were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The longest span.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_nanos(self.max)
    }

    /// The mean; zero when nothing was counted.
    #[must_use]
    pub fn mean(&self) -> Duration {
        let mean = self.total.checked_div(u128::from(self.count)).unwrap_or(0);
        Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX))
    }

    /// The span that the share `quantile` (0 to 1) of all spans does not exceed; zero when nothing was counted.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Duration {
        let rank = (quantile.clamp(0.0, 1.0) * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(highest(index).min(self.max));
            }
        }
        Duration::ZERO
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    let shift = 63 - SUB_BITS - value.leading_zeros();
    (shift as usize + 1) * SUB + (value >> shift) as usize - SUB
}

/// The largest value that falls into a bucket.
fn highest(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let (shift, offset) = ((bucket / SUB - 1) as u32, (bucket % SUB + SUB) as u128);
    u64::try_from(((offset + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_bucket_ends_where_the_next_begins() {
        for index in 0..BUCKETS - 1 {
            let last = highest(index);
            assert_eq!((bucket(last), bucket(last + 1)), (index, index + 1));
        }
        assert_eq!((bucket(u64::MAX), highest(BUCKETS - 1)), (BUCKETS - 1, u64::MAX));
    }

    #[test]
    fn nothing_counted_is_zero() {
        let empty = Histogram::default();
        assert_eq!((empty.quantile(0.99), empty.mean(), empty.max()), Default::default());
    }

    proptest! {
        #[test]
        fn quantiles_are_close_and_never_too_low(
            spans in proptest::collection::vec(0u64..10_000_000_000, 1..300),
            split in 0usize..300,
            quantile in 0.0..=1.0f64,
        ) {
            let (mut all, mut rest) = (Histogram::default(), Histogram::default());
            for (index, span) in spans.iter().enumerate() {
                let into = if index < split { &mut all } else { &mut rest };
                into.record(Duration::from_nanos(*span));
            }
            all.merge(&rest);
            let mut sorted = spans.clone();
            sorted.sort_unstable();
            let rank = ((quantile * spans.len() as f64).ceil() as usize).clamp(1, spans.len());
            let (exact, found) = (sorted[rank - 1], all.quantile(quantile).as_nanos() as u64);
            prop_assert!(exact <= found && found <= exact + exact / 128 + 1, "{exact} {found}");
            prop_assert_eq!(all.count(), spans.len() as u64);
            prop_assert_eq!(all.max().as_nanos() as u64, sorted[sorted.len() - 1]);
            prop_assert_eq!(all.mean().as_nanos() as u64, spans.iter().sum::<u64>() / spans.len() as u64);
        }
    }
}
