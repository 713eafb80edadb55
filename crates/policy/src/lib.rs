//! Traffic decisions as plain values: facts in, decision out.
//!
//! Nothing here reads a clock, opens a socket, takes a lock or spawns a task: `now` and the random generator are
//! passed in. So the same code decides in the gateway, in a Rust client and in the simulator.
//!
//! State that every worker of a process shares (an endpoint's load, a breaker, a budget) is changed through
//! `&self` and relaxed atomics: a decision may miss what other threads did in the last few hundred nanoseconds,
//! never more. Each type says what it promises in spite of that.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod admission;
pub mod attempts;
pub mod backoff;
pub mod balance;
pub mod breaker;
pub mod budget;
pub mod bulkhead;
pub mod callers;
pub mod deadline;
pub mod ejection;
pub mod endpoint;
mod fading;
pub mod fleet;
pub mod health;
pub mod hedge;
mod histogram;
pub mod limit;
pub mod queue;
pub mod rate_limit;
pub mod report;
mod sharded;
mod slots;
pub mod slow_start;
pub mod split;
pub mod sticky;
pub mod subset;
pub mod throttle;
mod window;

pub use endpoint::{Ended, Endpoint, Totals, Unavailable};
pub use fleet::Fleet;
pub use report::Report;

/// The random generator that decisions draw from. Seeded by the caller; see [`seed`].
pub type Rng = fastrand::Rng;

/// A child seed for the part of a system called `label`, so that adding one part does not change what another draws.
#[must_use]
pub fn seed(parent: u64, label: &str) -> u64 {
    mix(parent ^ hash(label.as_bytes()))
}

/// A stable 64-bit hash (FNV-1a, then mixed): the same in every process and version, because placements depend on it.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |state, byte| {
        (state ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(folded)
}

/// SplitMix64's finaliser: every input bit reaches every output bit.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
