//! The words that every room shares: time, shares, classes, deadlines, outcomes and the events between rooms.
//!
//! Plain values only. Nothing here reads a clock, opens a file or allocates on a request's way.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod change;
mod criticality;
mod deadline;
mod outcome;
mod ratio;
mod roster;
mod size;
mod span;
mod time;

pub use change::Change;
pub use criticality::{Criticality, UnknownCriticality};
pub use deadline::Deadline;
pub use outcome::{Fault, Outcome, Party, Retry, Verdict};
pub use ratio::{OutOfRange, Ratio};
pub use roster::{Registered, Roster};
pub use size::{ByteSize, NotASize};
pub use span::{NotASpan, Span};
pub use time::{HttpDate, Instant, Timestamp};
