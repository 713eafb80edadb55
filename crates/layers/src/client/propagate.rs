//! Tells the next hop what the request inherits.

use std::task::{Context as Task, Poll};
use std::time::Duration;

use http::{Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::future::{CallFuture, Watch};
use crate::signals::Signals;
use crate::{BoxError, CallError, Context};

/// Writes the request's [`Context`] into its headers at the moment it is sent: what is left of the deadline less a
/// margin for the way back, the class, the attempt. Nothing is sent when nothing would be left.
///
/// It also listens: an answer that says `seawall-retry: never` forbids retries of the incoming request that the call is
/// made for, too ([`Context::forbid_retry`]).
#[derive(Clone, Debug)]
pub struct PropagateLayer {
    margin: Duration,
}

impl PropagateLayer {
    /// With a margin of 2 ms, the gateway's.
    #[must_use]
    pub const fn new() -> Self {
        Self { margin: Duration::from_millis(2) }
    }

    /// With another margin: what the way back takes at most, usually.
    #[must_use]
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.margin = margin;
        self
    }
}

impl Default for PropagateLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for PropagateLayer {
    type Service = Propagate<S>;

    fn layer(&self, inner: S) -> Propagate<S> {
        Propagate { inner, margin: self.margin }
    }
}

/// The service of [`PropagateLayer`].
#[derive(Clone, Debug)]
pub struct Propagate<S> {
    inner: S,
    margin: Duration,
}

/// Listens to the answer on behalf of the incoming request.
#[derive(Debug)]
pub struct Listen {
    context: Context,
}

impl Watch for Listen {
    fn on_answer(&mut self, signals: &Signals) {
        if signals.dont_retry {
            self.context.forbid_retry();
        }
    }
}

impl<S, B, R> Service<Request<B>> for Propagate<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = CallError;
    type Future = CallFuture<S::Future, Listen>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx).map_err(CallError::of)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let context = Context::of(&request);
        if context.write(request.headers_mut(), self.margin).is_err() {
            return CallFuture::refused(CallError::DeadlineExceeded);
        }
        CallFuture::called(self.inner.call(request), Listen { context })
    }
}
