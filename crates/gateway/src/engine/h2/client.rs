//! Connections to endpoints, shared by all requests of a worker: each request is a stream.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::hash::BuildHasherDefault;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, ResponseFuture, SendRequest};
use http::uri::Scheme;
use model::Instant;
use tokio::sync::Notify;

use super::body::{Inbound, Outbound};
use super::keep_alive::KeepAlive;
use super::meter::Meter;
use super::wire::{Watch, Wire};
use super::{head, io_error};
use crate::codec::{Body, FieldStorage, Framing, Limits, Method, Parsed, parse_request};
use crate::config;
use crate::engine::pool::IdHasher;
use crate::engine::stream::{OpenError, Stream};
use crate::engine::wheel::Alarm;
use crate::engine::worker::Worker;
use crate::tls::Security;

/// A connection of HTTP/2 to an endpoint.
struct Link {
    sender: RefCell<SendRequest<Bytes>>,
    /// As what it was opened.
    security: Security,
    /// Requests under way, and how many there may be whatever the endpoint allows.
    active: Cell<usize>,
    active_max: usize,
    /// It takes no more requests.
    gone: Cell<bool>,
    /// Since when nothing is under way, as far as the sweeper knows.
    idle_since: Cell<Option<Instant>>,
    keep: Duration,
}

impl Link {
    fn scheme(&self) -> &'static Scheme {
        match self.security {
            Security::Plain => &Scheme::HTTP,
            _ => &Scheme::HTTPS,
        }
    }

    /// Whether it can take another request now.
    fn has_room(&self) -> bool {
        if self.gone.get() {
            return false;
        }
        let mut sender = self.sender.borrow_mut();
        match sender.poll_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => self.active.get() < self.active_max.min(sender.current_max_send_streams()),
            Poll::Ready(Err(_)) => {
                self.gone.set(true);
                false
            }
            Poll::Pending => false,
        }
    }
}

/// A request's place on a link.
struct Place(Rc<Link>);

impl Place {
    fn on(link: &Rc<Link>) -> Self {
        link.active.set(link.active.get() + 1);
        link.idle_since.set(None);
        Self(Rc::clone(link))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
    }
}

/// A connection that is being opened, for everybody who waits for it.
#[derive(Default)]
struct Opening {
    failed: Cell<Option<io::ErrorKind>>,
    done: Cell<bool>,
    told: Notify,
}

#[derive(Default)]
struct Ways {
    links: Vec<Rc<Link>>,
    opening: Option<Rc<Opening>>,
}

/// A worker's links, by target.
#[derive(Default)]
pub(crate) struct Links {
    targets: RefCell<HashMap<u64, Ways, BuildHasherDefault<IdHasher>>>,
}

/// How a link is opened.
pub(crate) struct LinkParams {
    pub(crate) security: Security,
    pub(crate) http2: config::UpstreamHttp2,
    /// How long opening may take.
    pub(crate) connect_timeout: Duration,
    /// How long it is kept with nothing under way.
    pub(crate) keep: Duration,
    /// Largest head of an answer.
    pub(crate) head_max: usize,
}

impl Links {
    /// A place on a link to `target` that was opened as `security` says and has room.
    pub(crate) fn take(&self, target: u64, security: &Security) -> Option<Stream> {
        let mut targets = self.targets.borrow_mut();
        let ways = targets.get_mut(&target)?;
        ways.links.retain(|link| !link.gone.get());
        let link = ways.links.iter().find(|link| link.security.same(security) && link.has_room())?;
        Some(Stream::Asking(Box::new(Asking::new(Place::on(link)))))
    }

