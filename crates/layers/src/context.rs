//! What travels with a request through nested calls: deadline, criticality, attempt.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::{HeaderMap, Request};
use model::{Criticality, Deadline};
use tokio::task::futures::TaskLocalFuture;

use crate::{Clock, header};

/// Attempt numbers above this are nonsense.
const ATTEMPT_LIMIT: u32 = 1000;

tokio::task_local! {
    static CURRENT: Context;
}

/// What a request inherits from the one that it is made for.
///
/// A server layer makes one of each incoming request ([`server::ContextLayer`](crate::server::ContextLayer)). Client
/// layers take it from the outgoing request's extensions, or else from the task ([`Context::current`]), or else begin
/// a new one: [`Context::of`]. So nested calls inherit it without anybody handing it on; but a task does not inherit
/// from the task that spawned it. Hand it over with [`Context::scope`]:
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use layers::{Context, Criticality};
///
/// let context = Context::new().with_criticality(Criticality::Sheddable);
/// context.scope(async {
///     let inherited = Context::current().unwrap_or_default();
///     tokio::spawn(inherited.scope(async {
///         assert_eq!(Context::current().unwrap().criticality(), Criticality::Sheddable);
///     }))
///     .await
///     .unwrap();
/// })
/// .await;
/// # });
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Context {
    deadline: Deadline,
    criticality: Criticality,
    attempt: Option<NonZeroU32>,
    /// Shared by everything that is done for one incoming request; absent where there is none.
    dont_retry: Option<Arc<AtomicBool>>,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// The context of something that nobody asked for: no deadline, the default criticality, no attempt counted.
    pub const fn new() -> Self {
        Self { deadline: Deadline::NONE, criticality: Criticality::Critical, attempt: None, dont_retry: None }
    }

    /// What an incoming request says. A header that makes no sense counts as absent; no deadline is farther away than
    /// `deadline_max`, and a request without a class is `criticality`.
    ///
    /// Believe only callers that you know: the gateway removes these headers when they come from anybody else.
    pub fn from_headers(headers: &HeaderMap, deadline_max: Duration, criticality: Criticality) -> Self {
        let millis = headers
            .get(header::DEADLINE_MS)
            .and_then(|value| policy::deadline::parse_millis(value.as_bytes(), deadline_max));
        let left = millis.or_else(|| {
            let value = headers.get(header::GRPC_TIMEOUT)?;
            policy::deadline::parse_grpc_timeout(value.as_bytes(), deadline_max)
        });
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let attempt = text(header::ATTEMPT).and_then(|text| text.parse::<u32>().ok());
        Self {
            deadline: left.map_or(Deadline::NONE, |left| Deadline::within(Clock::now(), left)),
            criticality: text(header::CRITICALITY).and_then(|text| text.parse().ok()).unwrap_or(criticality),
            attempt: attempt.and_then(|number| NonZeroU32::new(number.min(ATTEMPT_LIMIT))),
            dont_retry: None,
        }
        .answerable()
    }

    /// The context of the running task; `None` outside of a request.
    #[must_use]
    pub fn current() -> Option<Context> {
        CURRENT.try_with(Clone::clone).ok()
    }

    /// The context of an outgoing request: its extension, or the running task's, or a new one.
    pub fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().cloned().or_else(Self::current).unwrap_or_default()
    }

    /// Runs `future` in this context.
    pub fn scope<F: Future>(self, future: F) -> TaskLocalFuture<Context, F> {
        CURRENT.scope(self, future)
    }

    /// Runs `f` in this context.
    pub(crate) fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self.clone(), f)
    }

    /// The point after which nobody wants the answer.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// What is left until then; [`Duration::MAX`] without a deadline.
    #[must_use]
    pub fn left(&self) -> Duration {
        if self.deadline == Deadline::NONE { Duration::MAX } else { self.deadline.left(Clock::now()) }
    }

    /// How much the request matters.
    #[must_use]
    pub fn criticality(&self) -> Criticality {
        self.criticality
    }

    /// Which attempt this is, when somebody above counts. Whoever counts owns retries.
    #[must_use]
    pub fn attempt(&self) -> Option<NonZeroU32> {
        self.attempt
    }

    /// The same with `deadline`, unless the one that it has is sooner: nobody can grant more time than there is.
    pub fn with_deadline(mut self, deadline: Deadline) -> Self {
        self.deadline = self.deadline.sooner(deadline);
        self
    }

    /// The same in another class.
    pub fn with_criticality(mut self, criticality: Criticality) -> Self {
        self.criticality = criticality;
        self
    }

    /// The same as attempt `number`; 0 counts as 1.
    pub fn with_attempt(mut self, number: u32) -> Self {
        self.attempt = Some(NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN));
        self
    }

    /// Says that trying the incoming request again would do harm: if its answer is an error, it will carry
    /// `seawall-retry: never`. Layers say so when retries were made here already, cannot be paid for, or were forbidden
    /// further down. Without an incoming request it says nothing to nobody.
    pub fn forbid_retry(&self) {
        if let Some(flag) = &self.dont_retry {
            flag.store(true, Relaxed);
        }
    }

    /// Whether somebody said so.
    #[must_use]
    pub fn retry_forbidden(&self) -> bool {
        self.dont_retry.as_ref().is_some_and(|flag| flag.load(Relaxed))
    }

    /// The same with an answer that can say "never".
    pub(crate) fn answerable(mut self) -> Self {
        self.dont_retry = Some(Arc::default());
        self
    }

    /// Writes what the next hop is told; what is left comes without the `margin` for the way back.
    pub(crate) fn write(&self, headers: &mut HeaderMap, margin: Duration) -> Result<(), Expired> {
        if self.deadline != Deadline::NONE {
            let left = self.deadline.to_pass_on(Clock::now(), margin).ok_or(Expired)?;
            // Less than a millisecond is still something; 0 would be a refusal.
            let millis = left.max(Duration::from_millis(1));
            headers
                .insert(header::DEADLINE_MS, header::value(policy::deadline::format_millis(millis).as_str()));
            if header::is_grpc(headers) {
                // A gRPC client may have asked for less by itself.
                let own = headers.get(header::GRPC_TIMEOUT);
                let own = own.and_then(|value| policy::deadline::parse_grpc_timeout(value.as_bytes(), left));
                let text = policy::deadline::format_grpc_timeout(own.unwrap_or(left));
                headers.insert(header::GRPC_TIMEOUT, header::value(text.as_str()));
            }
        }
        headers.insert(header::CRITICALITY, http::HeaderValue::from_static(self.criticality.name()));
        if let Some(attempt) = self.attempt {
            headers.insert(header::ATTEMPT, attempt.get().into());
        }
        Ok(())
    }
}

