//! Works on nothing that nobody waits for.

use std::pin::Pin;
use std::task::{Context as Task, Poll};

use http::{Request, Response};
use model::Deadline as Until;
use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_layer::Layer;
use tower_service::Service;

use super::refusal::Reason;
use crate::{Clock, Context};

/// Refuses requests whose deadline has passed, and gives up those whose deadline passes while they are worked on: 504 with
/// `seawall-reason: deadline_exceeded`. What the handler was waiting for is cancelled with it.
///
/// Stands below [`ContextLayer`](super::ContextLayer), which knows the deadline, and below whatever lets requests wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeadlineLayer;

impl DeadlineLayer {
    /// The layer; there is nothing to set.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner }
    }
}

/// The service of [`DeadlineLayer`].
#[derive(Clone, Debug)]
pub struct Deadline<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for Deadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = DeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = Context::of(&request).deadline();
        if deadline.expired(Clock::now()) {
            return DeadlineFuture { call: None, alarm: None };
        }
        let alarm =
            (deadline != Until::NONE).then(|| tokio::time::sleep_until(Clock::timer(deadline.instant())));
        DeadlineFuture { call: Some(self.inner.call(request)), alarm }
    }
}

pin_project! {
    /// The answer, or the refusal once the deadline has passed.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct DeadlineFuture<F> {
        // Absent when the deadline had passed before, and given up when it passes.
        #[pin]
        call: Option<F>,
        #[pin]
        alarm: Option<Sleep>,
    }
}

impl<F, R, E> Future for DeadlineFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Default,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Some(call) = this.call.as_mut().as_pin_mut() {
            if let Poll::Ready(result) = call.poll(cx) {
                return Poll::Ready(result);
            }
            if this.alarm.as_pin_mut().is_none_or(|alarm| alarm.poll(cx).is_pending()) {
                return Poll::Pending;
            }
            this.call.set(None);
        }
        Poll::Ready(Ok(Reason::DeadlineExceeded.answer()))
    }
}
