//! The road that a request takes: listeners, routing, admission, attempts, answers.
//!
//! A tier-3 room: it imports `model`, `policy` and `config`, and no other room of its tier. `road` is the way of a request;
//! `engine` is what it is made of; [`service`], `discover` and `health` know the endpoints; [`Gateway`] is the whole.
#![forbid(unsafe_code)]

mod access_log;
mod answer;
pub mod codec;
pub mod config;
mod discover;
mod engine;
pub mod forwarded;
mod fuse;
mod grpc;
mod health;
mod listen;
pub mod metrics;
mod pressure;
mod quota;
mod road;
pub mod router;
mod run;
pub mod service;
pub mod signals;
mod snapshot;
pub mod tcp;
mod tls;

pub use answer::Reason;
pub use discover::Registry;
pub use fuse::FuseStatus;
pub use run::{
    BuildError, Gateway, ListenError, ListenerStatus, ReloadSummary, RouteStatus, ServiceEvent, Status,
};
pub use tls::{CertificateStatus, TlsStatus, certificate_names};
