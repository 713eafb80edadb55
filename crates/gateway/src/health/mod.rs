//! Asking endpoints for their health.
//!
//! A check is one connection of its own, closed after the answer: it must not learn that a pooled connection works
//! while new ones are refused, nor keep a leaving process alive. Who is asked when, and how many answers change an
//! opinion, is [`policy::health`]'s to say; [`check()`] asks once.

mod check;
mod http2;

pub(crate) use check::{Answer, Asked, check};
