//! Connections from clients: each stream takes the road by itself.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use model::Instant;

use super::body::{Inbound, Outbound};
use super::keep_alive::KeepAlive;
use super::meter::Meter;
use super::wire::{Watch, Wire};
use super::{head, io_error};
use crate::codec::{Body, FieldStorage, Framing, Limits, Method, Parsed, ResponseHead, parse_response};
use crate::engine::conn::Conn;
use crate::engine::slots::Slots;
use crate::engine::stream::Stream;
use crate::engine::wheel::Alarm;
use crate::engine::worker::Worker;
use crate::road::Next;

/// How long a client that was told to go may take to acknowledge it.
const GOODBYE: Duration = Duration::from_secs(2);

/// One request of a client, and the answer to it, as a connection of HTTP/1.1 that carries nothing else.
pub(crate) struct Asked {
    inbound: Inbound,
    method: Method,
    reply: Reply,
    /// Its end is not to be taken for the end of a whole answer.
    broken_off: bool,
}

enum Reply {
    /// The head of the answer has not come.
    Head(SendResponse<Bytes>),
    Body(Outbound),
}

impl Asked {
    fn new(request: Request<RecvStream>, respond: SendResponse<Bytes>) -> Self {
        let (parts, recv) = request.into_parts();
        let has_body = !recv.is_end_stream();
        let mut lines = Vec::with_capacity(512);
        let chunked = head::write_request(&parts, has_body, &mut lines);
        Self {
            inbound: Inbound::new(lines, has_body.then_some(recv), chunked),
            method: Method::of(parts.method.as_str().as_bytes()),
            reply: Reply::Head(respond),
            broken_off: false,
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.inbound.poll_read(cx, into)
    }

    /// Ready once the client has reset the stream, or its connection is gone.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.reply {
            Reply::Head(respond) => respond.poll_reset(cx).map(|_| ()),
            Reply::Body(out) => out.poll_reset(cx),
        }
    }

    /// Takes bytes of the answer. Heads come whole, as they are written at once.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let used = match &mut self.reply {
            Reply::Body(out) => return out.poll_write(cx, bytes),
            Reply::Head(respond) => {
                let (used, out) = answer(respond, self.method, bytes)?;
                if let Some(out) = out {
                    self.reply = Reply::Body(out);
                }
                used
            }
        };
        if used == bytes.len() {
            return Poll::Ready(Ok(used));
        }
        match self.poll_write(cx, &bytes[used..]) {
            Poll::Ready(Ok(more)) => Poll::Ready(Ok(used + more)),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Ready(Ok(used)),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.reply {
            Reply::Head(_) => Poll::Ready(Ok(())),
            Reply::Body(out) => out.poll_flush(cx),
        }
    }

    pub(crate) fn break_off(&mut self) {
        self.broken_off = true;
    }

    /// Ends the stream; answers whether the client got a whole answer.
    fn close(&mut self) -> bool {
        match &mut self.reply {
            Reply::Head(respond) => {
                respond.send_reset(Reason::INTERNAL_ERROR);
                false
            }
            Reply::Body(out) => {
                if !self.broken_off {
                    out.close();
                }
                let whole = out.over();
                out.reset(Reason::INTERNAL_ERROR);
                whole
            }
        }
    }
}

/// Sends the heads at the beginning of `bytes`, which were written here. Answers how long they were, and the way on after the
/// final one.
fn answer(
    respond: &mut SendResponse<Bytes>,
    method: Method,
    bytes: &[u8],
) -> io::Result<(usize, Option<Outbound>)> {
    let limits = Limits { head_bytes: usize::MAX, ..Limits::default() };
    let mut used = 0;
    while used < bytes.len() {
        let mut storage = FieldStorage::new();
        let Ok(Parsed::Complete(head)) = parse_response(&bytes[used..], &mut storage, &limits, method) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        used += head.len;
        let response = head::response(&head).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        if head.is_interim() {
            respond.send_informational(response).map_err(|error| io_error(&error))?;
            continue;
        }
        let last = ends(&head);
        let send = respond.send_response(response, last).map_err(|error| io_error(&error))?;
        let body = Body::new(head.framing, &limits);
        return Ok((used, Some(if last { Outbound::ended(send) } else { Outbound::new(send, body) })));
    }
    Ok((used, None))
}

/// Whether nothing follows the head.
fn ends(head: &ResponseHead<'_, '_>) -> bool {
    matches!(head.framing, Framing::None | Framing::Length(0))
}