    /// A place on a link to `target`, which `connect` opens if there is none with room. Many may ask at once: they share
    /// what is opened, however long the one who asked first has patience.
    ///
    /// # Errors
    /// The connection could not be opened, or the endpoint does not speak HTTP/2.
    pub(crate) async fn open<C: Future<Output = Result<Stream, OpenError>> + 'static>(
        worker: &Rc<Worker>,
        target: u64,
        params: LinkParams,
        connect: impl FnOnce() -> C,
    ) -> Result<Stream, OpenError> {
        let security = params.security.clone();
        let mut begin = Some((params, connect));
        loop {
            if let Some(stream) = worker.links.take(target, &security) {
                return Ok(stream);
            }
            let known = worker.links.targets.borrow().get(&target).and_then(|ways| ways.opening.clone());
            let opening = match (known, begin.take()) {
                (Some(opening), unused) => {
                    begin = unused;
                    opening
                }
                (None, Some((params, connect))) => {
                    let opening = Rc::new(Opening::default());
                    let mut targets = worker.links.targets.borrow_mut();
                    targets.entry(target).or_default().opening = Some(Rc::clone(&opening));
                    let (worker, told) = (Rc::clone(worker), Rc::clone(&opening));
                    tokio::task::spawn_local(link(worker, target, params, connect(), told));
                    opening
                }
                // What was opened has no room for one request: it is of no use.
                (None, None) => return Err(OpenError::Connect(io::ErrorKind::ConnectionRefused.into())),
            };
            let mut told = pin!(opening.told.notified());
            while !opening.done.get() {
                told.as_mut().await;
                told.set(opening.told.notified());
            }
            if let Some(kind) = opening.failed.get() {
                return Err(OpenError::Connect(kind.into()));
            }
        }
    }

    /// Closes what has been idle for too long. Answers how many idle.
    pub(crate) fn sweep(&self, now: Instant) -> usize {
        let mut targets = self.targets.borrow_mut();
        let mut idle = 0;
        targets.retain(|_, ways| {
            ways.links.retain(|link| {
                if link.active.get() > 0 {
                    return !link.gone.get();
                }
                let since = link.idle_since.get().unwrap_or(now);
                link.idle_since.set(Some(since));
                let kept = !link.gone.get() && now.since(since) < link.keep;
                idle += usize::from(kept);
                kept
            });
            !ways.links.is_empty() || ways.opening.is_some()
        });
        idle
    }

    /// Closes whatever idles: file descriptors are needed elsewhere.
    pub(crate) fn clear(&self) -> usize {
        let mut closed = 0;
        for ways in self.targets.borrow_mut().values_mut() {
            ways.links.retain(|link| link.active.get() > 0);
            closed += 1;
        }
        closed
    }
}

/// Opens a link, tells who waits for it, and drives it to its end.
async fn link(
    worker: Rc<Worker>,
    target: u64,
    params: LinkParams,
    connect: impl Future<Output = Result<Stream, OpenError>>,
    opening: Rc<Opening>,
) {
    let alarm = Alarm::new();
    let watch = Watch::new(Meter::new(params.http2.credit, worker.now()));
    let begun = tokio::time::timeout(params.connect_timeout, begin(&worker, &params, connect, &watch)).await;
    let begun = begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let told = |link: Option<Rc<Link>>| {
        let mut targets = worker.links.targets.borrow_mut();
        let ways = targets.entry(target).or_default();
        ways.opening = None;
        ways.links.extend(link);
        opening.done.set(true);
        opening.told.notify_waiters();
    };
    let (sender, mut connection) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            opening.failed.set(Some(error.kind()));
            return told(None);
        }
    };
    let link = Rc::new(Link {
        sender: RefCell::new(sender),
        security: params.security,
        active: Cell::new(0),
        active_max: params.http2.streams_max as usize,
        gone: Cell::new(false),
        idle_since: Cell::new(None),
        keep: params.keep,
    });
    // Weak, so that the connection ends when nobody has a use for it.
    let known = Rc::downgrade(&link);
    told(Some(link));
    let http2 = &params.http2;
    let mut keep_alive = KeepAlive::new(http2.ping_interval, http2.ping_timeout, connection.ping_pong());
    poll_fn(|cx| {
        alarm.wake_me(cx.waker());
        if Pin::new(&mut connection).poll(cx).is_ready() || watch.flood.get().is_some() {
            return Poll::Ready(());
        }
        let now = if alarm.rung() { worker.tell_time() } else { worker.now() };
        let waiting = known.upgrade().is_some_and(|link| link.active.get() > 0);
        let Some(ping) = keep_alive.poll(cx, now, watch.heard.take(), waiting) else {
            return Poll::Ready(());
        };
        worker.wheel.set(&alarm, ping);
        Poll::Pending
    })
    .await;
    alarm.off();
    if let Some(link) = known.upgrade() {
        link.gone.set(true);
    }
}

