//! The clock that leases are measured by.

use model::{Instant, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Time since the machine started, counting the time it was suspended: a lease that ran out while the lid was closed has
/// run out (TRAPS 31). `std::time::Instant` stands still then.
#[must_use]
pub fn now() -> Instant {
    Instant::from_nanos(nanos(ClockId::Boottime))
}

/// The wall clock: the floor under new fencing tokens, never a time-out.
#[must_use]
pub fn wall() -> Timestamp {
    Timestamp::from_unix_nanos(nanos(ClockId::Realtime))
}

fn nanos(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let secs = u64::try_from(time.tv_sec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or(0))
}