/// Serves a connection whose client speaks HTTP/2, until one of both closes it.
pub(crate) async fn serve<F: Future<Output = Next> + 'static>(
    worker: &Rc<Worker>,
    conn: &Rc<Conn>,
    slots: &Rc<Slots<F>>,
    request: impl Fn(Rc<Worker>, Rc<Conn>) -> F + Copy + 'static,
) {
    let listener = &conn.listener.params;
    let params = &listener.http2;
    let watch = Watch::new(Meter::new(params.credit, worker.now()));
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(params.streams_max)
        .initial_window_size(params.stream_window.as_len() as u32)
        .initial_connection_window_size(params.connection_window.as_len() as u32)
        .max_header_list_size(listener.limits.head.as_len() as u32)
        .max_send_buffer_size(params.stream_window.as_len());
    let mut shaking = pin!(builder.handshake::<_, Bytes>(Wire::from_client(worker, conn, &watch)));
    worker.wheel.set(&conn.alarm, worker.tell_time().after(listener.timeouts.head.get()));
    let shaken = poll_fn(|cx| {
        conn.alarm.wake_me(cx.waker());
        match shaking.as_mut().poll(cx) {
            Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
            Poll::Pending if conn.alarm.rung() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    let Some(mut connection) = shaken.await else { return };
    worker.metrics.http2_connections.one();

    let active = Rc::new(Cell::new(0_usize));
    let mut keep_alive = KeepAlive::new(params.ping_interval, params.ping_timeout, connection.ping_pong());
    let mut stage = Stage::Open;
    // When nothing has been going on for too long.
    let mut until = None;
    poll_fn(|cx| {
        conn.alarm.wake_me(cx.waker());
        loop {
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((asked, respond)))) => {
                    conn.requests.set(conn.requests.get() + 1);
                    worker.metrics.http2_streams.one();
                    let active = Active::new(&active, cx);
                    let stream = Stream::Asked(Box::new(Asked::new(asked, respond)));
                    let stream = Rc::new(Conn::of_stream(conn, stream, Alarm::new()));
                    let (worker, slots, watch) = (Rc::clone(worker), Rc::clone(slots), Rc::clone(&watch));
                    tokio::task::spawn_local(async move {
                        slots.run(|| request(worker, Rc::clone(&stream))).await;
                        if let Stream::Asked(asked) = &mut *stream.stream.borrow_mut()
                            && asked.close()
                        {
                            watch.on_answer();
                        }
                        drop(active);
                    });
                    continue;
                }
                Poll::Ready(Some(Err(error))) => {
                    if error.is_go_away() && error.is_library() {
                        worker.metrics.http2_violations.one();
                    }
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            let now = if conn.alarm.rung() { worker.tell_time() } else { worker.now() };
            match (stage, watch.flood.get()) {
                (Stage::Open | Stage::Leaving, Some(flood)) => {
                    worker.metrics.http2_floods[flood as usize].one();
                    connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                    (stage, until) = (Stage::Cut, Some(now.after(GOODBYE)));
                    continue;
                }
                (Stage::Open, None) if worker.draining() || conn.last_request() => {
                    connection.graceful_shutdown();
                    stage = Stage::Leaving;
                    continue;
                }
                _ => {}
            }
            if active.get() > 0 && stage != Stage::Cut {
                until = None;
            } else {
                let patience = if stage == Stage::Open { listener.timeouts.idle.get() } else { GOODBYE };
                if *until.get_or_insert_with(|| now.after(patience)) <= now {
                    if stage != Stage::Open {
                        return Poll::Ready(());
                    }
                    connection.graceful_shutdown();
                    (stage, until) = (Stage::Leaving, None);
                    continue;
                }
            }
            let heard = watch.heard.take();
            let Some(ping) = keep_alive.poll(cx, now, heard, active.get() > 0) else {
                return Poll::Ready(());
            };
            worker.wheel.set(&conn.alarm, until.unwrap_or(Instant::NEVER).min(ping));
            return Poll::Pending;
        }
    })
    .await;
    conn.alarm.off();
}

/// Where a connection is on its way out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Open,
    /// The client has been told; streams under way go on.
    Leaving,
    /// Nothing is read any more.
    Cut,
}

/// A stream under way. Its end is told to the connection's task.
struct Active {
    count: Rc<Cell<usize>>,
    task: std::task::Waker,
}

impl Active {
    fn new(count: &Rc<Cell<usize>>, cx: &Context<'_>) -> Self {
        count.set(count.get() + 1);
        Self { count: Rc::clone(count), task: cx.waker().clone() }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        if self.count.get() == 0 {
            // From now on the connection idles.
            self.task.wake_by_ref();
        }
    }
}
