//! Lets in what matters most, within a limit that finds itself.

use std::future::poll_fn;
use std::mem;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use http::{Request, Response};
use http_body::Body;
use policy::admission::{Admission as Decision, AdmissionParams, Shed, Who};
use policy::callers::{Advice, Callers, RetryAdviceParams};
use tower_layer::Layer;
use tower_service::Service;

use super::gate::{Asked, Gate};
use super::refusal::Reason;
use crate::error::InvalidParams;
use crate::hold::{Held, Hold, HoldFuture};
use crate::signals::Signals;
use crate::{Clock, Context, header, worker};

pub use super::gate::Admitted;

/// Who a request comes from, for fairness: put it into the request's extensions where it is known, as a rule where the
/// caller is authenticated. Requests without one are not told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Customer(u64);

impl Customer {
    /// The customer of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(policy::hash(name.as_bytes()))
    }
}

/// Lets in as many requests as the process answers without queueing, a number that it finds by itself from how long
/// answers take. When places run short, lower classes are refused before higher ones, and customers with more than
/// their fair share before others; a few requests wait for a moment, in a line that serves the highest class first.
///
/// What is refused gets 503 with `seawall-reason: overloaded`, and `seawall-retry: never` unless trying another endpoint
/// may help: when few of the requests that arrive are retries, others have room.
///
/// One layer is one admission, shared by all services that it makes. Stands below
/// [`ContextLayer`](super::ContextLayer), which knows class and deadline. The services below must be `Clone`. Feed
/// [`Admission::set_pressure`](Decision::set_pressure) with the utilisation of CPU or memory if you measure it.
#[derive(Clone, Debug)]
pub struct AdmissionLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    gate: Arc<Gate>,
    callers: Callers,
}

impl AdmissionLayer {
    /// An admission that has yet to find its limit.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn new(params: &AdmissionParams) -> Result<Self, InvalidParams> {
        let callers = Callers::new(&RetryAdviceParams::default(), worker::count(), Clock::now());
        Ok(Self { shared: Arc::new(Shared { gate: Gate::new(params)?, callers }) })
    }

    /// The admission itself, to show its limit or to tell it of pressure.
    #[must_use]
    pub fn admission(&self) -> &Decision {
        &self.shared.gate.admission
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admission<S>;

    fn layer(&self, inner: S) -> Admission<S> {
        Admission { inner, shared: Arc::clone(&self.shared) }
    }
}

/// The service of [`AdmissionLayer`].
#[derive(Clone, Debug)]
pub struct Admission<S> {
    inner: S,
    shared: Arc<Shared>,
}

/// The answer to a request that is not let in.
fn refusal<R: Default>(shed: Shed, advice: Advice) -> Response<R> {
    let reason = if shed == Shed::Deadline { Reason::DeadlineExceeded } else { Reason::Overloaded };
    let mut answer = reason.answer();
    // A customer is too much for all of us; anybody else may find room elsewhere.
    let elsewhere = !matches!(shed, Shed::Deadline | Shed::Customer) && advice == Advice::RetryElsewhere;
    if elsewhere {
        answer.headers_mut().remove(header::RETRY);
    }
    answer
}

impl<S, B, R> Service<Request<B>> for Admission<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    R: Body + Default + Send + 'static,
{
    type Response = Response<Held<R, Admitted>>;
    type Error = S::Error;
    type Future = HoldFuture<S::Future, R, Admitted, S::Error>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = Context::of(&request);
        let customer = request.extensions().get().map_or(0, |Customer(hash)| *hash);
        let who = Who { class: context.criticality(), customer, deadline: context.deadline() };
        let attempt = context.attempt().map_or(1, |attempt| attempt.get());
        self.shared.callers.on_request(worker::shard(), attempt, Clock::now());
        let shared = Arc::clone(&self.shared);
        let refused = move |shed| Ok(refusal(shed, shared.callers.advice(Clock::now())));
        match self.shared.gate.ask(who) {
            Asked::Entered(place) => HoldFuture::called(self.inner.call(request), place),
            Asked::Refused(shed) => HoldFuture::refused(refused(shed)),
            Asked::Waits(wait) => {
                let clone = self.inner.clone();
                let mut service = mem::replace(&mut self.inner, clone);
                HoldFuture::waiting(async move {
                    let mut place = match wait.await {
                        Ok(place) => place,
                        Err(shed) => return refused(shed),
                    };
                    // Readiness may have gone while we waited.
                    poll_fn(|cx| service.poll_ready(cx)).await?;
                    let answer = service.call(request).await?;
                    place.on_head(&Signals::read(&answer));
                    Ok(answer.map(|body| Held::new(body, place)))
                })
            }
        }
    }
}
