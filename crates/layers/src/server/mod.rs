//! Layers around an application that answers requests.
//!
//! All of them leave the error type of the service as it is, so they fit over an axum router; a refusal is an answer.

pub mod admission;
pub mod bulkhead;
pub mod context;
pub mod deadline;
mod gate;
pub mod lame_duck;
pub mod load_report;
mod refusal;

pub use crate::hold::{Held, HoldFuture};
pub use admission::{AdmissionLayer, Customer};
pub use bulkhead::BulkheadLayer;
pub use context::ContextLayer;
pub use deadline::DeadlineLayer;
pub use lame_duck::{LameDuck, LameDuckLayer};
pub use load_report::{Load, LoadReportLayer};
pub use refusal::Reason;