/// Opens a connection and waits for the endpoint's settings, so that its limit of streams is known before it is used.
async fn begin(
    worker: &Rc<Worker>,
    params: &LinkParams,
    connect: impl Future<Output = Result<Stream, OpenError>>,
    watch: &Rc<Watch>,
) -> io::Result<(SendRequest<Bytes>, Connection<Wire, Bytes>)> {
    let stream = connect.await.map_err(OpenError::into_inner)?;
    let http2 = &params.http2;
    let wire = Wire::to_endpoint(worker, stream, watch);
    let mut builder = h2::client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(http2.stream_window.as_len() as u32)
        .initial_connection_window_size(http2.connection_window.as_len() as u32)
        .max_header_list_size(params.head_max as u32)
        .max_send_buffer_size(http2.stream_window.as_len());
    let shaken = builder.handshake::<_, Bytes>(wire).await;
    let (sender, mut connection) = shaken.map_err(|error| io_error(&error))?;
    poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(_) => Poll::Ready(Err(io::Error::from(io::ErrorKind::InvalidData))),
        Poll::Pending if watch.heard.get() => Poll::Ready(Ok(())),
        Poll::Pending => Poll::Pending,
    })
    .await?;
    Ok((sender, connection))
}

/// One request to an endpoint, and its answer, as a connection of HTTP/1.1 that carries nothing else.
pub(crate) struct Asking {
    place: Place,
    state: State,
}

enum State {
    /// The head of the request has not come.
    Head,
    Sent {
        out: Outbound,
        response: Option<ResponseFuture>,
        inbound: Inbound,
        to_head: bool,
    },
    Failed(io::ErrorKind),
}

impl Asking {
    fn new(place: Place) -> Self {
        Self { place, state: State::Head }
    }

    /// Takes bytes of the request. Its head comes whole, as it is written at once.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let used = match &mut self.state {
            State::Sent { out, .. } => return out.poll_write(cx, bytes),
            State::Failed(kind) => return Poll::Ready(Err((*kind).into())),
            State::Head => {
                let mut sender = self.place.0.sender.borrow().clone();
                let begun = match ready!(sender.poll_ready(cx)) {
                    Ok(()) => ask(&mut sender, self.place.0.scheme(), bytes),
                    // Nothing has been sent.
                    Err(_) => Err(io::ErrorKind::ConnectionRefused.into()),
                };
                match begun {
                    Ok((used, state)) => {
                        self.state = state;
                        used
                    }
                    Err(error) => {
                        self.state = State::Failed(error.kind());
                        return Poll::Ready(Err(error));
                    }
                }
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
        match &mut self.state {
            State::Sent { out, .. } => out.poll_flush(cx),
            State::Head | State::Failed(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads the answer. Moves what is left of the request as well, because nobody else may come by for it.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let State::Sent { out, response, inbound, to_head } = &mut self.state else {
            return match self.state {
                State::Failed(kind) => Poll::Ready(Err(kind.into())),
                // Whoever writes the head is woken when it can go out.
                _ => Poll::Pending,
            };
        };
        // An endpoint may answer a request that it does not want to hear out.
        let _ = out.poll_flush(cx);
        while let Some(coming) = response {
            match coming.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) => {
                    let (parts, ()) = interim.into_parts();
                    head::write_response(&parts, false, false, inbound.more_lines());
                    continue;
                }
                Poll::Ready(_) => {}
                Poll::Pending if inbound.has_lines() => break,
                Poll::Pending => return Poll::Pending,
            }
            match Pin::new(coming).poll(cx) {
                Poll::Ready(Ok(answer)) => {
                    let (parts, recv) = answer.into_parts();
                    let has_body = !recv.is_end_stream();
                    let chunked = head::write_response(&parts, has_body, *to_head, inbound.more_lines());
                    inbound.follow(has_body.then_some(recv), chunked);
                    *response = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(io_error(&error))),
                Poll::Pending => return Poll::Pending,
            }
        }
        inbound.poll_read(cx, into)
    }
}

/// Sends the head at the beginning of `bytes`, which was written here. Answers how long it was, and the way on.
fn ask(sender: &mut SendRequest<Bytes>, scheme: &Scheme, bytes: &[u8]) -> io::Result<(usize, State)> {
    let limits = Limits { head_bytes: usize::MAX, fields_max: usize::MAX, ..Limits::default() };
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let mut storage = FieldStorage::new();
    let Ok(Parsed::Complete(head)) = parse_request(bytes, &mut storage, &limits) else {
        return Err(invalid());
    };
    let request = head::request(&head, scheme).map_err(|_| invalid())?;
    let last = matches!(head.framing, Framing::None | Framing::Length(0));
    let (response, send) = sender.send_request(request, last).map_err(|error| io_error(&error))?;
    let out =
        if last { Outbound::ended(send) } else { Outbound::new(send, Body::new(head.framing, &limits)) };
    let state = State::Sent {
        out,
        response: Some(response),
        inbound: Inbound::new(Vec::with_capacity(512), None, false),
        to_head: head.method == Method::Head,
    };
    Ok((head.len, state))
}
