//! A client that calls a service of three endpoints, one of which fails, through all client layers. It serves the
//! endpoints itself on loopback, prints where its calls ended, and ends.
//!
//! `cargo run -p layers --example client`

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use layers::client::{
    Balance, BalanceParams, BreakerLayer, DeadlineLayer, DirectLayer, HedgeLayer, PropagateLayer, RetryLayer,
    Target, ThrottleLayer, discovered, retry_budget,
};
use layers::policy::attempts::RetryPolicyParams;
use layers::policy::breaker::BreakerParams;
use layers::policy::budget::RetryBudgetParams;
use layers::policy::hedge::HedgeParams;
use layers::policy::throttle::ThrottleParams;
use layers::{BoxError, Context, Criticality};
use tower::{Service, ServiceBuilder, ServiceExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let mut targets = Vec::new();
    for name in ["one", "two", "broken"] {
        targets.push(Target::new(&endpoint(name).await?));
    }

    // Discovery publishes each set that it finds: from DNS, a file, a registry.
    let (publisher, discover) = discovered();
    publisher.publish(targets)?;

    let hyper = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let balance = Balance::new(&BalanceParams::default(), discover, move |target| {
        let direct = DirectLayer::http(target).expect("the endpoints are named host:port");
        ServiceBuilder::new().layer(direct).service(hyper.clone())
    })?;

    // Retries and hedges of calls to one service spend one budget.
    let budget = retry_budget(&RetryBudgetParams { floor_per_sec: 20, ..RetryBudgetParams::default() });
    let mut client = ServiceBuilder::new()
        // From the outside in; the crate's documentation says why in this order.
        .layer(DeadlineLayer::new(Duration::from_secs(2)))
        .layer(RetryLayer::new(&RetryPolicyParams::default(), budget.clone())?)
        .layer(HedgeLayer::new(&HedgeParams::default(), budget)?)
        .layer(BreakerLayer::new(&BreakerParams::default())?)
        .layer(ThrottleLayer::new(&ThrottleParams::default())?)
        .layer(PropagateLayer::new())
        .service(balance.clone());

    let mut answers = BTreeMap::new();
    for _ in 0..50 {
        let mut request = Request::get("/").body(Full::default())?;
        request.extensions_mut().insert(Context::new().with_criticality(Criticality::SheddablePlus));
        let answer = client.ready().await?.call(request).await;
        let said = match answer {
            Ok(answer) if answer.status().is_success() => {
                String::from_utf8(answer.into_body().collect().await?.to_bytes().to_vec())?
            }
            Ok(answer) => answer.status().to_string(),
            Err(error) => error.to_string(),
        };
        *answers.entry(said).or_insert(0) += 1;
    }
    println!("answers to 50 calls: {answers:?}");
    for endpoint in balance.endpoints() {
        let totals = endpoint.totals();
        println!("{}: {} good, {} failed", endpoint.name(), totals.successes, totals.failures);
    }
    Ok(())
}

/// Serves an endpoint that says its name, or fails if it is called so; answers its address.
async fn endpoint(name: &'static str) -> Result<String, BoxError> {
    let handler =
        move || async move { if name == "broken" { Err(StatusCode::BAD_GATEWAY) } else { Ok(name) } };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = Router::new().route("/", get(handler));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address.to_string())
}
