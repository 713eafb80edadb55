//! The futures of the client layers that make one call.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use crate::signals::Signals;
use crate::{BoxError, CallError};

/// Learns how a call ended. Dropped without having been told anything, it was cancelled.
pub(crate) trait Watch {
    /// The head of an answer came.
    fn on_answer(&mut self, _signals: &Signals) {}

    /// No answer came.
    fn on_error(&mut self, _error: &CallError) {}
}

impl Watch for () {}

pin_project! {
    /// The answer to a call, or the refusal to make it; `W` is told how it ended.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct CallFuture<F, W = ()> {
        #[pin]
        state: State<F>,
        watch: Option<W>,
    }
}

pin_project! {
    #[project = StateProj]
    #[derive(Debug)]
    enum State<F> {
        Refused { error: Option<CallError> },
        Called { #[pin] future: F },
    }
}

impl<F, W> CallFuture<F, W> {
    pub(crate) fn refused(error: CallError) -> Self {
        Self { state: State::Refused { error: Some(error) }, watch: None }
    }

    pub(crate) fn called(future: F, watch: W) -> Self {
        Self { state: State::Called { future }, watch: Some(watch) }
    }
}

impl<F, W, R, E> Future for CallFuture<F, W>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    W: Watch,
{
    type Output = Result<Response<R>, CallError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let result = match this.state.project() {
            StateProj::Refused { error } => {
                return Poll::Ready(Err(error.take().expect("polled again after its end")));
            }
            StateProj::Called { future } => ready!(future.poll(cx)).map_err(CallError::of),
        };
        if let Some(mut watch) = this.watch.take() {
            match &result {
                Ok(answer) => watch.on_answer(&Signals::read(answer)),
                Err(error) => watch.on_error(error),
            }
        }
        Poll::Ready(result)
    }
}
