//! A server that protects itself: axum under the server layers. It serves itself on loopback, shows what it answers to
//! whom, leaves as a lame duck, and ends.
//!
//! `cargo run -p layers --example server`

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use http::Request;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use layers::policy::admission::AdmissionParams;
use layers::policy::bulkhead::BulkheadParams;
use layers::server::{AdmissionLayer, BulkheadLayer, ContextLayer, DeadlineLayer, LameDuck, LoadReportLayer};
use layers::{BoxError, Context};
use tower::ServiceBuilder;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let duck = LameDuck::new();
    let report_bulkhead = BulkheadParams { active_max: 10, ..BulkheadParams::default() };

    let app = Router::new()
        .route("/", get(hello))
        // One expensive route cannot take everything.
        .route("/report", get(|| async { "a report" }).layer(BulkheadLayer::new(&report_bulkhead)?))
        .layer(
            // From the outside in.
            ServiceBuilder::new()
                .layer(duck.layer())
                .layer(LoadReportLayer::new())
                .layer(ContextLayer::new())
                .layer(AdmissionLayer::new(&AdmissionParams::default())?)
                .layer(DeadlineLayer::new()),
        )
        // Outside of the layers: a health check is not refused for load.
        .route(
            "/health",
            get({
                let duck = duck.clone();
                || async move { duck.health::<Body>() }
            }),
        );

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let stop = {
        let duck = duck.clone();
        async move {
            duck.entered().await;
            // Callers notice at once here; with health checks every few seconds, wait for two of them.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let server = tokio::spawn(async move { axum::serve(listener, app).with_graceful_shutdown(stop).await });

    let client = Client::builder(TokioExecutor::new()).build_http();
    let ask = |path: &str, header: Option<(&str, &str)>| {
        let mut request = Request::get(format!("http://{address}{path}"));
        if let Some((name, value)) = header {
            request = request.header(name, value);
        }
        let call = client.request(request.body(Body::empty()).expect("a valid request"));
        let path = path.to_owned();
        async move {
            let answer = call.await?;
            println!("{path} -> {}", answer.status());
            let ours = ["seawall-", "endpoint-load-metrics", "connection"];
            for (name, value) in answer.headers() {
                if ours.iter().any(|prefix| name.as_str().starts_with(prefix)) {
                    println!("    {name}: {}", value.to_str().unwrap_or("?"));
                }
            }
            Ok::<(), BoxError>(())
        }
    };

    ask("/", Some(("seawall-criticality", "SHEDDABLE"))).await?;
    ask("/report", None).await?;
    println!("nobody waits for this one any more:");
    ask("/", Some(("seawall-deadline-ms", "0"))).await?;
    ask("/health", None).await?;
    println!("leaving:");
    duck.enter();
    ask("/", None).await?;
    ask("/health", None).await?;
    server.await??;
    Ok(())
}

async fn hello() -> String {
    let context = Context::current().unwrap_or_default();
    format!("hello, {} request", context.criticality())
}
