//! See the outage before it happens: a discrete-event simulation of fleets that runs the real [`policy`] code.
//!
//! A [`Scenario`] says who asks (traffic), who answers (services and what they call), how callers behave (the very
//! parameters of `seawall.yaml`) and what goes wrong when (faults). [`run`] plays it in virtual time and gives a
//! [`Report`]. Nothing here reads a clock, opens a socket or starts a thread; two runs of one scenario give the same
//! report, bit for bit, and each part draws from a child seed of its own, so that adding one part does not change
//! what another one draws.
//!
//! The road of a simulated request is that of a real one: arrival → [gateway] → admit (rate limit, breaker, admission,
//! bulkhead, throttle) → attempt (pick an endpoint, its breaker, send; retry or hedge) → answer → observe. What is
//! left out: bytes, connections and the processor time of gateways. A gateway is never the bottleneck here.
//!
//! [gateway]: Scenario::gateways
#![forbid(unsafe_code)]

mod engine;
pub mod report;
pub mod scenario;

pub use engine::run;
pub use report::Report;
pub use scenario::Scenario;
