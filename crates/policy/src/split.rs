//! Splitting a route's users between services, such as a stable and a canary version.

use alloc::boxed::Box;

use crate::fleet::unit;
use crate::{Rng, mix};

/// A weighted split that keeps each user where they are.
///
/// A user's place depends on nothing but their key, the parts' ids and their weights: no cookie has to be set, so none
/// can drift. Each part gets its weight's share of users; when a weight grows users move to that part only, and when a
/// part comes or goes only its own users move.
///
/// Source: weighted rendezvous hashing (Schindelhauer and Schomaker).
#[derive(Clone, Debug)]
pub struct Split {
    parts: Box<[(u64, f64)]>,
    total: f64,
}

impl Split {
    /// A split of parts, each with a stable id (a [`hash`](crate::hash) of its name) and a weight.
    #[must_use]
    pub fn new(parts: impl IntoIterator<Item = (u64, u32)>) -> Self {
        let parts: Box<[_]> = parts.into_iter().map(|(id, weight)| (id, f64::from(weight))).collect();
        let total = parts.iter().map(|(_, weight)| weight).sum();
        Self { parts, total }
    }

    /// The position of the part that the user of `key` belongs to; without a key, one at random by weight. `None` when
    /// no part has a weight.
    #[must_use]
    pub fn pick(&self, key: Option<u64>, rng: &mut Rng) -> Option<usize> {
        let weighted = self.parts.iter().enumerate().filter(|(_, (_, weight))| *weight > 0.0);
        let Some(key) = key else {
            let mut left = rng.f64() * self.total;
            let mut found = weighted.skip_while(|(_, (_, weight))| {
                left -= weight;
                left >= 0.0
            });
            // Rounding may leave a sliver past the last part: it is the first one's.
            return found
                .next()
                .or_else(|| self.parts.iter().enumerate().find(|part| part.1.1 > 0.0))
                .map(|part| part.0);
        };
        // The least of independent exponential draws with rates w is part i with probability w[i] / Σ w.
        let wait = |id: u64, weight: f64| -ln(1.0 - unit(mix(mix(key) ^ id))) / weight;
        weighted
            .map(|(position, (id, weight))| (wait(*id, *weight), position))
            .min_by(|one, other| one.0.total_cmp(&other.0))
            .map(|(_, position)| position)
    }
}

/// The natural logarithm of a positive normal number, within 10⁻⁹ of its value: the exponent's share plus the series of
/// 2 artanh for the rest. Plain arithmetic, so that every process and machine splits alike.
fn ln(x: f64) -> f64 {
    const MANTISSA: u64 = (1 << 52) - 1;
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & MANTISSA | 1023 << 52);
    if mantissa > core::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let z = s * s;
    let series =
        [15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0].into_iter().fold(0.0, |sum, n| sum * z + 1.0 / n);
    exponent as f64 * core::f64::consts::LN_2 + 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rng;
    use crate::hash;
    use proptest::prelude::*;
    use std::vec::Vec;

    const USERS: u64 = 10_000;

    fn places(split: &Split) -> Vec<usize> {
        let mut rng = Rng::with_seed(1);
        (0..USERS).map(|user| split.pick(Some(mix(user)), &mut rng).unwrap()).collect()
    }

    fn canary(weight: u32) -> Split {
        Split::new([(hash(b"stable"), 100 - weight), (hash(b"canary"), weight)])
    }

    /// A canary pinned by cookie drifts to everybody. Here no state is kept, so the share stays what it was after any
    /// number of visits, and raising the weight sends nobody back and forth.
    #[test]
    fn a_canary_does_not_drift_and_only_gains_users_as_its_weight_grows() {
        let mut before = places(&canary(0));
        assert!(before.iter().all(|place| *place == 0));
        for weight in [1, 2, 5, 10, 11, 20, 35, 50, 75, 99, 100] {
            let split = canary(weight);
            let now = places(&split);
            assert_eq!(now, places(&split), "the same users again are placed alike");
            assert!(
                before.iter().zip(&now).all(|(before, now)| before <= now),
                "{weight}: a user left the canary"
            );
            let share = now.iter().sum::<usize>() as f64 / USERS as f64;
            assert!((share - f64::from(weight) / 100.0).abs() < 0.015, "{weight}: {share}");
            before = now;
        }
    }

    #[test]
    fn without_a_key_parts_are_drawn_by_weight() {
        let split = Split::new([(1, 0), (2, 30), (3, 70), (4, 0)]);
        let mut rng = Rng::with_seed(7);
        let mut counts = [0u32; 4];
        for _ in 0..10_000 {
            counts[split.pick(None, &mut rng).unwrap()] += 1;
        }
        assert!(counts[0] == 0 && counts[3] == 0 && (2_800..3_200).contains(&counts[1]), "{counts:?}");
        assert_eq!(Split::new([(1, 0)]).pick(None, &mut rng), None);
        assert_eq!(Split::new([(1, 0)]).pick(Some(5), &mut rng), None);
        assert_eq!(Split::new([]).pick(None, &mut rng), None);
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_a_grown_part_only_gains(
            weights in prop::collection::vec(1u32..1_000, 2..6),
            grown in any::<prop::sample::Index>(),
            more in 1u32..1_000,
            keys in prop::collection::vec(any::<u64>(), 50),
        ) {
            let mut rng = Rng::with_seed(1);
            let parts: Vec<_> = (1u64..).map(mix).zip(weights).collect();
            let grown = grown.index(parts.len());
            let mut larger = parts.clone();
            larger[grown].1 += more;
            let (split, larger) = (Split::new(parts.clone()), Split::new(larger));
            let backwards = Split::new(parts.iter().rev().copied());
            for key in keys {
                let before = split.pick(Some(key), &mut rng).unwrap();
                prop_assert_eq!(backwards.pick(Some(key), &mut rng).unwrap(), parts.len() - 1 - before);
                let after = larger.pick(Some(key), &mut rng).unwrap();
                prop_assert!(after == before || after == grown);
            }
        }

        #[test]
        fn the_logarithm_is_one(x in 1e-300f64..2.0) {
            prop_assert!((ln(x) - x.ln()).abs() <= 1e-9 * x.ln().abs().max(1e-3), "{x}");
        }
    }
}
