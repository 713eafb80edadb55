//! The only place in the data plane that reads a clock.

use model::Instant;

/// The process's monotonic clock. Cheap to copy; every copy counts from the same origin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// A clock whose origin is an hour ago, so that "long before now" can be said at once after start.
    pub(crate) fn new() -> Self {
        let now = std::time::Instant::now();
        Self { origin: now.checked_sub(std::time::Duration::from_secs(3600)).unwrap_or(now) }
    }

    pub(crate) fn now(self) -> Instant {
        // 584 years fit into 64 bits of nanoseconds.
        Instant::from_nanos(self.origin.elapsed().as_nanos() as u64)
    }

    /// The same point for the runtime's precise timers.
    pub(crate) fn to_runtime(self, point: Instant) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.origin + std::time::Duration::from_nanos(point.as_nanos()))
    }
}
