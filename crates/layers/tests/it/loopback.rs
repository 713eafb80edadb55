//! Everything together over axum and hyper, on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::{get, post};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use layers::client::{
    Balance, BalanceParams, BreakerLayer, DeadlineLayer, DirectLayer, Discover, HedgeLayer, PropagateLayer,
    ReplayBody, ReplayLayer, RetryLayer, Target, ThrottleLayer, retry_budget,
};
use layers::policy::attempts::RetryPolicyParams;
use layers::policy::budget::{RetryBudget, RetryBudgetParams};
use layers::server::{self, AdmissionLayer, BulkheadLayer, ContextLayer, LameDuck, LoadReportLayer};
use layers::{BoxError, ByteSize, CallError, header};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceBuilder, ServiceExt};

use crate::support::{Count, rich, serve};

type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, CallError>;

fn hyper() -> Client<HttpConnector, ReplayBody<Body>> {
    Client::builder(TokioExecutor::new()).build(HttpConnector::new())
}

fn client(addresses: &[SocketAddr]) -> (Stack, Balance<impl Clone + use<>>) {
    paying(addresses, rich())
}

/// Every client layer, in the order that the crate recommends.
fn paying(addresses: &[SocketAddr], budget: Arc<RetryBudget>) -> (Stack, Balance<impl Clone + use<>>) {
    let names: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let discover = Discover::fixed(names.iter().map(String::as_str)).unwrap();
    let hyper = hyper();
    let balance = Balance::new(&BalanceParams::default(), discover, move |target: &Target| {
        ServiceBuilder::new().layer(DirectLayer::http(target).unwrap()).service(hyper.clone())
    });
    let balance = balance.unwrap();
    let stack = ServiceBuilder::new()
        .map_response(|answer: Response<_>| answer.map(Body::new))
        .layer(DeadlineLayer::new(Duration::from_secs(20)))
        .layer(ReplayLayer::new(ByteSize::kib(64)))
        .layer(RetryLayer::new(&RetryPolicyParams::default(), budget.clone()).unwrap())
        .layer(HedgeLayer::new(&Default::default(), budget).unwrap())
        .layer(BreakerLayer::new(&Default::default()).unwrap())
        .layer(ThrottleLayer::new(&Default::default()).unwrap())
        .layer(PropagateLayer::new())
        .service(balance.clone());
    (BoxCloneSyncService::new(stack), balance)
}

/// Every server layer, in the order that the crate recommends.
fn served(router: Router, duck: &LameDuck) -> Router {
    router.layer(
        ServiceBuilder::new()
            .layer(duck.layer())
            .layer(LoadReportLayer::new())
            .layer(ContextLayer::new())
            .layer(server::DeadlineLayer::new())
            .layer(AdmissionLayer::new(&Default::default()).unwrap())
            .layer(BulkheadLayer::new(&Default::default()).unwrap()),
    )
}

async fn send(
    client: &mut Stack,
    request: Request<Body>,
) -> Result<(StatusCode, HeaderMap, String), CallError> {
    let (head, body) = client.ready().await?.call(request).await?.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    Ok((head.status, head.headers, String::from_utf8(body.to_vec()).unwrap()))
}

