//! The only place where this crate reads a clock.

use std::sync::OnceLock;
use std::time::Duration;

use model::Instant;

/// The process's monotonic clock, on the runtime's time: with tokio's paused time it stands still, too.
///
/// All layers of a process read the same one, because instants of different origins cannot be compared.
#[derive(Clone, Copy, Debug)]
pub struct Clock;

impl Clock {
    /// The present moment. Its origin lies a day before the first time that anybody asked, so that spans before now
    /// can be told from the origin.
    #[must_use]
    pub fn now() -> Instant {
        static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
        let origin = ORIGIN.get_or_init(|| {
            let now = std::time::Instant::now();
            now.checked_sub(Duration::from_secs(86_400)).unwrap_or(now)
        });
        Instant::ORIGIN.after(tokio::time::Instant::now().into_std().saturating_duration_since(*origin))
    }

    /// `instant` on the runtime's clock, for timers.
    #[must_use]
    pub fn timer(instant: Instant) -> tokio::time::Instant {
        // A year is as good as never, and does not overflow.
        let ahead = instant.since(Self::now()).min(Duration::from_secs(365 * 86_400));
        tokio::time::Instant::now() + ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn follows_the_runtimes_time() {
        let before = Clock::now();
        assert_eq!(Clock::now(), before);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(Clock::now().since(before), Duration::from_secs(3_600));
        assert_eq!(Clock::timer(Instant::ORIGIN), tokio::time::Instant::now());
        assert!(Clock::timer(Instant::NEVER) > tokio::time::Instant::now());
    }
}
