//! Tower layers that make the gateway's decisions inside Rust services.
#![forbid(unsafe_code)]

pub mod client;
mod clock;
mod context;
mod error;
pub mod header;
mod hold;
mod places;
pub mod server;
mod signals;
mod worker;

pub use clock::Clock;
pub use context::Context;
pub use error::{BoxError, CallError, InvalidParams};
pub use model::{ByteSize, Criticality, Deadline, Fault, Party, Ratio, Retry, Span};
pub use policy;
