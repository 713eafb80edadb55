//! Services to lay layers over.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use layers::policy::budget::RetryBudgetParams;
use layers::policy::{attempts::RetryPolicyParams, budget::RetryBudget};
use layers::{BoxError, client};
use tower::Service;
use tower::util::BoxCloneSyncService;

pub(crate) type Body = Full<Bytes>;
pub(crate) type Boxed<E> = BoxCloneSyncService<Request<Body>, Response<Body>, E>;

/// What came to a service.
#[derive(Clone, Default)]
pub(crate) struct Count(Arc<AtomicU32>);

impl Count {
    pub(crate) fn one(&self) -> u32 {
        self.0.fetch_add(1, SeqCst) + 1
    }

    pub(crate) fn get(&self) -> u32 {
        self.0.load(SeqCst)
    }
}

/// A service that counts its calls and answers what `answer` says to each, by its number from 1 on.
pub(crate) fn service(
    count: &Count,
    answer: impl Fn(u32, &Request<Body>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> Boxed<Infallible> {
    let count = count.clone();
    BoxCloneSyncService::new(tower::service_fn(move |request: Request<Body>| {
        let answer = answer(count.one(), &request);
        async move { Ok(answer) }
    }))
}

/// A service that fails before it answers.
pub(crate) fn broken(
    count: &Count,
    error: impl Fn() -> BoxError + Clone + Send + Sync + 'static,
) -> Boxed<BoxError> {
    let count = count.clone();
    BoxCloneSyncService::new(tower::service_fn(move |_: Request<Body>| {
        count.one();
        let error = error();
        async move { Err(error) }
    }))
}

pub(crate) fn status(status: u16) -> Response<Body> {
    Response::builder().status(status).body(Body::default()).unwrap()
}

pub(crate) fn get(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::default()).unwrap()
}

pub(crate) fn post(uri: &str, body: &'static str) -> Request<Body> {
    Request::post(uri).body(Body::from(body)).unwrap()
}

/// A budget that pays for everything.
pub(crate) fn rich() -> Arc<RetryBudget> {
    let params = RetryBudgetParams { floor_per_sec: 1_000, ..RetryBudgetParams::default() };
    client::retry_budget(&params)
}

pub(crate) fn retries(params: &RetryPolicyParams) -> client::RetryLayer {
    client::RetryLayer::new(params, rich()).unwrap()
}

/// One call, ready or not.
pub(crate) async fn call<S, B>(service: &mut S, request: Request<B>) -> Result<S::Response, S::Error>
where
    S: Service<Request<B>>,
{
    std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
    service.call(request).await
}

/// Serves a router on loopback for as long as the test's runtime lives.
pub(crate) async fn serve(router: axum::Router) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}
