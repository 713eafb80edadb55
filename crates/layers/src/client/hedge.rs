//! Sends a second attempt while the first one is late.

use std::future::poll_fn;
use std::mem;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use http::{Request, Response};
use model::{Instant, Verdict};
use policy::budget::{RetryBudget, try_retry_all};
use policy::hedge::{HedgeParams, HedgeTimer};
use tower_layer::Layer;
use tower_service::Service;

use super::replay::{Replay, replay};
use super::tried::Tried;
use crate::error::InvalidParams;
use crate::signals::Signals;
use crate::{BoxError, CallError, Clock, Context, worker};

/// Races a late call against a second one, and takes the first good answer. The other call is cancelled.
///
/// How late is late is learnt from the calls of the last seconds ([`HedgeTimer`]); without enough of them nothing is
/// hedged. Hedges spend the retry budget, so that they cannot double the load of a callee that has become slow. Only
/// first attempts of idempotent methods are hedged. The services below must be `Clone`, and the request's body
/// [`Replay`]; over a [`Balance`](super::Balance) the second attempt goes to another endpoint.
#[derive(Clone, Debug)]
pub struct HedgeLayer {
    policy: Arc<HedgePolicy>,
}

#[derive(Debug)]
struct HedgePolicy {
    timer: HedgeTimer,
    budgets: Vec<Arc<RetryBudget>>,
    non_idempotent: bool,
}

impl HedgeLayer {
    /// Hedges that `budget` pays for; share it with the [`RetryLayer`](super::RetryLayer) above.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn new(params: &HedgeParams, budget: Arc<RetryBudget>) -> Result<Self, InvalidParams> {
        Self::build(params, budget, false)
    }

    /// Hedges calls of any method; for services that recognise a request that comes twice, and gRPC, where every
    /// call is a POST.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn non_idempotent(params: &HedgeParams, budget: Arc<RetryBudget>) -> Result<Self, InvalidParams> {
        Self::build(params, budget, true)
    }

    fn build(
        params: &HedgeParams,
        budget: Arc<RetryBudget>,
        non_idempotent: bool,
    ) -> Result<Self, InvalidParams> {
        InvalidParams::check(params.check())?;
        let timer = HedgeTimer::new(params, worker::count(), Clock::now());
        Ok(Self { policy: Arc::new(HedgePolicy { timer, budgets: vec![budget], non_idempotent }) })
    }

    /// How late a call must be at present to be hedged; `None` while nothing is hedged.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.policy.timer.delay()
    }
}

impl<S> Layer<S> for HedgeLayer {
    type Service = Hedge<S>;

    fn layer(&self, inner: S) -> Hedge<S> {
        Hedge { inner, policy: Arc::clone(&self.policy) }
    }
}

/// The service of [`HedgeLayer`].
#[derive(Clone, Debug)]
pub struct Hedge<S> {
    inner: S,
    policy: Arc<HedgePolicy>,
}

/// An attempt's latency, told to the timer however the attempt ends: left out, a cancelled one would make the callee
/// look faster than it is.
struct Stopwatch<'a> {
    timer: &'a HedgeTimer,
    started: Instant,
}

impl<'a> Stopwatch<'a> {
    fn start(timer: &'a HedgeTimer) -> Self {
        Self { timer, started: Clock::now() }
    }
}

impl Drop for Stopwatch<'_> {
    fn drop(&mut self) {
        let now = Clock::now();
        self.timer.on_latency(worker::shard(), now, now.since(self.started));
    }
}

impl<S, B, R> Service<Request<B>> for Hedge<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Replay + Send + 'static,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, CallError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), CallError>> {
        self.inner.poll_ready(cx).map_err(CallError::of)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let spare = self.inner.clone();
        let mut ready = mem::replace(&mut self.inner, spare.clone());
        let policy = Arc::clone(&self.policy);
        let context = Context::of(&request);
        Tried::begin(&mut request, &context, &policy.budgets);
        let hedge = policy.delay_of(&request, &context).and_then(|delay| Some((delay, replay(&request)?)));
        let first = ready.call(request);
        Box::pin(async move {
            let first = async {
                let _watch = Stopwatch::start(&policy.timer);
                first.await.map_err(CallError::of)
            };
            let Some((delay, second)) = hedge else { return first.await };
            race(&policy, first, delay, spare, second, context).await
        })
    }
}

impl HedgePolicy {
    /// How long to wait for the answer to this request before it is hedged; `None` if it may not be.
    fn delay_of<B>(&self, request: &Request<B>, context: &Context) -> Option<Duration> {
        let first = context.attempt().is_none_or(|attempt| attempt.get() == 1);
        let repeatable = self.non_idempotent || request.method().is_idempotent();
        if first && repeatable { self.timer.delay() } else { None }
    }
}

async fn race<S, B, R>(
    policy: &HedgePolicy,
    first: impl Future<Output = Result<Response<R>, CallError>>,
    delay: Duration,
    mut spare: S,
    mut second: Request<B>,
    context: Context,
) -> Result<Response<R>, CallError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    B: Replay,
{
    let mut first = pin!(first);
    if let Ok(result) = tokio::time::timeout(delay, first.as_mut()).await {
        return result;
    }
    // A body that was let go in the meantime cannot be sent a second time.
    let budgets: Vec<&RetryBudget> = policy.budgets.iter().map(|budget| &**budget).collect();
    if second.body().replay().is_none() || !try_retry_all(&budgets, Clock::now()) {
        return first.await;
    }
    // Whoever gets the hedge must not repeat it on top.
    let number = context.attempt().map_or(1, |attempt| attempt.get()).saturating_add(1);
    second.extensions_mut().insert(context.with_attempt(number));
    let second = async {
        poll_fn(|cx| spare.poll_ready(cx)).await.map_err(CallError::of)?;
        let _watch = Stopwatch::start(&policy.timer);
        spare.call(second).await.map_err(CallError::of)
    };
    let mut second = pin!(second);
    tokio::select! {
        result = first.as_mut() => if good(&result) { result } else { second.await },
        result = second.as_mut() => if good(&result) { result } else { first.await },
    }
}

/// Whether an answer ends the race.
fn good<R>(result: &Result<Response<R>, CallError>) -> bool {
    result.as_ref().is_ok_and(|answer| Signals::read(answer).verdict == Verdict::Success)
}
