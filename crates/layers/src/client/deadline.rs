//! Gives calls a deadline, and ends them when it passes.

use std::pin::Pin;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use http::Request;
use model::Deadline as Until;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_layer::Layer;
use tower_service::Service;

use crate::{BoxError, CallError, Clock, Context};

/// Ends a call when nobody wants its answer any more: after `timeout`, or at the deadline that the request inherits,
/// whichever is sooner. It covers everything below it, so it stands above retries.
///
/// [`PropagateLayer`](super::PropagateLayer) tells the callee. Bounds the time until the head of the answer; a body
/// that drags is its reader's to bound.
#[derive(Clone, Debug)]
pub struct DeadlineLayer {
    timeout: Duration,
}

impl DeadlineLayer {
    /// Calls take no longer than `timeout`.
    #[must_use]
    pub const fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, timeout: self.timeout }
    }
}

/// The service of [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
    timeout: Duration,
}

impl<S, B> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>>,
    S::Error: Into<BoxError>,
{
    type Response = S::Response;
    type Error = CallError;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx).map_err(CallError::of)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let now = Clock::now();
        let context = Context::of(&request).with_deadline(Until::within(now, self.timeout));
        let deadline = context.deadline();
        if deadline.expired(now) {
            return DeadlineFuture { call: None, alarm: None };
        }
        request.extensions_mut().insert(context);
        let alarm =
            (deadline != Until::NONE).then(|| tokio::time::sleep_until(Clock::timer(deadline.instant())));
        DeadlineFuture { call: Some(self.inner.call(request)), alarm }
    }
}

pin_project! {
    /// The answer, unless the deadline passes first.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DeadlineFuture<F> {
        // Absent when the deadline had passed before the call.
        #[pin]
        call: Option<F>,
        #[pin]
        alarm: Option<Sleep>,
    }
}

impl<F, R, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(call) = this.call.as_pin_mut() else { return Poll::Ready(Err(CallError::DeadlineExceeded)) };
        if let Poll::Ready(result) = call.poll(cx) {
            return Poll::Ready(result.map_err(CallError::of));
        }
        match this.alarm.as_pin_mut().map(|alarm| alarm.poll(cx)) {
            Some(Poll::Ready(())) => Poll::Ready(Err(CallError::DeadlineExceeded)),
            Some(Poll::Pending) | None => Poll::Pending,
        }
    }
}
