//! The admin pages: what a browser, Prometheus, an orchestrator and the commands ask.
//!
//! Nothing here changes anything but registrations (see `registry::api`), and no page is readable through a name that a stranger controls (DNS rebinding): the Host
//! of a request must be an address, `localhost` or a configured name. There is no CORS header, so no other site reads it.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use gateway::metrics::Exporter;
use tracing::warn;

use crate::app::Shared;
use crate::{coordination, registry};

mod metrics;
mod page;

/// What a page may load: only what this server sends, and nothing inline.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                                       frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// Says that this process wants no new requests.
const LAME_DUCK: HeaderName = HeaderName::from_static("seawall-lame-duck");

/// Every metric of the process: the gateway's, then what is around it.
pub(crate) fn all_metrics() -> impl Iterator<Item = &'static gateway::metrics::Metric> {
    gateway::metrics::METRICS
        .iter()
        .chain(registry::metrics::METRICS)
        .chain(&coordination::metrics::METRICS)
        .chain(metrics::METRICS)
        .chain(crate::store::metrics::METRICS)
}

/// Serves the pages until it is cancelled.
pub(crate) async fn serve(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    if let Err(problem) = axum::serve(listener, router(shared)).await {
        warn!(%problem, "admin pages ended");
    }
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/fragment", get(fragment))
        .route("/page.css", get(|| async { typed("text/css; charset=utf-8", include_str!("page.css")) }))
        .route("/page.js", get(|| async { typed("text/javascript; charset=utf-8", include_str!("page.js")) }))
        .route("/metrics", get(metrics))
        .route(
            "/api/status",
            get(|State(shared): State<Arc<Shared>>| async move { axum::Json(shared.status()) }),
        )
        .route(
            "/api/config",
            get(|State(shared): State<Arc<Shared>>| async move { axum::Json(shared.shown_config()) }),
        )
        .merge(registry::api::routes())
        .route("/healthz", get(health))
        .route("/readyz", get(health))
        .with_state(Arc::clone(&shared))
        .merge(shared.fleet().admin_routes())
        .layer(middleware::from_fn_with_state(shared, guard))
}

async fn index(State(shared): State<Arc<Shared>>) -> Response {
    typed("text/html; charset=utf-8", page::document(&shared.status()))
}

async fn fragment(State(shared): State<Arc<Shared>>) -> Response {
    typed("text/html; charset=utf-8", page::fragment(&shared.status()))
}

async fn metrics(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = metrics::Format::negotiate(accept);
    let mut out = Exporter::new(format == metrics::Format::OpenMetrics);
    shared.export(&mut out);
    registry::metrics::export(&mut out, shared.fleet());
    if let Some(consensus) = shared.fleet().consensus() {
        coordination::metrics::export(&mut out, &consensus);
    }
    metrics::export(&mut out, shared.config_figures());
    if let Some(keeper) = shared.keeper() {
        crate::store::metrics::export(&mut out, keeper);
    }
    typed(format.content_type(), out.finish())
}

/// Healthy and ready while it serves; a lame duck says that it is one, so that balancers in front turn away.
async fn health(State(shared): State<Arc<Shared>>) -> Response {
    match shared.phase() {
        "serving" => typed("text/plain; charset=utf-8", "ok\n"),
        phase => {
            let lame_duck = [(LAME_DUCK, HeaderValue::from_static("1"))];
            (StatusCode::SERVICE_UNAVAILABLE, lame_duck, format!("{phase}\n")).into_response()
        }
    }
}

fn typed(content_type: &'static str, body: impl Into<String>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body.into()).into_response()
}

async fn guard(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(axum::http::uri::Authority::as_str));
    let mut response = if host.is_some_and(|host| is_ours(host, &shared.admin_hosts())) {
        next.run(request).await
    } else {
        let message = "This name is not known here. Ask by address or as localhost, or add the name to `admin.hosts`.\n";
        (StatusCode::MISDIRECTED_REQUEST, message).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a Host header names this server in a way that no stranger's DNS could have made.
fn is_ours(host: &str, names: &[String]) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    let address = match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().map(IpAddr::V6).ok(),
        None => name.parse::<std::net::Ipv4Addr>().map(IpAddr::V4).ok(),
    };
    address.is_some()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|known| known.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_addresses_localhost_and_configured_names_are_ours() {
        let names = ["seawall.internal".to_owned()];
        for ours in [
            "127.0.0.1:9901",
            "10.1.2.3",
            "[::1]:9901",
            "[::1]",
            "localhost:9901",
            "LOCALHOST",
            "Seawall.internal:1",
        ] {
            assert!(is_ours(ours, &names), "{ours}");
        }
        for stranger in [
            "evil.example",
            "evil.example:9901",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            ":9901",
            "localhost:x",
            "::1",
            "[evil]",
            "127.0.0.1:9901:1",
        ] {
            assert!(!is_ours(stranger, &names), "{stranger}");
        }
    }
}
