//! Fails at once while calling is useless.

use std::sync::Arc;
use std::task::{Context as Task, Poll};

use http::{Request, Response};
use model::Instant;
use policy::breaker::{self as decision, BreakerParams, CallEnd, Permit};
use tower_layer::Layer;
use tower_service::Service;

use super::future::{CallFuture, Watch};
use crate::error::InvalidParams;
use crate::signals::Signals;
use crate::{BoxError, CallError, Clock, Context, worker};

/// Refuses calls with [`CallError::BreakerOpen`] while most of them fail or are slow.
///
/// One layer is one breaker: all services that it makes share it. A call that is cancelled counts, too, because its end
/// is reported when its future is dropped; and how calls end that began before the breaker last changed its state is
/// ignored. Refusals from above (429, 503, our own) do not open it.
#[derive(Clone, Debug)]
pub struct BreakerLayer {
    breaker: Arc<decision::Breaker>,
}

impl BreakerLayer {
    /// A closed breaker.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn new(params: &BreakerParams) -> Result<Self, InvalidParams> {
        InvalidParams::check(params.check())?;
        let breaker = decision::Breaker::new(params, worker::count(), Clock::now());
        Ok(Self { breaker: Arc::new(breaker) })
    }

    /// The breaker itself, to show its state or to force it.
    #[must_use]
    pub fn breaker(&self) -> &Arc<decision::Breaker> {
        &self.breaker
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Breaker<S> {
        Breaker { inner, breaker: Arc::clone(&self.breaker) }
    }
}

/// The service of [`BreakerLayer`].
#[derive(Clone, Debug)]
pub struct Breaker<S> {
    inner: S,
    breaker: Arc<decision::Breaker>,
}

/// A call under way, reported to its breaker when dropped.
#[derive(Debug)]
pub struct Call {
    breaker: Arc<decision::Breaker>,
    permit: Permit,
    started: Instant,
    end: CallEnd,
}

impl Call {
    pub(super) fn enter(breaker: &Arc<decision::Breaker>, now: Instant) -> Result<Self, CallError> {
        match worker::with_rng(|rng| breaker.try_enter(worker::shard(), now, rng)) {
            Ok(permit) => {
                Ok(Self { breaker: Arc::clone(breaker), permit, started: now, end: CallEnd::Ignored })
            }
            Err(refused) => Err(CallError::BreakerOpen { retry_after: refused.retry_after }),
        }
    }
}

impl Watch for Call {
    fn on_answer(&mut self, signals: &Signals) {
        self.end = signals.verdict.into();
    }

    fn on_error(&mut self, error: &CallError) {
        self.end = error.verdict().into();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = Clock::now();
        let latency = now.since(self.started);
        worker::with_rng(|rng| self.breaker.on_end(self.permit, now, self.end, latency, rng));
    }
}

impl<S, B, R> Service<Request<B>> for Breaker<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = CallError;
    type Future = CallFuture<S::Future, Call>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx).map_err(CallError::of)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match Call::enter(&self.breaker, Clock::now()) {
            Ok(call) => CallFuture::called(self.inner.call(request), call),
            Err(error) => {
                Context::of(&request).forbid_retry();
                CallFuture::refused(error)
            }
        }
    }
}
