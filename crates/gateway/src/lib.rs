//! The road that a request takes: listeners, routing, admission, attempts, answers.
//!
//! A tier-3 room: it imports `model`, `policy` and `config`, and no other room of its tier. [`road`] is the way of a request;
//! [`engine`] is what it is made of; [`service`], `discover` and `health` know the endpoints; [`Gateway`] is the whole.
#![deny(unsafe_code)]

mod access_log;
mod answer;
pub mod codec;
pub mod config;
mod engine;
mod listen;
pub mod metrics;
mod road;
pub mod service;
mod snapshot;
