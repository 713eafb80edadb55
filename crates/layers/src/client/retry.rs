//! Tries again, as far as a budget pays for it.

use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};
use std::time::Duration;

use http::{Request, Response};
use model::{Deadline, Instant, Retry as Repeat, Verdict};
use policy::attempts::{self, Decision, Facts, Failure, RetryPolicyParams};
use policy::budget::{RetryBudget, RetryBudgetParams, try_retry_all};
use tower_layer::Layer;
use tower_service::Service;

use super::replay::{Replay, replay};
use super::tried::Tried;
use crate::error::InvalidParams;
use crate::signals::Signals;
use crate::{BoxError, CallError, Clock, Context, worker};

/// A retry budget to share between layers: all retries and hedges of calls to one service spend the same.
#[must_use]
pub fn retry_budget(params: &RetryBudgetParams) -> Arc<RetryBudget> {
    Arc::new(RetryBudget::new(params, worker::count(), Clock::now()))
}

/// Repeats calls that failed, where that can help and does no harm.
///
/// **When:** as [`RetryPolicyParams`] say, and only while the [budget](RetryBudget) pays: at most a share of the calls is
/// repeated, so that an outage is not multiplied. Every attempt has what is left of the deadline, at most
/// `attempt_timeout`; over a [`Balance`](super::Balance) it goes to another endpoint each time.
///
/// **Who:** retries are made at one layer of a chain only. A request that is made for an incoming one whose caller counts
/// attempts (`seawall-attempt`, as the gateway and this layer send it) is not repeated here: the caller owns retries. It
/// is still paid for: an attempt that fails asks the budget whether the caller may try again, and when it may not, the
/// answer to the caller will say `seawall-retry: never`. So however naive the caller, the callee gets no more than the
/// budget grants. [`RetryLayer::under_a_caller`] repeats here nevertheless.
///
/// An answer that says `seawall-retry: never` is never followed by another attempt, here or further up. Nor is a failure that
/// this layer, where it owns retries, could or would not repeat: its decision is final for the whole chain.
///
/// The services below must be `Clone`, and the request's body [`Replay`].
#[derive(Clone, Debug)]
pub struct RetryLayer {
    policy: Arc<RetryPolicy>,
}

#[derive(Clone, Debug)]
struct RetryPolicy {
    params: RetryPolicyParams,
    budgets: Vec<Arc<RetryBudget>>,
    under_a_caller: bool,
}

impl RetryLayer {
    /// Retries that `budget` pays for.
    ///
    /// # Errors
    /// [`InvalidParams`] names every parameter that makes no sense.
    pub fn new(params: &RetryPolicyParams, budget: Arc<RetryBudget>) -> Result<Self, InvalidParams> {
        InvalidParams::check(params.check())?;
        let policy = RetryPolicy { params: params.clone(), budgets: vec![budget], under_a_caller: false };
        Ok(Self { policy: Arc::new(policy) })
    }

    /// Retries that must be paid for by `budget` as well, such as one for the whole process.
    #[must_use]
    pub fn also_paid_by(mut self, budget: Arc<RetryBudget>) -> Self {
        Arc::make_mut(&mut self.policy).budgets.push(budget);
        self
    }

    /// Repeats calls even though the caller further up would. Attempts multiply up to what the budgets grant at both
    /// places.
    #[must_use]
    pub fn under_a_caller(mut self) -> Self {
        Arc::make_mut(&mut self.policy).under_a_caller = true;
        self
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry { inner, policy: Arc::clone(&self.policy) }
    }
}

/// The service of [`RetryLayer`].
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    policy: Arc<RetryPolicy>,
}

impl<S, B, R> Service<Request<B>> for Retry<S>
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
        // The service that is ready makes the first attempt; its clone has to become ready first.
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        let policy = Arc::clone(&self.policy);
        let context = Context::of(&request);
        Tried::begin(&mut request, &context, &policy.budgets);
        if context.attempt().is_some() && !policy.under_a_caller {
            Box::pin(policy.try_once(ready, request, context))
        } else {
            Box::pin(policy.try_repeatedly(ready, request, context))
        }
    }
}

impl RetryPolicy {
    /// Makes the only attempt, on behalf of a caller that owns retries.
    async fn try_once<S, B, R>(
        self: Arc<Self>,
        mut service: S,
        request: Request<B>,
        context: Context,
    ) -> Result<Response<R>, CallError>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
    {
        let timeout = self.params.attempt_timeout.map(|span| span.get());
        let result = attempt(&mut service, request, context.deadline(), timeout).await;
        let forbidden = match &result {
            Ok(answer) => Signals::read(answer).dont_retry,
            Err(error) => error.fault().retry == Repeat::Never,
        };
        if failed(&result) && (forbidden || !self.caller_may_retry(&context)) {
            context.forbid_retry();
        }
        result
    }

