//! A number that fades as time passes, in one atomic word.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;

use model::Instant;

/// Time is counted in ticks of 2²⁴ ns (16.8 ms): 32 bits of them last 2.3 years, half of which count as the past.
const TICK_BITS: u32 = 24;

/// A value and the tick it was written at, packed into one word so that no reader sees one without the other.
///
/// Two threads that write at once may lose one of the two observations, never mix them.
#[derive(Debug, Default)]
pub(crate) struct Fading(AtomicU64);

impl Fading {
    /// What is left of the value at `now`, and the share that `half_life` left of it. A `now` before the last write
    /// counts as that write's.
    pub(crate) fn get(&self, now: Instant, half_life: Duration) -> (f32, f32) {
        let word = self.0.load(Relaxed);
        let elapsed = (tick(now).wrapping_sub(word as u32) as i32).max(0);
        let half_life = (half_life.as_nanos() >> TICK_BITS) as f32;
        let left = halvings(elapsed as f32 / half_life);
        (f32::from_bits((word >> 32) as u32) * left, left)
    }

    /// The value as it was written, not faded. Zero when none ever was.
    pub(crate) fn written(&self) -> f32 {
        f32::from_bits((self.0.load(Relaxed) >> 32) as u32)
    }

    pub(crate) fn set(&self, value: f32, now: Instant) {
        self.0.store(u64::from(value.to_bits()) << 32 | u64::from(tick(now)), Relaxed);
    }
}

fn tick(now: Instant) -> u32 {
    (now.as_nanos() >> TICK_BITS) as u32
}

/// 2⁻ˣ for x ≥ 0, within 0.03 %: the exponent's bits for the whole part, a polynomial for the rest.
fn halvings(x: f32) -> f32 {
    if x >= 100.0 {
        return 0.0;
    }
    let whole = x as u32;
    let y = (x - whole as f32) * -core::f32::consts::LN_2;
    let rest = 1.0 + y * (1.0 + y * (1.0 / 2.0 + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0)))));
    f32::from_bits((127 - whole) << 23) * rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn halves_once_per_half_life(x in 0.0f32..60.0) {
            let expected = (-f64::from(x)).exp2();
            prop_assert!((f64::from(halvings(x)) / expected - 1.0).abs() < 3e-4, "{x}");
        }

        #[test]
        fn never_grows_and_never_fades_backwards(value in 0.0f32..1e12, at in 0u64..1 << 50, later in 0u64..1 << 45) {
            let cell = Fading::default();
            let written = Instant::from_nanos(at);
            cell.set(value, written);
            let half_life = Duration::from_secs(5);
            let read = |now| cell.get(now, half_life).0;
            prop_assert_eq!(read(Instant::ORIGIN.after(Duration::from_nanos(at / 2))), value);
            prop_assert!(read(written.after(Duration::from_nanos(later))) <= value);
        }
    }
}
