//! Coordination: sessions, leases with fencing tokens, elections and watches, on SQLite or on etcd.
//!
//! * [`Coord`] is the way in: one handle, whatever the engine. [`Session`] lives as long as its holder renews it; a
//!   [`Lease`] is held by at most one session at a time and carries a fencing [`Token`]; [`Leadership`] is a lease that a
//!   failed renewal ends at once; a [`Watch`] tells every change of the keys with a prefix.
//! * [`registry`] tells who is there under which name, [`dns`] tells it to those who know nothing but DNS, and [`ids`] are unique
//!   across the fleet. They stand on the above and on nothing else.
//! * [`table`] and [`belief`] are the decisions: what the engine grants and what the holder may believe. Plain values.
//! * [`http`] offers the engine of one process to the others of its machine.
//! * [`consensus`] looks at the etcd cluster beneath.
//! * [`engine`] is what both engines and the way to another process's engine have in common.
//!
//! **What a lease promises and what it does not.** The engine never gives a lease to a second session before the first has
//! ended. It cannot stop a holder that was paused past its time from acting: that is stopped where the action lands, by
//! comparing fencing tokens in the same transaction as the write (`store::fence`, or [`Command::Put`] with a [`Guard`]).
#![forbid(unsafe_code)]

pub mod belief;
pub mod clock;
mod command;
pub mod config;
pub mod consensus;
mod coord;
pub mod dns;
pub mod engine;
pub mod http;
pub mod ids;
mod lease;
pub mod registry;
mod session;
pub mod table;
mod watch;

pub use command::{
    Claim, Command, Entry, Event, Guard, KEY_MAX, LEASES, Position, Refusal, Reply, SessionId, TTL_MAX,
    TTL_MIN, Token, VALUE_MAX,
};
pub use config::CoordParams;
pub use coord::{Coord, Listing};
pub use engine::{Engine, Failure};
pub use lease::{AcquireError, Leadership, Lease, LeaseOptions};
pub use session::Session;
pub use watch::{Update, Watch};
