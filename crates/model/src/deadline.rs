use core::time::Duration;

use crate::Instant;

/// The point after which nobody wants the answer any more.
///
/// Set once at the edge; every hop passes on what is left, less a margin for the way back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// No deadline at all.
    pub const NONE: Deadline = Deadline(Instant::NEVER);

    /// The deadline at `point`.
    #[must_use]
    pub const fn at(point: Instant) -> Self {
        Self(point)
    }

    /// The deadline one `timeout` after `now`.
    #[must_use]
    pub fn within(now: Instant, timeout: Duration) -> Self {
        Self(now.after(timeout))
    }

    /// The point itself.
    #[must_use]
    pub const fn instant(self) -> Instant {
        self.0
    }

    /// What is left at `now`; zero once it has passed.
    #[must_use]
    pub const fn left(self, now: Instant) -> Duration {
        self.0.since(now)
    }

    /// Whether nothing is left at `now`.
    #[must_use]
    pub fn expired(self, now: Instant) -> bool {
        self.0 <= now
    }

    /// The earlier of two deadlines: nobody can be granted more time than the caller has.
    #[must_use]
    pub fn sooner(self, other: Deadline) -> Deadline {
        self.min(other)
    }

    /// What may be promised to the next hop at `now`: what is left less `margin` for the way back.
    /// `None` when nothing would be left, so that no work is started that cannot be used.
    #[must_use]
    pub fn to_pass_on(self, now: Instant, margin: Duration) -> Option<Duration> {
        let left = self.left(now).checked_sub(margin)?;
        (!left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_passes_on_more_than_is_left(now in 0u64..1 << 40, point in 0u64..1 << 40, margin in 0u64..1 << 32) {
            let (now, deadline) = (Instant::from_nanos(now), Deadline::at(Instant::from_nanos(point)));
            let margin = Duration::from_nanos(margin);
            match deadline.to_pass_on(now, margin) {
                Some(left) => prop_assert!(!deadline.expired(now) && left + margin <= deadline.left(now)),
                None => prop_assert!(deadline.left(now) <= margin),
            }
        }
    }
}
