//! Refuses here what an overloaded callee would refuse there.

use std::sync::Arc;
use std::task::{Context as Task, Poll};

use http::{Request, Response};
use model::{Criticality, Instant, Verdict};
use policy::throttle::{self as decision, ThrottleParams};
use tower_layer::Layer;
use tower_service::Service;

use super::future::{CallFuture, Watch};
use crate::error::InvalidParams;
use crate::signals::Signals;
use crate::{BoxError, CallError, Clock, Context, worker};

/// Refuses calls with [`CallError::Throttled`], by chance, while the callee refuses most of them: client-side adaptive
/// throttling, for each criticality by itself. What is refused here costs the callee nothing.
///
/// A call counts when it starts, so calls that hang are noticed. One layer is one throttle, shared by all services that
/// it makes; lay it over the calls to one service, below retries, so that each attempt counts.
#[derive(Clone, Debug)]
pub struct ThrottleLayer {
    throttle: Arc<decision::Throttle>,
}

impl ThrottleLayer {
    /// A throttle that lets everything through until it knows better.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn new(params: &ThrottleParams) -> Result<Self, InvalidParams> {
        InvalidParams::check(params.check())?;
        let throttle = decision::Throttle::new(params, worker::count(), Clock::now());
        Ok(Self { throttle: Arc::new(throttle) })
    }

    /// The throttle itself, to show how much it refuses.
    #[must_use]
    pub fn throttle(&self) -> &decision::Throttle {
        &self.throttle
    }
}

impl<S> Layer<S> for ThrottleLayer {
    type Service = Throttle<S>;

    fn layer(&self, inner: S) -> Throttle<S> {
        Throttle { inner, throttle: Arc::clone(&self.throttle) }
    }
}

/// The service of [`ThrottleLayer`].
#[derive(Clone, Debug)]
pub struct Throttle<S> {
    inner: S,
    throttle: Arc<decision::Throttle>,
}

/// A call under way, counted as accepted when the callee did the work.
#[derive(Debug)]
pub struct Sent {
    throttle: Arc<decision::Throttle>,
    class: Criticality,
    started: Instant,
}

impl Watch for Sent {
    fn on_answer(&mut self, signals: &Signals) {
        // An application's error took work, too; a time-out further down did not end as it should.
        let accepted = signals.verdict != Verdict::Overloaded && signals.status != 504;
        if accepted {
            self.throttle.on_accept(worker::shard(), self.class, self.started, Clock::now());
        } else {
            self.throttle.on_failure(worker::shard(), self.class, self.started);
        }
    }

    fn on_error(&mut self, error: &CallError) {
        match error {
            CallError::AttemptTimeout | CallError::Reset(_) => {
                self.throttle.on_failure(worker::shard(), self.class, self.started);
            }
            // It never got there, which is the breaker's to see to.
            CallError::Connect(_)
            | CallError::BreakerOpen { .. }
            | CallError::Throttled
            | CallError::BulkheadFull
            | CallError::NoEndpoint => {
                self.throttle.on_accept(worker::shard(), self.class, self.started, Clock::now());
            }
            // Whether it would have answered will never be known.
            CallError::DeadlineExceeded => {}
        }
    }
}

impl<S, B, R> Service<Request<B>> for Throttle<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = CallError;
    type Future = CallFuture<S::Future, Sent>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx).map_err(CallError::of)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let context = Context::of(&request);
        let (class, started) = (context.criticality(), Clock::now());
        let sent = worker::with_rng(|rng| self.throttle.try_send(worker::shard(), class, started, rng));
        if sent.is_err() {
            context.forbid_retry();
            return CallFuture::refused(CallError::Throttled);
        }
        let sent = Sent { throttle: Arc::clone(&self.throttle), class, started };
        CallFuture::called(self.inner.call(request), sent)
    }
}