/// Nothing of the deadline would be left for the next hop.
#[derive(Debug, PartialEq)]
pub(crate) struct Expired;

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    const MAX: Duration = Duration::from_secs(60);

    fn read(fields: &[(http::HeaderName, &str)]) -> Context {
        let pairs = fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()));
        Context::from_headers(&pairs.collect(), MAX, Criticality::SheddablePlus)
    }

    #[tokio::test(start_paused = true)]
    async fn trap_7_nonsense_counts_as_absent_and_nobody_gets_more_than_the_cap() {
        let nothing = read(&[]);
        assert_eq!((nothing.deadline(), nothing.left()), (Deadline::NONE, Duration::MAX));
        assert_eq!((nothing.criticality(), nothing.attempt()), (Criticality::SheddablePlus, None));
        for junk in ["-1", "", "1e3", "soon", "99999999999999999999999"] {
            let read = read(&[
                (header::DEADLINE_MS, junk),
                (header::GRPC_TIMEOUT, junk),
                (header::ATTEMPT, junk),
                (header::CRITICALITY, junk),
            ]);
            assert_eq!((read.deadline(), read.attempt()), (Deadline::NONE, None), "{junk}");
            assert_eq!(read.criticality(), Criticality::SheddablePlus);
        }
        assert_eq!(read(&[(header::DEADLINE_MS, "18446744073709551615")]).left(), MAX);
        assert_eq!(read(&[(header::ATTEMPT, "4000000000")]).attempt().unwrap().get(), ATTEMPT_LIMIT);
        assert_eq!(read(&[(header::ATTEMPT, "0")]).attempt(), None);
        let both = read(&[(header::DEADLINE_MS, "250"), (header::GRPC_TIMEOUT, "1S")]);
        assert_eq!(both.left(), Duration::from_millis(250));
        assert_eq!(read(&[(header::GRPC_TIMEOUT, "1S")]).left(), Duration::from_secs(1));
    }

    #[tokio::test]
    async fn an_extension_goes_before_the_task_and_the_task_before_nothing() {
        let mut request = Request::new(());
        assert_eq!(Context::of(&request).criticality(), Criticality::Critical);
        let task = Context::new().with_criticality(Criticality::Sheddable);
        task.scope(async {
            assert_eq!(Context::of(&request).criticality(), Criticality::Sheddable);
            request.extensions_mut().insert(Context::new().with_criticality(Criticality::CriticalPlus));
            assert_eq!(Context::of(&request).criticality(), Criticality::CriticalPlus);
        })
        .await;
        assert!(Context::current().is_none());
    }

    #[test]
    fn what_is_said_of_retries_reaches_every_copy() {
        let incoming = read(&[]);
        let outgoing = incoming.clone().with_attempt(2);
        assert!(!incoming.retry_forbidden());
        outgoing.forbid_retry();
        assert!(incoming.retry_forbidden());
        let nobodys = Context::new();
        nobodys.forbid_retry();
        assert!(!nobodys.retry_forbidden());
    }

    #[tokio::test(start_paused = true)]
    async fn grpc_is_told_in_its_own_words_and_never_more_than_it_asked_for() {
        let context = Context::new().with_deadline(Deadline::within(Clock::now(), Duration::from_secs(2)));
        for (asked, told) in [(None, "2000000u"), (Some("500m"), "500000u"), (Some("1H"), "2000000u")] {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("application/grpc+proto"));
            if let Some(asked) = asked {
                headers.insert(header::GRPC_TIMEOUT, HeaderValue::from_static(asked));
            }
            context.write(&mut headers, Duration::ZERO).unwrap();
            assert_eq!(headers[header::GRPC_TIMEOUT], told);
        }
    }

    proptest! {
        #[test]
        fn each_hop_is_told_less_than_the_one_before(left in 0u64..100_000, margin in 0u64..1_000, hops in 1..6u32) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let mut told = Duration::from_millis(left);
                for _ in 0..hops {
                    let context = Context::new().with_deadline(Deadline::within(Clock::now(), told));
                    let mut headers = HeaderMap::new();
                    match context.write(&mut headers, Duration::from_millis(margin)) {
                        Err(Expired) => { prop_assert!(told <= Duration::from_millis(margin)); break }
                        Ok(()) => {
                            let next = Context::from_headers(&headers, Duration::MAX, Criticality::Critical).left();
                            prop_assert_eq!(next + Duration::from_millis(margin), told);
                            told = next;
                        }
                    }
                }
                Ok(())
            })?;
        }
    }
}
