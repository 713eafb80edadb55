//! Tower layers that make the gateway's decisions inside Rust services.
//!
//! The decisions themselves are [`policy`]'s: the gateway, the simulator and these layers run the same code. What is
//! here gives them a clock, a task and a request: a layer per policy for [tower], usable wherever requests and answers are
//! those of the [`http`] crate (hyper, axum, tonic, and reqwest with two adapters).
//!
//! [tower]: https://docs.rs/tower
//!
//! # A client
//!
//! ```
//! # use std::time::Duration;
//! # use http::{Request, Response};
//! # use http_body_util::Full;
//! # use bytes::Bytes;
//! use layers::client::{DeadlineLayer, PropagateLayer, RetryLayer, retry_budget};
//! use layers::policy::{attempts::RetryPolicyParams, budget::RetryBudgetParams};
//! use tower::{Service, ServiceBuilder, ServiceExt};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), layers::BoxError> {
//! # let transport = tower::service_fn(|_: Request<Full<Bytes>>| async {
//! #     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
//! # });
//!
//! let budget = retry_budget(&RetryBudgetParams::default());
//! let mut client = ServiceBuilder::new()
//!     .layer(DeadlineLayer::new(Duration::from_secs(2)))
//!     .layer(RetryLayer::new(&RetryPolicyParams::default(), budget)?)
//!     .layer(PropagateLayer::new())
//!     .service(transport);
//! let answer = client.ready().await?.call(Request::get("http://stock/").body(Full::default())?).await?;
//! assert!(answer.status().is_success());
//! # Ok(())
//! # }
//! ```
//!
//! # A server
//!
//! ```
//! use axum::{Router, routing::get};
//! use layers::policy::admission::AdmissionParams;
//! use layers::server::{AdmissionLayer, ContextLayer, DeadlineLayer, LameDuck, LoadReportLayer};
//! use tower::ServiceBuilder;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), layers::InvalidParams> {
//! let duck = LameDuck::new();
//! let app: Router = Router::new().route("/", get(|| async { "hello" })).layer(
//!     ServiceBuilder::new()
//!         .layer(duck.layer())
//!         .layer(LoadReportLayer::new())
//!         .layer(ContextLayer::new())
//!         .layer(AdmissionLayer::new(&AdmissionParams::default())?)
//!         .layer(DeadlineLayer::new()),
//! );
//! # Ok(())
//! # }
//! ```
//!
//! # The order of layers
//!
//! A client, from the outside in:
//!
//! 1. [`client::DeadlineLayer`]: one deadline for everything below it, retries and waits included.
//! 2. [`client::BulkheadLayer`]: a call has one place, however many attempts it makes. Below retries, calls that wait in
//!    back-off would hold nothing, and their number would be unbounded.
//! 3. [`client::ReplayLayer`]: before anything that sends a body twice; needless where bodies are in memory.
//! 4. [`client::RetryLayer`]: above everything that judges attempts, so that each attempt is judged.
//! 5. [`client::HedgeLayer`]: below retries, so that a retry can be hedged no more, and both spend one budget.
//! 6. [`client::BreakerLayer`], then [`client::ThrottleLayer`]: they count attempts, because attempts are what the callee
//!    bears. Above the throttle, the breaker takes the throttle's refusals for what they are: neither good nor bad.
//! 7. [`client::PropagateLayer`]: at the moment of sending, when what is left of the deadline is known.
//! 8. [`client::Balance`]: below everything that is about the service, above everything that is about an endpoint.
//! 9. [`client::DirectLayer`] over the transport, one for each endpoint.
//!
//! A server, from the outside in:
//!
//! 1. [`server::LameDuckLayer`]: marks every answer, refusals too.
//! 2. [`server::LoadReportLayer`]: sees every request, also those that wait or are refused.
//! 3. [`server::ContextLayer`]: everything below it knows deadline, class and attempt.
//! 4. [`server::AdmissionLayer`]: refuses before work begins; a request that waits here waits for no bulkhead yet.
//! 5. [`server::BulkheadLayer`]: on the routes that need one.
//! 6. [`server::DeadlineLayer`]: below whatever lets requests wait, so that a request that expired there is not begun.
//!
//! # What travels
//!
//! [`Context`] is what nested calls inherit: the deadline, the criticality, the attempt. [`header`] names what they are
//! called on the wire. Retries are made at one layer of a chain only; [`client::RetryLayer`] says how.
//!
//! # Time
//!
//! All layers read [`Clock`], which follows tokio's time: pause it in tests, and nothing waits.
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
