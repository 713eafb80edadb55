//! Leaving without a failed request.

use std::pin::Pin;
use std::task::{Context as Task, Poll, ready};

use http::{HeaderValue, Request, Response, StatusCode, Version, header as standard};
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tower_layer::Layer;
use tower_service::Service;

use crate::header;

/// Says that this process is about to leave. Clones are one.
///
/// A lame duck still serves whatever comes, but tells everybody to send nothing new: on its answers with
/// `seawall-lame-duck: 1` ([`LameDuck::layer`]), and when asked for its health ([`LameDuck::health`]). So: on SIGTERM
/// enter, wait a few seconds for callers to notice, then finish what is under way and exit.
///
/// ```
/// use layers::server::LameDuck;
///
/// let duck = LameDuck::new();
/// assert_eq!(duck.health::<String>().status(), 200);
/// duck.enter();
/// assert_eq!(duck.health::<String>().headers()["seawall-lame-duck"], "1");
/// ```
#[derive(Clone, Debug)]
pub struct LameDuck {
    entered: watch::Sender<bool>,
}

impl Default for LameDuck {
    fn default() -> Self {
        Self::new()
    }
}

impl LameDuck {
    /// A process that stays.
    #[must_use]
    pub fn new() -> Self {
        Self { entered: watch::Sender::new(false) }
    }

    /// From now on it is a lame duck.
    pub fn enter(&self) {
        self.entered.send_replace(true);
    }

    /// It stays after all.
    pub fn leave(&self) {
        self.entered.send_replace(false);
    }

    /// Whether it is a lame duck.
    #[must_use]
    pub fn is_entered(&self) -> bool {
        *self.entered.borrow()
    }

    /// Waits until it is one; for shutting down what does not hear it from answers.
    pub async fn entered(&self) {
        // The sender is ours, so it is there as long as we wait.
        let _ = self.entered.subscribe().wait_for(|entered| *entered).await;
    }

    /// The answer to a health check: 200, or 503 with `seawall-lame-duck: 1`.
    #[must_use]
    pub fn health<B: Default>(&self) -> Response<B> {
        let mut answer = Response::new(B::default());
        if self.is_entered() {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            mark(&mut answer);
        }
        answer
    }

    /// Marks every answer while it is a lame duck.
    #[must_use]
    pub fn layer(&self) -> LameDuckLayer {
        LameDuckLayer { duck: self.clone() }
    }
}

fn mark<B>(answer: &mut Response<B>) {
    answer.headers_mut().insert(header::LAME_DUCK, HeaderValue::from_static("1"));
}

/// Marks answers with `seawall-lame-duck: 1` while its [`LameDuck`] is one, and asks HTTP/1 callers to close their
/// connections, so that those who keep one open go elsewhere, too.
#[derive(Clone, Debug)]
pub struct LameDuckLayer {
    duck: LameDuck,
}

impl<S> Layer<S> for LameDuckLayer {
    type Service = MarkLameDuck<S>;

    fn layer(&self, inner: S) -> MarkLameDuck<S> {
        MarkLameDuck { inner, duck: self.duck.clone() }
    }
}

/// The service of [`LameDuckLayer`].
#[derive(Clone, Debug)]
pub struct MarkLameDuck<S> {
    inner: S,
    duck: LameDuck,
}

impl<S, B, R> Service<Request<B>> for MarkLameDuck<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = LameDuckFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Task<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let http1 = request.version() < Version::HTTP_2;
        LameDuckFuture { call: self.inner.call(request), duck: self.duck.clone(), http1 }
    }
}

pin_project! {
    /// The answer, marked if need be.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct LameDuckFuture<F> {
        #[pin]
        call: F,
        duck: LameDuck,
        http1: bool,
    }
}

impl<F, R, E> Future for LameDuckFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Task<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.call.poll(cx));
        if let Ok(answer) = &mut result
            && this.duck.is_entered()
        {
            mark(answer);
            if *this.http1 {
                answer.headers_mut().insert(standard::CONNECTION, HeaderValue::from_static("close"));
            }
        }
        Poll::Ready(result)
    }
}
