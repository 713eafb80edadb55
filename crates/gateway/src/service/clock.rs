use std::time::{Duration, SystemTime, UNIX_EPOCH};

use model::{Instant, Timestamp};

/// The process's monotonic clock. Whoever shares endpoints, breakers or budgets reads the same one, because instants
/// of different origins cannot be compared: make one per process and copy it.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin lies a day back, so that spans before now can be told from the origin.
    #[must_use]
    pub fn new() -> Self {
        let now = std::time::Instant::now();
        Self { origin: now.checked_sub(Duration::from_secs(86_400)).unwrap_or(now) }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        Instant::ORIGIN.after(self.origin.elapsed())
    }

    /// `instant` on the runtime's clock, for timers.
    #[must_use]
    pub fn timer(&self, instant: Instant) -> tokio::time::Instant {
        // A year is as good as never, and does not overflow.
        let ahead = instant.since(self.now()).min(Duration::from_secs(365 * 86_400));
        tokio::time::Instant::now() + ahead
    }

    /// The present moment on the wall clock, for records and people.
    #[must_use]
    pub fn timestamp(&self) -> Timestamp {
        Self::wall()
    }

    /// The present moment on the wall clock, for whoever holds no clock of the process.
    #[must_use]
    pub fn wall() -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix_nanos(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}
