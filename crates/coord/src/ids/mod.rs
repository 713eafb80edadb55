//! 64-bit ids that rise with time and are unique across the fleet.
//!
//! ```text
//! 63        62 … 22                       21 … 12         11 … 0
//! 0 | milliseconds since 2026-01-01 UTC | worker number | sequence |
//!               41 bits                    10 bits         12 bits
//! ```
//!
//! The top bit is 0, so that signed columns and languages without unsigned numbers sort them the same way. 41 bits of
//! milliseconds last until 2095. A worker number gives 4 096 ids a millisecond, 4.1 M/s; a process that needs more
//! leases several of the 1 024 numbers, by default four (16.4 M/s).
//!
//! **Uniqueness rests on no clock.** What is leased is a pair of worker number and *span of id time*: the engine holds, for
//! each number, the millisecond up to which ids with that number may have been given out, and moves it forward only by
//! compare-and-set. A holder gives out no id at or past its bound, however late it notices anything; the next holder
//! starts at that bound, wherever its own clock stands. So neither a paused process, nor a clock that is wrong by an hour,
//! nor a number that changes hands can produce an id twice. Clocks only decide how well ids of different machines sort.

mod generator;
mod keeper;

pub use generator::{Batch, Generator, Refused};
pub use keeper::{Figures, IdParams, Ids, IdsError};

use std::fmt;

use model::Timestamp;

/// Milliseconds from the Unix epoch to 2026-01-01 00:00:00 UTC, where id time begins.
pub const EPOCH_UNIX_MS: u64 = 1_767_225_600_000;
/// Bits of the worker number.
pub const WORKER_BITS: u32 = 10;
/// Bits of the sequence.
pub const SEQUENCE_BITS: u32 = 12;
/// Worker numbers that there are.
pub const WORKERS: u16 = 1 << WORKER_BITS;
/// Ids that one worker number gives in a millisecond.
const PER_MS: u64 = 1 << SEQUENCE_BITS;
/// The end of id time, in 2095.
const END_MS: u64 = 1 << (63 - WORKER_BITS - SEQUENCE_BITS);

/// A 64-bit id: rising with time, unique across the fleet, never negative as an `i64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    /// The id with this number.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// When it was given out, to the millisecond and by the clock of whoever did. At most [`Generator::AHEAD_MAX`] early.
    #[must_use]
    pub const fn timestamp(self) -> Timestamp {
        Timestamp::from_unix_nanos(((self.0 >> (WORKER_BITS + SEQUENCE_BITS)) + EPOCH_UNIX_MS) * 1_000_000)
    }

    /// The worker number that gave it out.
    #[must_use]
    pub const fn worker(self) -> u16 {
        (self.0 >> SEQUENCE_BITS) as u16 & (WORKERS - 1)
    }

    /// Its place in its millisecond.
    #[must_use]
    pub const fn sequence(self) -> u16 {
        (self.0 & (PER_MS - 1)) as u16
    }

    const fn new(ms: u64, worker: u16, sequence: u64) -> Self {
        Self((ms << (WORKER_BITS + SEQUENCE_BITS)) | ((worker as u64) << SEQUENCE_BITS) | sequence)
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A wall-clock time in milliseconds of id time; 0 before its beginning.
pub(crate) fn id_ms(now: Timestamp) -> u64 {
    (now.as_unix_nanos() / 1_000_000).saturating_sub(EPOCH_UNIX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_what_the_documentation_says() {
        let id = Id::new(END_MS - 1, WORKERS - 1, PER_MS - 1);
        assert_eq!(id.get(), i64::MAX as u64);
        let id = Id::new(1, 2, 3);
        assert_eq!(id.get(), (1 << 22) | (2 << 12) | 3);
        assert_eq!((id.worker(), id.sequence()), (2, 3));
        assert_eq!(id.timestamp().to_string(), "2026-01-01T00:00:00.001Z");
        let last = Id::new(END_MS - 1, 0, 0).timestamp().to_string();
        assert!(last.starts_with("2095-"), "{last}");
    }
}