fn to(path: &str) -> Request<Body> {
    Request::get(path).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn nested_calls_inherit_deadline_class_and_attempt() {
    let duck = LameDuck::new();
    let told = |headers: HeaderMap| async move {
        let said = |name| headers.get(name).map_or("-", |value: &http::HeaderValue| value.to_str().unwrap());
        format!("{} {} {}", said(header::DEADLINE_MS), said(header::CRITICALITY), said(header::ATTEMPT))
    };
    let bottom = serve(served(Router::new().route("/", get(told)), &duck)).await;
    let (nested, _) = client(&[bottom]);
    let handler = move || {
        let mut nested = nested.clone();
        // The call knows nothing of the request that it is made for, but for the task that it is made in.
        async move { send(&mut nested, to("/")).await.map_err(|error| error.to_string()).map(|(_, _, body)| body) }
    };
    let top = serve(served(Router::new().route("/", get(handler)), &duck)).await;
    let (mut outer, _) = client(&[top]);
    let mut request = to("/");
    let context = layers::Context::new()
        .with_deadline(layers::Deadline::within(layers::Clock::now(), Duration::from_secs(15)))
        .with_criticality(layers::Criticality::SheddablePlus)
        .with_attempt(2);
    request.extensions_mut().insert(context);
    let (status, _, body) = send(&mut outer, request).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let said: Vec<&str> = body.split(' ').collect();
    let left: u64 = said[0].parse().unwrap();
    assert!(left > 0 && left <= 15_000 - 4, "{left} ms left, less a margin at each of two hops");
    assert_eq!(said[1..], ["SHEDDABLE_PLUS", "2"]);
}

#[tokio::test]
async fn a_body_is_sent_again_to_another_endpoint() {
    let seen = Count::default();
    let failing = {
        let seen = seen.clone();
        move |body: String| async move {
            assert_eq!(body, "the whole body");
            seen.one();
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    let bad = serve(Router::new().route("/", post(failing.clone()).put(failing))).await;
    let good = serve(Router::new().route("/", axum::routing::put(|body: String| async { body }))).await;
    let (mut client, balance) = client(&[bad, good]);
    for _ in 0..20 {
        let put = Request::put("/").body(Body::from("the whole body")).unwrap();
        let (status, _, body) = send(&mut client, put).await.unwrap();
        assert_eq!((status.as_u16(), body.as_str()), (200, "the whole body"));
    }
    assert!(seen.get() > 0, "the failing one was never tried first");
    assert!(balance.endpoints().iter().all(|endpoint| endpoint.active() == 0));
    let twice = Request::post("/").body(Body::from("the whole body")).unwrap();
    let (status, _, _) = send(&mut client, twice).await.unwrap();
    assert!([503, 405].contains(&status.as_u16()), "a POST is not repeated");
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_passed_by_and_its_load_is_heard() {
    let duck = LameDuck::new();
    let there = serve(served(Router::new().route("/", get(|| async { "here" })), &duck)).await;
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let (mut client, balance) = client(&[gone, there]);
    for _ in 0..20 {
        assert_eq!(send(&mut client, to("/")).await.unwrap().2, "here");
    }
    let endpoints = balance.endpoints();
    let (_, report) = endpoints[1].report().unwrap();
    assert_eq!(report.requests_in_flight, Some(1));
    assert!(endpoints[0].report().is_none());
}

#[tokio::test]
async fn a_lame_duck_is_left_without_a_failed_request() {
    let ducks = [LameDuck::new(), LameDuck::new()];
    let mut addresses = Vec::new();
    for (index, duck) in ducks.iter().enumerate() {
        let router = Router::new().route("/", get(move || async move { index.to_string() }));
        addresses.push(serve(served(router, duck)).await);
    }
    let (mut client, _) = client(&addresses);
    ducks[0].enter();
    let mut last = 0;
    for request in 0..50 {
        let (status, headers, body) = send(&mut client, to("/")).await.unwrap();
        assert_eq!(status, 200);
        if body == "0" {
            assert_eq!(headers[header::LAME_DUCK], "1");
            last += 1;
            assert_eq!(last, 1, "asked again in request {request}");
        }
    }
}

#[tokio::test]
async fn what_has_expired_is_refused_over_the_wire() {
    let duck = LameDuck::new();
    let address = serve(served(Router::new().route("/", get(|| async { "late" })), &duck)).await;
    let plain: Client<_, Body> = Client::builder(TokioExecutor::new()).build(HttpConnector::new());
    let request = Request::get(format!("http://{address}/")).header("seawall-deadline-ms", "0");
    let answer = plain.request(request.body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(answer.status(), 504);
    assert_eq!(answer.headers()[header::REASON], "deadline_exceeded");
    assert_eq!(answer.headers()[header::RETRY], "never");
}

#[tokio::test]
async fn trap_5_a_total_outage_is_not_multiplied_over_the_wire() {
    // No floor, so that the bound does not depend on how long the test takes.
    let budget = || retry_budget(&RetryBudgetParams { floor_per_sec: 0, ..RetryBudgetParams::default() });
    let calls = Count::default();
    let count = calls.clone();
    let failing = move || {
        count.one();
        async { StatusCode::BAD_GATEWAY }
    };
    let dependency = serve(Router::new().route("/", get(failing))).await;
    let (nested, _) = paying(&[dependency], budget());
    let handler = move || {
        let mut nested = nested.clone();
        async move { send(&mut nested, to("/")).await.map_or(StatusCode::BAD_GATEWAY, |(status, ..)| status) }
    };
    let service = serve(served(Router::new().route("/", get(handler)), &LameDuck::new())).await;
    let (mut caller, _) = paying(&[service], budget());
    for _ in 0..300 {
        // Breakers and throttles end some of the calls sooner.
        let answered = send(&mut caller, to("/")).await.map(|(status, ..)| status.as_u16());
        assert!(!matches!(answered, Ok(200)));
    }
    assert!((1..=360).contains(&calls.get()), "{} calls for 300 requests", calls.get());
}

/// What is handed between tasks and kept in shared state must allow it.
#[test]
fn stacks_are_clone_send_and_sync() {
    fn check<S: Clone + Send + Sync + 'static>(_: &S) {}
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let _runtime = runtime.enter();
    let (stack, balance) = client(&["127.0.0.1:1".parse().unwrap()]);
    check(&stack);
    check(&balance);
    check(&LameDuck::new().layer());
    fn error<E: Into<BoxError> + Send + Sync + 'static>() {}
    error::<CallError>();
}
