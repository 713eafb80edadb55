//! Bodies that can be sent again.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context as Task, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full};
use model::ByteSize;
use parking_lot::Mutex;
use tower_layer::Layer;
use tower_service::Service;

use crate::BoxError;

/// A body that can be sent more than once. What retries and hedges ask of a request's body.
///
/// Bodies in memory are copied for the cost of a reference. Any other body becomes one in [`ReplayLayer`].
pub trait Replay: Sized {
    /// The body from its beginning; `None` when that is gone.
    fn replay(&self) -> Option<Self>;
}

impl<D: Clone> Replay for Full<D> {
    fn replay(&self) -> Option<Self> {
        Some(self.clone())
    }
}

impl<D> Replay for Empty<D> {
    fn replay(&self) -> Option<Self> {
        Some(Self::default())
    }
}

/// The same request again: its head and extensions are copied.
pub(super) fn replay<B: Replay>(request: &Request<B>) -> Option<Request<B>> {
    let mut copy = Request::new(request.body().replay()?);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

/// Makes any body one that can be sent again, as long as it is no longer than a bound.
///
/// Nothing is read before it is sent. What goes out is kept while somebody may want to send it again; once it is longer
/// than the bound it is let go, and the request is not retried.
#[derive(Clone, Debug)]
pub struct ReplayLayer {
    max: ByteSize,
}

impl ReplayLayer {
    /// Keeps at most `max` of each request; [`RetryPolicyParams::replay_max`](policy::attempts::RetryPolicyParams) says
    /// how much that is where retries are configured.
    #[must_use]
    pub const fn new(max: ByteSize) -> Self {
        Self { max }
    }
}

impl<S> Layer<S> for ReplayLayer {
    type Service = KeepBody<S>;

    fn layer(&self, inner: S) -> KeepBody<S> {
        KeepBody { inner, max: self.max }
    }
}

/// The service of [`ReplayLayer`].
#[derive(Clone, Debug)]
pub struct KeepBody<S> {
    inner: S,
    max: ByteSize,
}

impl<S, B> Service<Request<B>> for KeepBody<S>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> S::Future {
        self.inner.call(request.map(|body| ReplayBody::new(body, self.max)))
    }
}

/// A body that several attempts send, each from its beginning, also at the same time.
#[derive(Debug)]
pub struct ReplayBody<B> {
    shared: Arc<Shared<B>>,
    id: u64,
    /// Chunks that this attempt has sent.
    next: usize,
    sent: u64,
    trailers_sent: bool,
}

#[derive(Debug)]
struct Shared<B> {
    state: Mutex<State<B>>,
    hint: SizeHint,
    empty: bool,
    next_id: AtomicU64,
    max: u64,
}

#[derive(Debug)]
struct State<B> {
    /// Absent after it failed.
    source: Option<B>,
    /// Chunks taken from the source.
    taken: usize,
    /// All of them, unless they were let go.
    kept: Vec<Bytes>,
    kept_len: u64,
    let_go: bool,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Attempts that wait for the source, which itself remembers only the last one.
    waiting: Vec<(u64, Waker)>,
}

impl<B> State<B> {
    fn wake_others(&mut self, id: u64) {
        self.waiting.drain(..).filter(|(waiting, _)| *waiting != id).for_each(|(_, waker)| waker.wake());
    }

