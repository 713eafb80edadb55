//! Layers around a client that makes calls.
//!
//! All of them speak of failures as [`CallError`](crate::CallError).

pub mod balance;
pub mod breaker;
pub mod bulkhead;
pub mod deadline;
pub mod direct;
pub mod discover;
pub mod future;
pub mod hedge;
pub mod propagate;
pub mod replay;
pub mod retry;
pub mod throttle;
mod tried;

pub use balance::{Balance, BalanceParams, PlaceBy};
pub use breaker::BreakerLayer;
pub use bulkhead::BulkheadLayer;
pub use deadline::DeadlineLayer;
pub use direct::DirectLayer;
pub use discover::{Discover, PublishError, Publisher, Target, discovered};
pub use hedge::HedgeLayer;
pub use propagate::PropagateLayer;
pub use replay::{Replay, ReplayBody, ReplayLayer};
pub use retry::{RetryLayer, retry_budget};
pub use throttle::ThrottleLayer;
