//! Makes the context that nested calls inherit.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use model::{Criticality, Verdict};
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tower_layer::Layer;
use tower_service::Service;

use crate::signals::Signals;
use crate::{Context, header};

/// Reads deadline, criticality and attempt from each incoming request and makes them its [`Context`]: as an extension
/// of the request, and for the task while the request is worked on, so that calls made meanwhile inherit it.
///
/// When a client layer said that the request must not be tried again ([`Context::forbid_retry`]) and its answer is an
/// error, the answer gets `seawall-retry: never`: that is how "never" travels up a whole chain of services.
///
/// The body of the answer is produced after the handler returned, outside of the context: a stream that makes calls of
/// its own takes it along ([`Context::scope`]).
#[derive(Clone, Debug)]
pub struct ContextLayer {
    trusted: bool,
    deadline_max: Duration,
    criticality: Criticality,
}

impl ContextLayer {
    /// Believes what requests say of themselves. Right behind the gateway, which removes these headers from callers that
    /// it does not trust, and among services of one's own.
    #[must_use]
    pub const fn new() -> Self {
        let deadline_max = Duration::from_secs(24 * 3600);
        Self { trusted: true, deadline_max, criticality: Criticality::Critical }
    }

    /// Believes nothing: for a server that anybody can reach. Requests are of the default class, have no deadline of
    /// their own, and count as nobody's attempt.
    #[must_use]
    pub const fn untrusted() -> Self {
        Self { trusted: false, ..Self::new() }
    }

    /// The most time that a caller may ask for; a day if nothing is said.
    #[must_use]
    pub const fn deadline_max(mut self, deadline_max: Duration) -> Self {
        self.deadline_max = deadline_max;
        self
    }

    /// The class of requests that name none.
    #[must_use]
    pub const fn default_criticality(mut self, criticality: Criticality) -> Self {
        self.criticality = criticality;
        self
    }
}

impl Default for ContextLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for ContextLayer {
    type Service = InContext<S>;

    fn layer(&self, inner: S) -> InContext<S> {
        InContext { inner, layer: self.clone() }
    }
}

/// The service of [`ContextLayer`].
#[derive(Clone, Debug)]
pub struct InContext<S> {
    inner: S,
    layer: ContextLayer,
}

impl<S, B, R> Service<Request<B>> for InContext<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = InContextFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let ContextLayer { trusted, deadline_max, criticality } = self.layer;
        let context = if trusted {
            Context::from_headers(request.headers(), deadline_max, criticality)
        } else {
            // Nor may anybody further on believe them, should the request be forwarded.
            for name in [header::DEADLINE_MS, header::GRPC_TIMEOUT, header::CRITICALITY, header::ATTEMPT] {
                request.headers_mut().remove(name);
            }
            Context::new().with_criticality(criticality).answerable()
        };
        request.extensions_mut().insert(context.clone());
        let call = context.enter(|| self.inner.call(request));
        InContextFuture { call: context.clone().scope(call), context }
    }
}

pin_project! {
    /// The answer, worked on in the request's context.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct InContextFuture<F> {
        #[pin]
        call: TaskLocalFuture<Context, F>,
        context: Context,
    }
}

impl<F, R, E> Future for InContextFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.call.poll(cx));
        if let Ok(answer) = &mut result
            && this.context.retry_forbidden()
            && Signals::read(answer).verdict != Verdict::Success
        {
            header::forbid_retry(answer.headers_mut());
        }
        Poll::Ready(result)
    }
}