    fn let_go(&mut self) {
        self.let_go = true;
        self.kept = Vec::new();
    }
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The body itself failed.
    #[error("the request's body broke off")]
    Source(#[source] BoxError),
    /// Another attempt has read on, and the beginning is gone.
    #[error("the request's body is too long to send it again")]
    LetGo,
}

impl From<Infallible> for ReplayError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl<B: Body> ReplayBody<B> {
    /// `body`, of which at most `max` is kept.
    pub fn new(body: B, max: ByteSize) -> Self {
        let (hint, empty) = (body.size_hint(), body.is_end_stream());
        let state = State {
            source: Some(body),
            taken: 0,
            kept: Vec::new(),
            kept_len: 0,
            let_go: false,
            trailers: None,
            ended: false,
            waiting: Vec::new(),
        };
        let shared =
            Shared { state: Mutex::new(state), hint, empty, next_id: AtomicU64::new(1), max: max.get() };
        Self { shared: Arc::new(shared), id: 0, next: 0, sent: 0, trailers_sent: false }
    }
}

impl<B> Replay for ReplayBody<B> {
    fn replay(&self) -> Option<Self> {
        let known_too_long = self.shared.hint.lower() > self.shared.max;
        if known_too_long || self.shared.state.lock().let_go {
            return None;
        }
        let id = self.shared.next_id.fetch_add(1, Relaxed);
        Some(Self { shared: Arc::clone(&self.shared), id, next: 0, sent: 0, trailers_sent: false })
    }
}

impl<B> Drop for ReplayBody<B> {
    fn drop(&mut self) {
        // The source may remember this attempt's waker and nobody else's.
        self.shared.state.lock().wake_others(self.id);
    }
}

impl<B> Body for ReplayBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = ReplayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Task<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplayError>>> {
        let shared = Arc::clone(&self.shared);
        let alone = Arc::strong_count(&shared) == 2; // the attempt's, and the one just made
        let mut state = shared.state.lock();
        if self.next < state.taken {
            let Some(chunk) = state.kept.get(self.next).cloned() else {
                return Poll::Ready(Some(Err(ReplayError::LetGo)));
            };
            self.next += 1;
            self.sent += chunk.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if state.ended {
            let trailers = state.trailers.clone().filter(|_| !self.trailers_sent);
            self.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let Some(source) = &mut state.source else {
            return Poll::Ready(Some(Err(ReplayError::LetGo)));
        };
        let polled = Pin::new(source).poll_frame(cx);
        if polled.is_pending() {
            state.waiting.retain(|(id, _)| *id != self.id);
            state.waiting.push((self.id, cx.waker().clone()));
        }
        let frame = ready!(polled);
        state.wake_others(self.id);
        match frame {
            None => {
                state.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                state.source = None;
                state.let_go();
                Poll::Ready(Some(Err(ReplayError::Source(error.into()))))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(mut data) => {
                    let chunk = data.copy_to_bytes(data.remaining());
                    state.taken += 1;
                    self.next += 1;
                    self.sent += chunk.len() as u64;
                    if !state.let_go {
                        state.kept_len += chunk.len() as u64;
                        if alone || state.kept_len > shared.max {
                            state.let_go();
                        } else {
                            state.kept.push(chunk.clone());
                        }
                    }
                    Poll::Ready(Some(Ok(Frame::data(chunk))))
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    state.trailers = Some(trailers.clone());
                    state.ended = true;
                    self.trailers_sent = true;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.shared.empty
    }

    fn size_hint(&self) -> SizeHint {
        let hint = &self.shared.hint;
        let mut left = SizeHint::new();
        left.set_lower(hint.lower().saturating_sub(self.sent));
        if let Some(upper) = hint.upper() {
            left.set_upper(upper.saturating_sub(self.sent).max(left.lower()));
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::atomic::AtomicUsize;

    /// A body of these steps; `None` is a wait that ends at once.
    struct Script(VecDeque<Option<Frame<Bytes>>>);

    impl Body for Script {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Task<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                Some(None) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                None => Poll::Ready(None),
            }
        }
    }

    fn script(chunks: &[Vec<u8>], waits: bool) -> Script {
        let steps = chunks.iter().flat_map(|chunk| {
            let frame = Some(Frame::data(Bytes::from(chunk.clone())));
            if waits { vec![None, frame] } else { vec![frame] }
        });
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        Script(steps.chain([Some(Frame::trailers(trailers))]).collect())
    }

    async fn read(body: ReplayBody<Script>) -> Result<(Vec<u8>, bool), ReplayError> {
        let read = body.collect().await?;
        let trailers = read.trailers().is_some();
        Ok((read.to_bytes().to_vec(), trailers))
    }

    proptest! {
        #[test]
        fn every_attempt_sends_the_same_or_says_that_it_cannot(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..12),
            waits: bool, max in 0u64..200, polls_before in 0..8usize,
        ) {
            let whole: Vec<u8> = chunks.concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (first, second, third) = runtime.block_on(async {
                let keep = ReplayBody::new(script(&chunks, waits), ByteSize::new(max));
                // One attempt is cancelled after some frames, two others race to the end, another one follows.
                let mut cancelled = keep.replay().unwrap();
                for _ in 0..polls_before {
                    let _ = cancelled.frame().await;
                }
                drop(cancelled);
                let (Some(first), Some(second)) = (keep.replay(), keep.replay()) else { return (None, None, None) };
                let (first, second) = tokio::join!(read(first), read(second));
                let third = match keep.replay() { Some(third) => Some(read(third).await), None => None };
                (Some(first), Some(second), third)
            });
            let fits = whole.len() as u64 <= max;
            for attempt in [first, second, third] {
                match attempt {
                    Some(Ok((bytes, trailers))) => prop_assert!(bytes == whole && trailers),
                    Some(Err(error)) => prop_assert!(!fits && matches!(error, ReplayError::LetGo)),
                    None => prop_assert!(!fits),
                }
            }
        }
    }

    #[tokio::test]
    async fn nothing_is_kept_for_a_body_that_nobody_will_send_again() {
        let only = ReplayBody::new(script(&[vec![1; 10]], false), ByteSize::kib(64));
        let shared = Arc::clone(&only.shared);
        drop(shared);
        let mut only = only;
        only.frame().await.unwrap().unwrap();
        assert!(only.shared.state.lock().kept.is_empty());
        assert!(only.replay().is_none());
    }

    #[tokio::test]
    async fn a_length_that_is_known_to_be_too_long_is_never_kept() {
        let long = ReplayBody::new(Full::new(Bytes::from(vec![0; 100])), ByteSize::new(99));
        assert_eq!(long.size_hint().exact(), Some(100));
        assert!(long.replay().is_none());
        let fits = ReplayBody::new(Full::new(Bytes::from(vec![0; 100])), ByteSize::new(100));
        let mut again = fits.replay().unwrap();
        again.frame().await.unwrap().unwrap();
        assert_eq!(again.size_hint().exact(), Some(0));
        assert_eq!(fits.replay().unwrap().size_hint().exact(), Some(100));
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_when_the_one_that_polled_last_goes_away() {
        struct Never;
        impl Body for Never {
            type Data = Bytes;
            type Error = Infallible;
            fn poll_frame(
                self: Pin<&mut Self>,
                _: &mut Task<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
                Poll::Pending
            }
        }
        struct Count(AtomicUsize);
        impl std::task::Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Relaxed);
            }
        }
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut first = ReplayBody::new(Never, ByteSize::kib(1));
        let mut second = first.replay().unwrap();
        assert!(Pin::new(&mut first).poll_frame(&mut Task::from_waker(&waker)).is_pending());
        assert!(Pin::new(&mut second).poll_frame(&mut Task::from_waker(Waker::noop())).is_pending());
        drop(second);
        assert_eq!(woken.0.load(Relaxed), 1);
    }
}
