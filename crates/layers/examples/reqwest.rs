//! reqwest under the client layers: two adapters turn its requests and answers into those of the `http` crate. It serves
//! itself on loopback, prints what happened, and ends.
//!
//! `cargo run -p layers --example reqwest`

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use layers::client::{DeadlineLayer, PropagateLayer, ReplayBody, ReplayLayer, RetryLayer, retry_budget};
use layers::policy::attempts::RetryPolicyParams;
use layers::policy::budget::RetryBudgetParams;
use layers::{BoxError, CallError};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let address = flaky().await?;

    let reqwest = reqwest::Client::new();
    let transport = service_fn(move |request: Request<ReplayBody<reqwest::Body>>| {
        let reqwest = reqwest.clone();
        async move {
            let request = request.map(reqwest::Body::wrap);
            let answer = reqwest.execute(request.try_into().map_err(CallError::of)?).await;
            // reqwest knows whether the callee can have seen the request.
            match answer {
                Ok(answer) => Ok(Response::<reqwest::Body>::from(answer)),
                Err(error) if error.is_connect() => Err(CallError::Connect(error.into())),
                Err(error) => Err(CallError::of(error)),
            }
        }
    });

    let params = RetryPolicyParams::default();
    let budget = retry_budget(&RetryBudgetParams { floor_per_sec: 5, ..RetryBudgetParams::default() });
    let mut client = ServiceBuilder::new()
        .layer(DeadlineLayer::new(Duration::from_secs(2)))
        // Any body can be sent again, as long as it is no longer than this.
        .layer(ReplayLayer::new(params.replay_max))
        .layer(RetryLayer::new(&params, budget)?)
        .layer(PropagateLayer::new())
        .service(transport);

    let request = Request::get(format!("http://{address}/")).body(reqwest::Body::from(""))?;
    let answer = client.ready().await?.call(request).await?;
    println!("{}: {:?}", answer.status(), answer.into_body().collect().await?.to_bytes());

    let nowhere = Request::get("http://127.0.0.1:1/").body(reqwest::Body::from(""))?;
    let error = client.ready().await?.call(nowhere).await.expect_err("nobody listens on port 1");
    println!("{error}; {:?}", error.fault());
    Ok(())
}

/// Serves something that fails two of three times; answers its address.
async fn flaky() -> Result<std::net::SocketAddr, BoxError> {
    let calls = Arc::new(AtomicU32::new(0));
    let handler = move |headers: http::HeaderMap| {
        let call = calls.fetch_add(1, Relaxed) + 1;
        async move {
            let attempt = headers["seawall-attempt"].to_str().unwrap_or("?").to_owned();
            if call.is_multiple_of(3) {
                Ok(format!("answer to attempt {attempt}"))
            } else {
                Err(StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(handler))).await });
    Ok(address)
}
