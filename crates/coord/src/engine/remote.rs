//! The engine that another process of this machine keeps, asked over its Unix socket (see [`crate::http`]).

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use model::Span;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::{Answer, Changes, Engine, Failure};
use crate::command::{Command, Event, Position, Reply};
use crate::http::BEAT;

/// Bytes of an answer, or of one line of a watch.
const ANSWER_MAX: usize = 256 << 20;
/// Batches that a watcher may be behind.
const WATCHER_MAX: usize = 64;

/// Another process's engine.
#[derive(Debug)]
pub struct Remote {
    socket: PathBuf,
    timeout: Duration,
}

impl Remote {
    /// The engine of whoever serves at `socket`, which is asked when there is something to ask.
    #[must_use]
    pub fn new(socket: &Path, timeout: Duration) -> Self {
        Self { socket: socket.to_path_buf(), timeout }
    }

    fn unreachable(&self, problem: &dyn std::fmt::Display) -> Failure {
        let socket = self.socket.display();
        Failure::Unreachable {
            problem: format!("no Seawall serves `{socket}` ({problem}); is `seawall up` running there?"),
        }
    }

    /// Sends a request on a connection of its own.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<http::Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|problem| self.unreachable(&problem))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|problem| self.unreachable(&problem))?;
        // Ends with the answer's body or with its reader.
        tokio::spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_err(|problem| unanswered(&problem))
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Failure> {
        let answer = self.send(request).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect();
        let body = body.await.map_err(|problem| unanswered(&problem))?;
        Ok((status, body.to_bytes()))
    }

    async fn obey(&self, command: Command) -> Result<Reply, Failure> {
        let body = serde_json::to_vec(&command).expect("commands are plain text");
        let request = Request::post("/api/coord")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a request of constants");
        let late = || unanswered(&format!("none within {}", Span::from(self.timeout)));
        let (status, body) =
            tokio::time::timeout(self.timeout, self.ask(request)).await.unwrap_or_else(|_| Err(late()))?;
        if status == StatusCode::OK {
            return serde_json::from_slice(&body).map_err(|problem| unanswered(&problem));
        }
        Err(failure_of(status, &body))
    }

    async fn follow(&self, prefix: &str, from: Position) -> Result<Changes, Failure> {
        let prefix: String = prefix.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let target =
            format!("/api/coord/changes?prefix={prefix}&history={}&revision={}", from.history, from.revision);
        let request = Request::get(target).header("host", "localhost").body(Full::default());
        let request = request.expect("a request of constants and numbers");
        let late = || unanswered(&format!("none within {}", Span::from(self.timeout)));
        let answer =
            tokio::time::timeout(self.timeout, self.send(request)).await.unwrap_or_else(|_| Err(late()))?;
        if answer.status() != StatusCode::OK {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX).collect();
            let body = body.await.map_err(|problem| unanswered(&problem))?;
            return Err(failure_of(status, &body.to_bytes()));
        }
        let (sender, receiver) = mpsc::channel(WATCHER_MAX);
        tokio::spawn(forward(answer.into_body(), sender));
        Ok(Changes { receiver })
    }
}

impl Engine for Remote {
    fn name(&self) -> String {
        format!("seawall at {}", self.socket.display())
    }

    fn call(&self, command: Command) -> Answer<'_, Reply> {
        Box::pin(self.obey(command))
    }

    fn changes(&self, prefix: String, from: Position) -> Answer<'_, Changes> {
        Box::pin(async move { self.follow(&prefix, from).await })
    }
}

fn unanswered(problem: &dyn std::fmt::Display) -> Failure {
    Failure::Unanswered { problem: problem.to_string() }
}

fn failure_of(status: StatusCode, body: &[u8]) -> Failure {
    serde_json::from_slice(body).unwrap_or_else(|_| unanswered(&format!("HTTP status {status}")))
}

/// A line of a watch.
#[derive(serde::Deserialize)]
struct Last {
    failure: Failure,
}

async fn forward(mut body: Incoming, sender: mpsc::Sender<Result<Vec<Event>, Failure>>) {
    let mut buffer = BytesMut::new();
    let failure = loop {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let events = match serde_json::from_slice::<Vec<Event>>(&line) {
                Ok(events) if events.is_empty() => continue,
                Ok(events) => Ok(events),
                Err(problem) => Err(serde_json::from_slice::<Last>(&line)
                    .map_or_else(|_| unanswered(&problem), |last| last.failure)),
            };
            let over = events.is_err();
            if sender.send(events).await.is_err() || over {
                return;
            }
        }
        let frame = tokio::select! {
            () = sender.closed() => return,
            frame = tokio::time::timeout(3 * BEAT, body.frame()) => frame,
        };
        match frame {
            Ok(Some(Ok(frame))) => buffer.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Ok(Some(Err(problem))) => break problem.to_string(),
            Ok(None) => break "it ended the watch".to_owned(),
            Err(_) => break "it has fallen silent".to_owned(),
        }
        if buffer.len() > ANSWER_MAX {
            break "a line without end".to_owned();
        }
    };
    // Whoever watched may have gone.
    let _ = sender.send(Err(Failure::Unreachable { problem: failure })).await;
}