    /// Pays for the attempt that the caller will make if nobody tells it not to.
    fn caller_may_retry(&self, context: &Context) -> bool {
        let attempt = context.attempt().map_or(1, |attempt| attempt.get());
        let budgets: Vec<&RetryBudget> = self.budgets.iter().map(|budget| &**budget).collect();
        attempt < self.params.attempts_max && try_retry_all(&budgets, Clock::now())
    }

    async fn try_repeatedly<S, B, R>(
        self: Arc<Self>,
        mut service: S,
        mut request: Request<B>,
        context: Context,
    ) -> Result<Response<R>, CallError>
    where
        S: Service<Request<B>, Response = Response<R>>,
        S::Error: Into<BoxError>,
        B: Replay,
    {
        let before = context.attempt().map_or(0, |attempt| attempt.get() - 1);
        let idempotent = request.method().is_idempotent();
        let mut timeout = self.params.attempt_timeout.map(|span| span.get());
        let mut attempts = 0;
        loop {
            attempts += 1;
            request.extensions_mut().insert(context.clone().with_attempt(before.saturating_add(attempts)));
            let keep = if attempts < self.params.attempts_max { replay(&request) } else { None };
            let result = attempt(&mut service, request, context.deadline(), timeout).await;

            let Some((failure, retry, dont_retry)) = judge(&result) else { return result };
            let next = keep.as_ref().and_then(replay);
            let facts = Facts {
                attempts,
                failure,
                retry,
                idempotent,
                dont_retry,
                body_replayable: next.is_some(),
                deadline_left: context.left(),
            };
            let budgets: Vec<&RetryBudget> = self.budgets.iter().map(|budget| &**budget).collect();
            let decision =
                worker::with_rng(|rng| attempts::decide(&self.params, &facts, &budgets, Clock::now(), rng));
            match (decision, next) {
                (Decision::Retry { delay, timeout: granted }, Some(next)) => {
                    drop(result);
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    timeout = self.params.attempt_timeout.is_some().then_some(granted);
                    request = next;
                }
                (Decision::Stop(_), _) => {
                    // Whoever owns retries has the last word: what is not tried again here is not tried again above.
                    if failed(&result) {
                        context.forbid_retry();
                    }
                    return result;
                }
                (Decision::Retry { .. }, None) => unreachable!("only what can be replayed is repeated"),
            }
        }
    }
}

/// Whether an attempt failed on the callee's side, whatever the parameters say about repeating it.
fn failed<R>(result: &Result<Response<R>, CallError>) -> bool {
    result.as_ref().map_or(true, |answer| Signals::read(answer).verdict != Verdict::Success)
}

/// How an attempt failed, whether a repetition can do harm, and whether one is forbidden; `None` when it did not fail,
/// or when nobody may or need try again.
fn judge<R>(result: &Result<Response<R>, CallError>) -> Option<(Failure, Repeat, bool)> {
    match result {
        Ok(answer) => {
            let signals = Signals::read(answer);
            // What to repeat is for the parameters to say; they name no status below 400.
            (signals.status >= 400).then_some((
                Failure::Status(signals.status),
                Repeat::IfIdempotent,
                signals.dont_retry,
            ))
        }
        Err(error) => {
            error.condition().map(|condition| (Failure::NoAnswer(condition), error.fault().retry, false))
        }
    }
}

/// Makes one attempt: waits until the service is ready, and for the head of its answer.
async fn attempt<S, B, R>(
    service: &mut S,
    request: Request<B>,
    deadline: Deadline,
    timeout: Option<Duration>,
) -> Result<Response<R>, CallError>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    let until = match timeout {
        Some(timeout) => deadline.instant().min(Clock::now().after(timeout)),
        None => deadline.instant(),
    };
    let call = async {
        poll_fn(|cx| service.poll_ready(cx)).await.map_err(CallError::of)?;
        service.call(request).await.map_err(CallError::of)
    };
    if until == Instant::NEVER {
        return call.await;
    }
    match tokio::time::timeout_at(Clock::timer(until), call).await {
        Ok(result) => result,
        Err(_) if deadline.expired(Clock::now()) => Err(CallError::DeadlineExceeded),
        Err(_) => Err(CallError::AttemptTimeout),
    }
}
