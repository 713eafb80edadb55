//! When a fleet is well again.

use std::time::Duration;

use super::rounded;
use super::story::Disturbed;

/// The share of what succeeds without a disturbance that counts as recovered.
const RECOVERED: f64 = 0.95;

/// Requests that a share is taken of, where there are so many: among fewer, one unlucky request is no relapse.
const REQUESTS_MIN: u32 = 100;

/// The requests that came within one slot of time, as far as they have ended.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Arrived {
    ended: u32,
    succeeded: u32,
}

impl Arrived {
    pub(super) fn on_end(&mut self, well: bool) {
        self.ended += 1;
        self.succeeded += u32::from(well);
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self { ended: self.ended + other.ended, succeeded: self.succeeded + other.succeeded }
    }

    fn share(self) -> Option<f64> {
        (self.ended > 0).then(|| f64::from(self.succeeded) / f64::from(self.ended))
    }

    fn reaches(self, wanted: f64) -> bool {
        self.share().is_none_or(|share| share >= wanted)
    }
}

/// Seconds from the end of the disturbance until the share that succeeds is back and stays; see
/// [`super::Recorder::finish`].
pub(super) fn recovery(slots: &[Arrived], width: Duration, disturbed: Disturbed) -> Option<f64> {
    let index = |at: Duration| {
        usize::try_from(at.as_nanos() / width.as_nanos().max(1)).unwrap_or(usize::MAX).min(slots.len())
    };
    let first = index(disturbed.from);
    let before = slots[..first].iter().copied().fold(Arrived::default(), Arrived::and);
    let wanted = RECOVERED * before.share().unwrap_or(1.0);

    // From the end backwards: it is well from a slot on when that slot is, and the requests from there on, and all later.
    let mut well_from = None;
    for (at, slot) in slots.iter().enumerate().skip(first).rev() {
        let mut window = Arrived::default();
        for later in &slots[at..] {
            window = window.and(*later);
            if window.ended >= REQUESTS_MIN {
                break;
            }
        }
        // The last few requests are not enough to say anything, unless they are all that there are.
        if (window.ended >= REQUESTS_MIN || at == first) && !window.reaches(wanted) {
            break;
        }
        if slot.reaches(wanted) {
            well_from = Some(at);
        }
    }
    let at = width * u32::try_from(well_from?).ok()?;
    Some(rounded(at.saturating_sub(disturbed.to).as_secs_f64(), 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Slots of a second with 100 requests each, so many of which succeed.
    fn slots(succeeded: &[u32]) -> Vec<Arrived> {
        succeeded.iter().map(|&succeeded| Arrived { ended: 100, succeeded }).collect()
    }

    fn disturbed(from: u64, to: u64) -> Disturbed {
        Disturbed { from: Duration::from_secs(from), to: Duration::from_secs(to) }
    }

    fn after(succeeded: &[u32], from: u64, to: u64) -> Option<f64> {
        recovery(&slots(succeeded), Duration::from_secs(1), disturbed(from, to))
    }

    #[test]
    fn it_is_counted_from_the_end_of_the_disturbance() {
        assert_eq!(after(&[100, 100, 0, 0, 50, 94, 95, 100], 2, 4), Some(2.0));
        assert_eq!(after(&[100, 100, 0, 0, 100, 100], 2, 4), Some(0.0));
    }

    #[test]
    fn what_was_never_lost_took_no_time() {
        assert_eq!(after(&[100; 8], 2, 4), Some(0.0));
        assert_eq!(after(&[100; 8], 2, 8), Some(0.0));
        // Back before the disturbance ended.
        assert_eq!(after(&[100, 100, 0, 100, 100, 100], 2, 5), Some(0.0));
    }

    #[test]
    fn what_does_not_come_back_or_does_not_stay_is_no_recovery() {
        assert_eq!(after(&[100, 100, 0, 0, 0, 0], 2, 4), None);
        assert_eq!(after(&[100, 100, 0, 0, 100, 100, 20, 0], 2, 4), None);
        assert_eq!(after(&[100, 100, 0, 0], 2, 4), None);
        // A relapse: counted from the second time.
        assert_eq!(after(&[100, 100, 0, 0, 100, 20, 100, 100], 2, 4), Some(2.0));
    }

    #[test]
    fn what_was_worse_before_need_not_become_better() {
        assert_eq!(after(&[80, 80, 0, 0, 76, 80, 80], 2, 4), Some(0.0));
        assert_eq!(after(&[80, 80, 0, 0, 75, 80, 80], 2, 4), Some(1.0));
    }

    #[test]
    fn without_a_disturbance_it_is_counted_from_the_beginning() {
        assert_eq!(after(&[0, 0, 100, 100], 0, 0), Some(2.0));
        assert_eq!(after(&[100; 4], 0, 0), Some(0.0));
    }

    #[test]
    fn one_unlucky_request_among_few_is_no_relapse() {
        let mut few = vec![Arrived { ended: 10, succeeded: 10 }; 60];
        few[40].succeeded = 9;
        assert_eq!(recovery(&few, Duration::from_secs(1), disturbed(10, 20)), Some(0.0));
        few[20..=40].fill(Arrived { ended: 10, succeeded: 0 });
        assert_eq!(recovery(&few, Duration::from_secs(1), disturbed(10, 20)), Some(21.0));
    }

    #[test]
    fn silence_is_neither_good_nor_bad() {
        let mut silent = slots(&[100, 100, 0, 0, 100, 100]);
        silent[4] = Arrived::default();
        assert_eq!(recovery(&silent, Duration::from_secs(1), disturbed(2, 4)), Some(0.0));
        assert_eq!(recovery(&[], Duration::from_secs(1), disturbed(0, 0)), None);
    }
}
