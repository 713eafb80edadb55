//! The registry and ids over HTTP, on the admin address.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use coord::registry::{Record, ServiceStatus};
use coord::{TTL_MAX, TTL_MIN};
use model::Span;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::agents::AgentError;
use crate::app::Shared;

/// Longest wait for news.
const WATCH_MAX: Duration = Duration::from_secs(60);
/// Ids in one answer.
pub(super) const IDS_MAX: u32 = 100_000;

/// What an instance says of itself, and how long that holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    pub(super) address: std::net::SocketAddr,
    #[serde(default = "weight_default")]
    pub(super) weight: u32,
    #[serde(default)]
    pub(super) zone: Option<String>,
    #[serde(default)]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) lame_duck: bool,
    #[serde(default = "ttl_default")]
    pub(super) ttl: Span,
}

fn weight_default() -> u32 {
    1
}

fn ttl_default() -> Span {
    Span::from_secs(10)
}

/// The registry at one moment.
#[derive(Debug, Serialize)]
struct Listing {
    /// Counts up with every change: give it to `/api/registry/watch?after=` to wait for the next one.
    version: u64,
    /// Why what is listed may be out of date, while it may be.
    trouble: Option<String>,
    services: Vec<ServiceStatus>,
}

pub(crate) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/api/registry", get(list))
        .route("/api/registry/watch", get(watch))
        .route("/api/registry/{service}/release", post(release))
        .route("/api/registry/{service}/{instance}", put(register).delete(deregister))
        .route("/api/id", get(id))
}

fn refusal(status: StatusCode, message: impl std::fmt::Display) -> Response {
    (status, Json(json!({ "error": message.to_string() }))).into_response()
}

/// Why the request may not change anything. It may when only this machine reaches the admin address, and when no web page
/// can have sent it: browsers send `Origin` along, and no page may send a header of its own choice elsewhere without asking.
fn forbidden(shared: &Shared, headers: &HeaderMap) -> Option<Response> {
    if !shared.admin_is_local() {
        let why =
            "registrations are taken on a loopback admin address only; this one is reached from elsewhere";
        return Some(refusal(StatusCode::FORBIDDEN, why));
    }
    if headers.contains_key(header::ORIGIN) || !headers.contains_key("seawall-client") {
        let why = "send the header `seawall-client: 1`, and no `origin`: web pages may not register anything";
        return Some(refusal(StatusCode::FORBIDDEN, why));
    }
    None
}

fn listing(shared: &Shared) -> Listing {
    let directory = shared.fleet().directory();
    Listing {
        version: *directory.version().borrow(),
        trouble: directory.trouble().map(|trouble| trouble.to_string()),
        services: directory.list(),
    }
}

async fn list(State(shared): State<Arc<Shared>>) -> Response {
    Json(listing(&shared)).into_response()
}

#[derive(Deserialize)]
struct After {
    after: u64,
    #[serde(default)]
    wait: Option<Span>,
}

/// The registry as soon as its version is not `after` any more, or as it is after `wait`.
async fn watch(State(shared): State<Arc<Shared>>, Query(After { after, wait }): Query<After>) -> Response {
    let mut version = shared.fleet().directory().version();
    let wait = wait.map_or(WATCH_MAX, Span::get).min(WATCH_MAX);
    // After this process restarted its versions begin anew: a number that it has not reached is old, too.
    let _ = tokio::time::timeout(wait, version.wait_for(|now| *now != after)).await;
    Json(listing(&shared)).into_response()
}

async fn register(
    State(shared): State<Arc<Shared>>,
    Path((service, instance)): Path<(String, String)>,
    headers: HeaderMap,
    Json(registration): Json<Registration>,
) -> Response {
    if let Some(refused) = forbidden(&shared, &headers) {
        return refused;
    }
    let Some(coord) = shared.fleet().coord.get() else { return no_registry() };
    let Registration { address, weight, zone, version, lame_duck, ttl } = registration;
    if !(TTL_MIN..=TTL_MAX).contains(&ttl.get()) {
        let (min, max) = (Span::from(TTL_MIN), Span::from(TTL_MAX));
        return refusal(StatusCode::BAD_REQUEST, format!("`ttl` is between {min} and {max}, not {ttl}"));
    }
    let record = Record { address, weight, zone, version, lame_duck };
    match shared.fleet().agents.hear(coord, &service, &instance, record, ttl.get()) {
        Ok(trouble) => Json(json!({ "ttl": ttl, "trouble": trouble })).into_response(),
        Err(problem @ AgentError::Invalid(_)) => refusal(StatusCode::BAD_REQUEST, problem),
        Err(problem @ AgentError::Full) => refusal(StatusCode::SERVICE_UNAVAILABLE, problem),
    }
}

async fn deregister(
    State(shared): State<Arc<Shared>>,
    Path((service, instance)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = forbidden(&shared, &headers) {
        return refused;
    }
    shared.fleet().agents.leave(&service, &instance).await;
    StatusCode::NO_CONTENT.into_response()
}

async fn release(
    State(shared): State<Arc<Shared>>,
    Path(service): Path<String>,
    headers: HeaderMap,
) -> Response {
    if let Some(refused) = forbidden(&shared, &headers) {
        return refused;
    }
    Json(json!({ "released": shared.fleet().directory().release(&service) })).into_response()
}

#[derive(Deserialize)]
struct Count {
    #[serde(default = "count_default")]
    count: u32,
}

fn count_default() -> u32 {
    1
}

/// Ids as text: most languages read JSON numbers of that size wrongly.
async fn id(State(shared): State<Arc<Shared>>, Query(Count { count }): Query<Count>) -> Response {
    if !(1..=IDS_MAX).contains(&count) {
        return refusal(StatusCode::BAD_REQUEST, format!("`count` is between 1 and {IDS_MAX}, not {count}"));
    }
    let fleet = shared.fleet();
    if fleet.config.ids.is_none() {
        return refusal(
            StatusCode::NOT_FOUND,
            "this process gives out no ids: add `ids: {}` to its configuration",
        );
    }
    match fleet.ids.try_batch(count) {
        Ok(batch) => {
            Json(json!({ "ids": batch.map(|id| id.to_string()).collect::<Vec<_>>() })).into_response()
        }
        Err(problem) => {
            let secs = problem.retry_after().as_secs_f64().ceil().max(1.0) as u64;
            let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, problem);
            response.headers_mut().insert(header::RETRY_AFTER, secs.into());
            response
        }
    }
}

fn no_registry() -> Response {
    refusal(StatusCode::NOT_FOUND, "this process keeps no registry: add `registry: {}` to its configuration")
}
