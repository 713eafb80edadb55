//! The layers as their users meet them: stacked, over axum and hyper on loopback, and in paused time.

mod chain;
mod client;
mod guide;
mod loopback;
mod server;
mod support;
