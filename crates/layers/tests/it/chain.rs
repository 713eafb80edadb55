//! Stacked under the gateway or one another, layers must not multiply retries.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use layers::client::{PropagateLayer, RetryLayer, retry_budget};
use layers::policy::attempts::RetryPolicyParams;
use layers::policy::budget::RetryBudgetParams;
use layers::server::ContextLayer;
use layers::{Clock, Context, header};
use proptest::prelude::*;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};

use crate::support::{Body, Boxed, Count, call, get, service, status};

/// Whoever calls a service.
#[derive(Clone, Copy, Debug)]
enum Caller {
    /// Three attempts out of a budget, counted: the gateway, or this library.
    Gateway,
    /// Three attempts, counted, without any budget. Respects "never".
    WithoutBudget,
    /// Three attempts that it tells nobody of. Respects "never".
    Naive,
}

fn retry() -> RetryLayer {
    RetryLayer::new(&RetryPolicyParams::default(), retry_budget(&RetryBudgetParams::default())).unwrap()
}

/// A service that calls `below` for each request, with retries, and answers 502 when that fails.
fn service_over<E>(below: Boxed<E>) -> Boxed<Infallible>
where
    E: Into<layers::BoxError> + Send + 'static,
{
    let client = ServiceBuilder::new().layer(retry()).layer(PropagateLayer::new()).service(below);
    let handler = tower::service_fn(move |_: Request<Body>| {
        let client = client.clone();
        async move {
            // Nothing of the incoming request is handed on: the call inherits from the task.
            let answered = client.oneshot(get("/")).await;
            Ok(match answered {
                Ok(answer) if answer.status().is_success() => status(200),
                _ => status(502),
            })
        }
    });
    BoxCloneSyncService::new(ServiceBuilder::new().layer(ContextLayer::new()).service(handler))
}

async fn ask(caller: Caller, service: &mut Boxed<Infallible>, gateway: &mut Boxed<layers::CallError>) {
    if matches!(caller, Caller::Gateway) {
        call(gateway, get("/")).await.unwrap();
        return;
    }
    for attempt in 1..=3u32 {
        let mut request = get("/");
        if matches!(caller, Caller::WithoutBudget) {
            request.headers_mut().insert(header::ATTEMPT, attempt.into());
        }
        let answer: Response<Body> = call(service, request).await.unwrap();
        if answer.status().is_success() || answer.headers().contains_key(header::RETRY) {
            break;
        }
    }
}

/// Calls at the bottom of a chain of `depth` services, and what its length in time and requests allows.
async fn outage(caller: Caller, depth: u32, failing: u16, requests: u32) -> (u32, f64) {
    let calls = Count::default();
    let began = Clock::now();
    let mut top = service_over(service(&calls, move |_, _| status(failing)));
    for _ in 1..depth {
        top = service_over(top);
    }
    let layers = ServiceBuilder::new().layer(retry()).layer(PropagateLayer::new());
    let mut gateway = BoxCloneSyncService::new(layers.service(top.clone()));
    for _ in 0..requests {
        tokio::time::advance(Duration::from_millis(10)).await;
        ask(caller, &mut top, &mut gateway).await;
    }
    let secs = Clock::now().since(began).as_secs_f64();
    (calls.get(), 0.1 * f64::from(requests) + secs + 1.0)
}

#[tokio::test(start_paused = true)]
async fn trap_5_a_total_outage_under_a_gateway_of_three_attempts_is_not_multiplied() {
    for caller in [Caller::Gateway, Caller::WithoutBudget, Caller::Naive] {
        for depth in [1, 2] {
            let (calls, _) = outage(caller, depth, 503, 1_000).await;
            assert!(
                (1_000..=1_200).contains(&calls),
                "{caller:?}, {depth} deep: {calls} calls for 1000 requests"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn trap_5_whoever_calls_and_however_it_fails_the_budget_bounds_the_calls(
        caller in prop::sample::select(vec![Caller::Gateway, Caller::WithoutBudget, Caller::Naive]),
        depth in 1..4u32, failing in prop::sample::select(vec![429u16, 500, 502, 503, 504]), requests in 1..200u32,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let (calls, granted) = runtime.unwrap().block_on(outage(caller, depth, failing, requests));
        prop_assert!(f64::from(calls - requests) <= granted, "{calls} calls for {requests} requests");
    }
}

#[tokio::test(start_paused = true)]
async fn never_from_the_bottom_stops_the_whole_chain() {
    let calls = Count::default();
    let bottom = service(&calls, |_, _| {
        let mut answer = status(503);
        answer.headers_mut().insert(header::RETRY, "never".parse().unwrap());
        answer
    });
    let mut top = service_over(service_over(bottom));
    let answer = call(&mut top, get("/")).await.unwrap();
    assert_eq!((answer.status().as_u16(), calls.get()), (502, 1));
    assert_eq!(answer.headers()[header::RETRY], "never");
}

#[tokio::test(start_paused = true)]
async fn a_good_answer_is_never_marked() {
    let calls = Count::default();
    let bottom = service(&calls, |call, _| status(if call <= 2 { 503 } else { 200 }));
    let mut top = service_over(bottom);
    let failed = call(&mut top, get("/")).await.unwrap();
    assert_eq!(
        failed.headers()[header::RETRY],
        "never",
        "what was tried again here is not tried again above"
    );
    let good = call(&mut top, get("/")).await.unwrap();
    assert!(good.status().is_success() && !good.headers().contains_key(header::RETRY));
}

#[tokio::test(start_paused = true)]
async fn the_first_layer_that_counts_owns_retries_unless_told_otherwise() {
    let attempts = |answer: &Request<Body>| answer.headers().get(header::ATTEMPT).cloned();
    for (layer, incoming, expected) in [
        (retry(), None, vec!["1", "2", "3"]),
        (retry(), Some("1"), vec!["1"]),
        (retry(), Some("2"), vec!["2"]),
        (retry().under_a_caller(), Some("2"), vec!["2", "3", "4"]),
    ] {
        let (seen, calls) = (std::sync::Arc::new(std::sync::Mutex::new(Vec::new())), Count::default());
        let log = std::sync::Arc::clone(&seen);
        let below = service(&calls, move |_, request| {
            log.lock().unwrap().push(attempts(request).unwrap().to_str().unwrap().to_owned());
            status(503)
        });
        let mut context = Context::new();
        if let Some(attempt) = incoming {
            context = context.with_attempt(attempt.parse().unwrap());
        }
        // Enough requests and time for the budget to pay for two retries.
        let mut client = ServiceBuilder::new().layer(layer).layer(PropagateLayer::new()).service(below);
        tokio::time::advance(Duration::from_secs(5)).await;
        context.scope(call(&mut client, get("/"))).await.unwrap();
        assert_eq!(*seen.lock().unwrap(), expected, "for an incoming attempt {incoming:?}");
    }
}
