//! Commands and watches over HTTP: how other processes of the machine use the engine that one of them keeps.
//!
//! * `POST /api/coord` with a [`Command`] as JSON answers a [`Reply`](crate::command::Reply), or a [`Failure`] with status 400, 409, 410 or 503.
//! * `GET /api/coord/changes?prefix=…&history=…&revision=…` answers a line of JSON for each batch of changes, an empty batch
//!   every second while there are none, and a last line `{"failure": …}` when the watch ends.
//!
//! On a Unix socket the file's permissions say who may ask. On a TCP address every request needs the token.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body::Frame;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::command::{Command, Position, Refusal, VALUE_MAX};
use crate::coord::Coord;
use crate::engine::{Changes, Failure};

/// Bytes of a request: a value, escaped, and what is around it.
const BODY_MAX: usize = 8 * VALUE_MAX;
/// How often a watch without changes says that it is there.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

/// Which changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    #[serde(default)]
    prefix: String,
    history: u64,
    revision: u64,
}

/// The routes. With a `token`, requests without `Authorization: Bearer TOKEN` are refused; none is for Unix sockets only.
pub fn routes(coord: Coord, token: Option<String>) -> Router {
    let routes = Router::new()
        .route("/api/coord", post(command))
        .route("/api/coord/changes", get(changes))
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .with_state(coord);
    match token {
        Some(token) => {
            routes.layer(middleware::from_fn(move |request: Request, next: Next| {
                let allowed = carries(request.headers(), &token);
                async move {
                    if allowed { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
                }
            }))
        }
        None => routes,
    }
}

/// Compares all of it whatever differs, so that the time taken tells nothing.
fn carries(headers: &HeaderMap, token: &str) -> bool {
    let given = headers.get(header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let given = given.strip_prefix(b"Bearer ").unwrap_or_default();
    given.len() == token.len()
        && given.iter().zip(token.as_bytes()).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

async fn command(State(coord): State<Coord>, body: Bytes) -> Response {
    let answer = match serde_json::from_slice::<Command>(&body) {
        Ok(command) => coord.engine().call(command).await,
        Err(problem) => Err(Refusal::Invalid { problem: format!("not a command: {problem}") }.into()),
    };
    match answer {
        Ok(reply) => axum::Json(reply).into_response(),
        Err(failure) => refuse(&failure),
    }
}

async fn changes(State(coord): State<Coord>, Query(from): Query<From>) -> Response {
    let position = Position { history: from.history, revision: from.revision };
    match coord.engine().changes(from.prefix, position).await {
        Ok(changes) => {
            let (sender, receiver) = mpsc::channel(16);
            tokio::spawn(tell(changes, sender));
            let json_lines = [(header::CONTENT_TYPE, "application/x-ndjson")];
            (json_lines, Body::new(Lines { receiver })).into_response()
        }
        Err(failure) => refuse(&failure),
    }
}

fn refuse(failure: &Failure) -> Response {
    let status = match failure {
        Failure::Refused(Refusal::Invalid { .. }) => StatusCode::BAD_REQUEST,
        Failure::Refused(_) => StatusCode::CONFLICT,
        Failure::Behind { .. } => StatusCode::GONE,
        Failure::Unreachable { .. } | Failure::Unanswered { .. } | Failure::NoQuorum { .. } => {
            StatusCode::SERVICE_UNAVAILABLE
        }
    };
    (status, axum::Json(failure)).into_response()
}

async fn tell(mut changes: Changes, sender: mpsc::Sender<Bytes>) {
    loop {
        let line = match tokio::time::timeout(BEAT, changes.next()).await {
            Err(_) => "[]\n".to_owned(),
            Ok(Ok(events)) => serde_json::to_string(&events).expect("events are plain text") + "\n",
            Ok(Err(failure)) => {
                let last = serde_json::json!({ "failure": failure }).to_string() + "\n";
                // Whoever watched may have gone.
                let _ = sender.send(last.into()).await;
                return;
            }
        };
        if sender.send(line.into()).await.is_err() {
            return;
        }
    }
}

/// Lines as a body.
struct Lines {
    receiver: mpsc::Receiver<Bytes>,
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.receiver.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
