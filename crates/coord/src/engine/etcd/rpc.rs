//! As much gRPC as etcd's interface needs: one HTTP/2 connection, unary calls, and calls whose answers go on.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use prost::Message;
use tokio::net::TcpStream;

use crate::config::Member;

/// Bytes of one message; etcd refuses requests above 1.5 MiB itself, and a listing may be long.
const MESSAGE_MAX: usize = 256 << 20;

/// A connection to one member. Cheap to clone; every clone carries any number of calls at once.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    send: SendRequest<Bytes>,
    host: String,
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CallError {
    /// No connection, or it was lost before the request was on its way: nothing happened.
    NotSent(String),
    /// The request was on its way.
    Broken(String),
    /// The member answered no: its code and what it said.
    Status(u32, String),
}

impl Connection {
    pub(super) async fn open(member: &Member, patience: Duration) -> Result<Self, CallError> {
        let failed = |problem: String| CallError::NotSent(format!("{member}: {problem}"));
        let connect = async {
            let stream = TcpStream::connect((member.host.as_str(), member.port))
                .await
                .map_err(|problem| failed(problem.to_string()))?;
            stream.set_nodelay(true).map_err(|problem| failed(problem.to_string()))?;
            let (send, connection) = h2::client::Builder::new()
                .initial_window_size(4 << 20)
                .initial_connection_window_size(16 << 20)
                .handshake(stream)
                .await
                .map_err(|problem| failed(problem.to_string()))?;
            // Ends when the last clone of `send` and every call is gone, or with the connection.
            tokio::spawn(async move { drop(connection.await) });
            Ok(Self { send, host: member.to_string() })
        };
        let late = || failed(format!("no connection within {}", model::Span::from(patience)));
        tokio::time::timeout(patience, connect).await.unwrap_or_else(|_| Err(late()))
    }

    /// Asks once and reads one answer.
    pub(super) async fn unary<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
    ) -> Result<A, CallError> {
        let (mut asking, mut answers) = self.call(path).await?;
        asking.send_data(framed(request), true).map_err(|problem| self.not_sent(&problem))?;
        answers.next().await?.ok_or_else(|| CallError::Broken(format!("{}: an empty answer", self.host)))
    }

    /// Begins a call that goes on both ways.
    pub(super) async fn stream<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        first: &Q,
    ) -> Result<(Asking, Answers<A>), CallError> {
        let (asking, answers) = self.call(path).await?;
        let mut asking = Asking { stream: asking };
        asking.send(first).map_err(|problem| CallError::NotSent(format!("{}: {problem}", self.host)))?;
        Ok((asking, answers))
    }

    async fn call<A>(&self, path: &str) -> Result<(SendStream<Bytes>, Answers<A>), CallError> {
        let request = Request::post(format!("http://{}{path}", self.host))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // A member that knows of no leader says so at once, and ends calls that go on.
            .header("hasleader", "true")
            .body(())
            .map_err(|problem| CallError::NotSent(problem.to_string()))?;
        let mut ready = self.send.clone().ready().await.map_err(|problem| self.not_sent(&problem))?;
        let (answer, asking) =
            ready.send_request(request, false).map_err(|problem| self.not_sent(&problem))?;
        let state = State::Waiting(answer);
        Ok((
            asking,
            Answers {
                host: self.host.clone(),
                state,
                buffer: BytesMut::new(),
                kind: std::marker::PhantomData,
            },
        ))
    }

    fn not_sent(&self, problem: &h2::Error) -> CallError {
        CallError::NotSent(format!("{}: {problem}", self.host))
    }
}

/// The sending half of a call that goes on.
#[derive(Debug)]
pub(super) struct Asking {
    stream: SendStream<Bytes>,
}

impl Asking {
    pub(super) fn send(&mut self, request: &impl Message) -> Result<(), h2::Error> {
        self.stream.send_data(framed(request), false)
    }
}

/// The answers of a call.
#[derive(Debug)]
pub(super) struct Answers<A> {
    host: String,
    state: State,
    buffer: BytesMut,
    kind: std::marker::PhantomData<fn() -> A>,
}

#[derive(Debug)]
enum State {
    Waiting(h2::client::ResponseFuture),
    Reading(RecvStream),
    Over,
}

impl<A: Message + Default> Answers<A> {
    /// The next answer; none at the end. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<A>, CallError> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            match &mut self.state {
                State::Over => return Ok(None),
                State::Waiting(answer) => {
                    let answer = answer.await.map_err(|problem| broken(&self.host, &problem))?;
                    if answer.status() != 200 {
                        let status = answer.status();
                        return Err(CallError::Broken(format!("{}: HTTP status {status}", self.host)));
                    }
                    // Without a body the status is in the head.
                    refuse_bad_status(&self.host, answer.headers())?;
                    self.state = State::Reading(answer.into_body());
                }
                State::Reading(body) => match body.data().await {
                    Some(data) => {
                        let data = data.map_err(|problem| broken(&self.host, &problem))?;
                        // Fails only when the stream has ended, which the next read tells.
                        let _ = body.flow_control().release_capacity(data.len());
                        self.buffer.extend_from_slice(&data);
                    }
                    None => {
                        let trailers =
                            body.trailers().await.map_err(|problem| broken(&self.host, &problem))?;
                        refuse_bad_status(&self.host, &trailers.unwrap_or_default())?;
                        self.state = State::Over;
                    }
                },
            }
        }
    }

    fn take_message(&mut self) -> Result<Option<A>, CallError> {
        if self.buffer.len() < 5 {
            return Ok(None);
        }
        let length = (&self.buffer[1..5]).get_u32() as usize;
        if self.buffer[0] != 0 || length > MESSAGE_MAX {
            return Err(CallError::Broken(format!("{}: not an answer of etcd", self.host)));
        }
        if self.buffer.len() < 5 + length {
            return Ok(None);
        }
        self.buffer.advance(5);
        let message = self.buffer.split_to(length);
        A::decode(message)
            .map(Some)
            .map_err(|problem| CallError::Broken(format!("{}: unreadable: {problem}", self.host)))
    }
}

fn broken(host: &str, problem: &h2::Error) -> CallError {
    CallError::Broken(format!("{host}: {problem}"))
}

fn refuse_bad_status(host: &str, headers: &HeaderMap) -> Result<(), CallError> {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    match text("grpc-status").map(str::parse) {
        None | Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => Err(CallError::Status(
            code,
            format!("{host}: {}", text("grpc-message").unwrap_or("no reason given")),
        )),
        Some(Err(_)) => Err(CallError::Broken(format!("{host}: a status that is no number"))),
    }
}

/// A message with its gRPC head: not compressed, its length.
fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}
