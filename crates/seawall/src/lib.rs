//! Keeps services up: the application that wires the rooms together, its configuration, its admin pages and its command.
//!
//! Tier 4: it may import everything, and nothing imports it.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod coordination;
pub mod demo;
pub mod explain;
mod http;
mod logs;
mod parent;
pub mod reference;
pub mod registry;
pub mod sim;
pub mod status;
pub mod store;
mod watch;
