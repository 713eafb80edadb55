//! What a fleet agrees on: who is there under which name, and ids that nobody else gives out.
#![forbid(unsafe_code)]

pub mod ids;
