//! Places that a request holds while it is under way, its answer's body included.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::signals::Signals;

/// Something that a request holds. Let go by dropping it, however the request ends.
pub(crate) trait Hold {
    /// The head of the answer is there.
    fn on_head(&mut self, _signals: &Signals) {}

    /// The answer's body broke off.
    fn on_broken(&mut self) {}
}

pin_project! {
    /// An answer's body that holds `H` until it has ended or is dropped: the request is under way as long.
    #[derive(Debug)]
    pub struct Held<B, H> {
        #[pin]
        body: B,
        hold: Option<H>,
    }
}

impl<B: Body, H> Held<B, H> {
    /// A body without anything left to send lets go at once.
    pub(crate) fn new(body: B, hold: H) -> Self {
        let hold = (!body.is_end_stream()).then_some(hold);
        Self { body, hold }
    }
}

/// An empty body that holds nothing, for refusals.
impl<B: Default, H> Default for Held<B, H> {
    fn default() -> Self {
        Self { body: B::default(), hold: None }
    }
}

impl<B: Body, H: Hold> Body for Held<B, H> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let (Some(Err(_)), Some(hold)) = (&frame, this.hold.as_mut()) {
            hold.on_broken();
        }
        // Whoever reads to the stated length never asks for the end.
        if !matches!(frame, Some(Ok(_))) || this.body.is_end_stream() {
            *this.hold = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

type Holding<R, H, E> = Result<Response<Held<R, H>>, E>;

pin_project! {
    /// The answer to a request that holds something, or had to wait for it, or was refused.
    #[must_use = "futures do nothing unless polled"]
    pub struct HoldFuture<F, R, H, E> {
        #[pin]
        state: State<F, R, H, E>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, R, H, E> {
        Refused { result: Option<Holding<R, H, E>> },
        Called { #[pin] call: F, hold: Option<H> },
        Waiting { rest: Pin<Box<dyn Future<Output = Holding<R, H, E>> + Send>> },
    }
}

impl<F, R, H, E> std::fmt::Debug for HoldFuture<F, R, H, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match self.state {
            State::Refused { .. } => "refused",
            State::Called { .. } => "called",
            State::Waiting { .. } => "waiting",
        };
        f.debug_struct("HoldFuture").field("state", &state).finish_non_exhaustive()
    }
}

impl<F, R, H, E> HoldFuture<F, R, H, E> {
    pub(crate) fn refused(result: Holding<R, H, E>) -> Self {
        Self { state: State::Refused { result: Some(result) } }
    }

    pub(crate) fn called(call: F, hold: H) -> Self {
        Self { state: State::Called { call, hold: Some(hold) } }
    }

    pub(crate) fn waiting(rest: impl Future<Output = Holding<R, H, E>> + Send + 'static) -> Self {
        Self { state: State::Waiting { rest: Box::pin(rest) } }
    }
}

impl<F, R, H, E> Future for HoldFuture<F, R, H, E>
where
    F: Future<Output = Result<Response<R>, E>>,
    R: Body,
    H: Hold,
{
    type Output = Holding<R, H, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Refused { result } => Poll::Ready(result.take().expect("polled again after its end")),
            StateProj::Waiting { rest } => rest.as_mut().poll(cx),
            StateProj::Called { call, hold } => {
                let result = ready!(call.poll(cx));
                let mut hold = hold.take().expect("polled again after its end");
                Poll::Ready(result.map(|answer| {
                    hold.on_head(&Signals::read(&answer));
                    answer.map(|body| Held::new(body, hold))
                }))
            }
        }
    }
}
