//! The road that a request takes: listeners, routing, admission, attempts, answers.
//!
//! A tier-3 room: it imports `model`, `policy` and `config`, and no other room of its tier.
#![deny(unsafe_code)]

pub mod config;
pub mod router;
pub mod service;
