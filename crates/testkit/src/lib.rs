//! What tests and benchmarks share. Never part of a release.
//!
//! * [`upstream`] — a programmable HTTP/1.1 back end; [`client`] — a client that sends bytes as they are.
//! * [`frames`] — a client of HTTP/2 that sends frames as they are.
//! * [`process`] — the `seawall` binary and nginx as child processes, with their logs.
//! * [`etcd`] — real clusters; [`relay`] — a network that can be cut.
//! * [`process`] — the `seawall` binary and nginx as child processes, with their logs; [`postgres`] — a
//!   PostgreSQL of one's own.
//! * [`load`] — epoll load generators; [`backend`] and [`forwarder`] — the cheapest possible back end and proxy,
//!   which a benchmark needs as its floor; [`station`] — a back end whose capacity is known.
//! * [`tls`] — certificates made on the spot, and a client that speaks TLS.
//! * [`wait`] — waiting on a state instead of sleeping; [`temp`] — directories that vanish; [`alloc`] — an
//!   allocator that counts.
//!
//! Everything blocks and runs on plain threads, so that it shares no runtime, no parser and no bug with what it
//! tests. Failures panic with what was seen: the caller is a test.

pub mod alloc;
pub mod backend;
pub mod client;
pub mod etcd;
pub mod forwarder;
pub mod frames;
pub mod http;
pub mod load;
pub mod postgres;
pub mod process;
pub mod relay;
pub mod station;
pub mod sys;
pub mod temp;
pub mod tls;
pub mod upstream;
pub mod wait;

pub use client::{Client, get, request};
pub use etcd::Etcd;
pub use frames::Frames;
pub use postgres::Postgres;
pub use process::{Nginx, Redis, Seawall};
pub use relay::Relay;
pub use temp::TempDir;
pub use upstream::{Gate, Reply, Upstream};
pub use wait::{free_port, wait_until};
