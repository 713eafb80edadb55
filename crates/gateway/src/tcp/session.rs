//! One connection that is passed on as it is.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use model::{Deadline, Instant, Retry, Verdict};
use policy::attempts::{Condition, Decision, Facts, Failure, decide};
use policy::balance::{Balance, HashKey};
use policy::breaker::{CallEnd, Permit};
use tokio::net::TcpStream;

use super::hello::{UNRECOGNIZED_NAME, parse_client_hello};
use super::proxy::{Ends, HEADER_MAX, Header, parse_header, write_header};
use super::{HELLO_MAX, Outcome, ProxyRefused};
use crate::answer::Reason;
use crate::config::ProxyProtocol;
use crate::engine::attempt::Flight;
use crate::engine::classify::address_key;
use crate::engine::conn::Conn;
use crate::engine::relay::{End, Relay, part};
use crate::engine::stream::Stream;
use crate::engine::worker::{Phase, Worker};
use crate::listen::ListenerState;
use crate::metrics::{ClientStage, Ending};
use crate::road::{Served, Tried, pick_any};
use crate::service::NoPlace;
use crate::snapshot::{Local, Seen};

/// An endpoint that ends a connection this soon, before it or the client has said all, has failed it. One that is silent for
/// longer has taken it.
const EARLY: Duration = Duration::from_secs(1);

/// Passes a connection on, from its first byte to its last. `removed` says that its listener is gone and that it has had its
/// time.
pub(crate) async fn session(
    worker: Rc<Worker>,
    stream: TcpStream,
    peer: SocketAddr,
    listener: Arc<ListenerState>,
    removed: Rc<Cell<bool>>,
) {
    // Without it small messages wait for acknowledgements; a failure costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    let started = worker.tell_time();
    let enlisted = worker.enlist();
    let destination = stream.local_addr().unwrap_or(listener.address);
    let mut conn = Conn::new(Stream::Plain(stream), None, peer.ip(), listener, Rc::clone(&enlisted.alarm));
    let mut ends = Ends { source: peer, destination };
    if conn.listener.params.proxy_protocol != ProxyProtocol::Off {
        match receive_header(&worker, &mut conn, peer).await {
            Ok(Some(said)) => ends = said,
            Ok(None) => {}
            Err(()) => {
                conn.listener.figures.tcp[worker.id].end(Outcome::Refused);
                return;
            }
        }
    }
    let mut passage = Passage { worker: &worker, conn: &conn, served: Served::default(), log: None };
    let outcome = match passage.find().await {
        Err(reason) => passage.refused(reason),
        Ok((local, service)) => match passage.connect(&local, service, &ends).await {
            Err(reason) => passage.refused(reason),
            Ok(connected) => Outcome::Relayed(passage.relay(connected, &removed).await),
        },
    };
    passage.observe(outcome, started);
}

/// The PROXY header that a connection begins with, if it does. From then on the client is who it says.
///
/// # Errors
/// The connection is to be closed; it has been counted.
pub(crate) async fn receive_header(
    worker: &Rc<Worker>,
    conn: &mut Conn,
    peer: SocketAddr,
) -> Result<Option<Ends>, ()> {
    let listener = Arc::clone(&conn.listener);
    let params = &listener.params;
    let required = params.proxy_protocol == ProxyProtocol::Required;
    let refuse = |why: ProxyRefused| {
        listener.figures.proxy_refused[why as usize].fetch_add(1, Relaxed);
        Err(())
    };
    if !conn.trusted {
        return if required { refuse(ProxyRefused::Untrusted) } else { Ok(None) };
    }
    let timeout = params.timeouts.head.get();
    let mut header = None;
    let read = read_until(worker, conn, timeout, HEADER_MAX, |bytes| {
        match parse_header(bytes) {
            Ok(Header::Partial) => return false,
            other => header = Some(other),
        }
        true
    })
    .await;
    match (read, header) {
        (Read::Done, Some(Ok(Header::Complete { len, ends }))) => {
            if let Some(carry) = &mut *conn.carry.borrow_mut() {
                carry.consume(len);
            }
            if conn.carry.borrow().as_ref().is_some_and(|carry| carry.is_empty()) {
                conn.carry.take();
            }
            // The proxy's own connections are the proxy's.
            let client = ends.map_or(peer.ip(), |ends| ends.source.ip());
            conn.set_peer(client);
            Ok(ends)
        }
        (Read::Done, Some(Ok(_))) => {
            if required {
                refuse(ProxyRefused::Missing)
            } else {
                Ok(None)
            }
        }
        (Read::Done, _) => refuse(ProxyRefused::Malformed),
        // Silence is no header; who has begun one has to end it.
        (Read::Late, _) if !required && !conn.has_carry() => Ok(None),
        (Read::Late, _) => refuse(ProxyRefused::Timeout),
        (Read::Gone, _) if required => refuse(ProxyRefused::Missing),
        (Read::Gone, _) => Ok(None),
    }
}

/// How reading ahead ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Read {
    Done,
    Late,
    Gone,
}

/// Reads into what the connection carries until `enough` says so; it is asked again after every piece. At most `max` bytes are
/// read, by which time it must have made up its mind.
async fn read_until(
    worker: &Rc<Worker>,
    conn: &Conn,
    timeout: Duration,
    max: usize,
    mut enough: impl FnMut(&[u8]) -> bool,
) -> Read {
    worker.wheel.set(&conn.alarm, worker.tell_time().after(timeout));
    let read = poll_fn(|cx| {
        conn.alarm.wake_me(cx.waker());
        loop {
            let held = conn.carry.borrow().as_ref().map_or(0, |carry| carry.len());
            if held > 0 && enough(conn.carry.borrow().as_ref().map_or(&[][..], |carry| &carry[..])) {
                return Poll::Ready(Read::Done);
            }
            if held >= max {
                return Poll::Ready(Read::Late);
            }
            let scratch = &mut worker.scratch.borrow_mut()[..max - held];
            match conn.poll_read(cx, scratch) {
                Poll::Ready(Ok(count)) if count > 0 => conn.keep(&scratch[..count], &worker.buffers),
                Poll::Ready(_) => return Poll::Ready(Read::Gone),
                Poll::Pending if worker.shared.phase() == Phase::Ending => return Poll::Ready(Read::Gone),
                Poll::Pending if conn.alarm.rung() => return Poll::Ready(Read::Late),
                Poll::Pending => return Poll::Pending,
            }
        }
    })
    .await;
    conn.alarm.off();
    read
}

/// A connection on its way, and what is known of it.
struct Passage<'a> {
    worker: &'a Rc<Worker>,
    conn: &'a Conn,
    served: Served,
    /// The access log's line, once it is begun.
    log: Option<Vec<u8>>,
}

/// A connection that an endpoint has accepted.
struct Connected {
    upstream: Stream,
    flight: Flight,
    relay: Relay,
    idle: Duration,
    /// Its place in the service's bulkhead.
    _place: Place,
}

/// A place in a service's bulkhead, given back when dropped.
struct Place {
    worker: Rc<Worker>,
    view: Rc<Seen>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.view.bulkhead.release(self.worker.id);
    }
}

impl Passage<'_> {
    /// The service that gets the connection.
    async fn find(&mut self) -> Result<(Rc<Local>, usize), Reason> {
        let (worker, conn) = (self.worker, self.conn);
        let local = worker.local();
        // A listener that a reload has just changed is as it was for connections that came before.
        let Some(tcp) = &conn.listener.params.tcp else { return Err(Reason::NoRoute) };
        let server = if tcp.sni.is_empty() { Ok(None) } else { self.server_name().await };
        let service = server.as_ref().ok().and_then(|name| tcp.find(name.as_deref()));
        if worker.shared.access_log.enabled() {
            let name = server.as_ref().ok().and_then(Option::as_deref);
            let mut line = Vec::new();
            crate::access_log::begin_tcp(&mut line, conn.peer, &conn.listener.name, name, service);
            self.log = Some(line);
        }
        server?;
        match service.and_then(|name| local.find(name)) {
            Some(service) => Ok((local, service)),
            None => {
                // In the client's own words, as far as it takes them at once.
                if let Some(socket) = conn.stream.borrow().socket() {
                    let _ = socket.try_write(&UNRECOGNIZED_NAME);
                }
                Err(Reason::NoRoute)
            }
        }
    }

    /// The name in the client's TLS hello, which stays unread for the endpoint.
    async fn server_name(&self) -> Result<Option<String>, Reason> {
        let mut hello = Ok(None);
        let timeout = self.conn.listener.params.timeouts.head.get();
        let read = read_until(self.worker, self.conn, timeout, HELLO_MAX, |bytes| {
            hello = parse_client_hello(bytes);
            hello != Ok(None)
        })
        .await;
        match (read, hello) {
            (Read::Done, Ok(Some(hello))) => Ok(hello.server_name),
            (Read::Done, Err(bad)) => {
                tracing::debug!(rule = bad.name(), client = %self.conn.peer, "no TLS hello");
                Err(Reason::Malformed)
            }
            (Read::Done | Read::Gone, _) => Err(Reason::Malformed),
            (Read::Late, _) => {
                self.worker.metrics.client_timeouts[ClientStage::Head as usize].one();
                Err(Reason::HeadTimeout)
            }
        }
    }

    /// Admits the connection to the service, and finds an endpoint that accepts it.
    async fn connect(&mut self, local: &Rc<Local>, service: usize, ends: &Ends) -> Result<Connected, Reason> {
        let worker = self.worker;
        if worker.buffers.exhausted() {
            return Err(Reason::OutOfBuffers);
        }
        let view = local.view(service);
        let now = worker.tell_time();
        let permit = view.breaker.try_enter(worker.id, now, &mut worker.rng.borrow_mut());
        let permit = permit.map_err(|_| Reason::BreakerOpen)?;
        let found = self.admitted(local, service, &view, ends).await;
        let end = match &found {
            Ok(_) => CallEnd::Success,
            Err(Reason::ConnectFailed) => CallEnd::Failure,
            // Refused here: no news of the service.
            Err(_) => CallEnd::Ignored,
        };
        let done = worker.now();
        view.breaker.on_end(permit, done, end, done.since(now), &mut worker.rng.borrow_mut());
        found
    }

    async fn admitted(
        &mut self,
        local: &Rc<Local>,
        service: usize,
        view: &Rc<Seen>,
        ends: &Ends,
    ) -> Result<Connected, Reason> {
        let (worker, conn) = (self.worker, self.conn);
        let until = || worker.clock.timer(worker.now().after(view.params.bulkhead.wait_max.get()));
        // A client that has closed its sending half may still want an answer, so that nobody can tell who has left.
        let entered = view.bulkhead.enter(worker.id, until, |_| Poll::Pending).await;
        entered.map_err(|_: NoPlace| Reason::BulkheadFull)?;
        let place = Place { worker: Rc::clone(worker), view: Rc::clone(view) };
        view.retry_budget.on_request(worker.id);
        local.snapshot.retry_budget.on_request(worker.id);
        let (upstream, flight) = self.attempts(local, service, view).await?;
        let mut pending = conn.carry.borrow_mut().take();
        if let Some(version) = view.params.proxy_protocol {
            let mut header = worker.buffers.take();
            write_header(version, ends, &mut header);
            header.extend(pending.as_deref().map_or(&[][..], |ahead| ahead.as_slice()));
            pending = Some(header);
        }
        let idle = view.params.timeouts.tunnel.get();
        Ok(Connected { upstream, flight, relay: Relay::new(pending), idle, _place: place })
    }

    /// Asks one endpoint after another, as often as retries and their budgets allow.
    async fn attempts(
        &mut self,
        local: &Rc<Local>,
        service: usize,
        view: &Rc<Seen>,
    ) -> Result<(Stream, Flight), Reason> {
        let (worker, conn) = (self.worker, self.conn);
        let key = match &view.params.balance {
            Balance::RingHash(ring) if ring.key == HashKey::ClientAddress => Some(address_key(conn.peer)),
            Balance::Maglev(maglev) if maglev.key == HashKey::ClientAddress => Some(address_key(conn.peer)),
            _ => None,
        };
        let mut tried = Tried::default();
        loop {
            let now = worker.tell_time();
            let picked = pick_any(worker, view, key, &mut tried, now, &mut worker.rng.borrow_mut());
            // Who has been asked and did not accept is the reason, where nobody else is left.
            let (index, permit): (u32, Permit) =
                picked.map_err(|why| if self.served.attempts > 0 { Reason::ConnectFailed } else { why })?;
            let mut flight = Flight::start(worker, local, view, service, index, permit, now);
            tried.push(index);
            self.served.attempts += 1;
            let by = now.after(view.params.timeouts.connect.get());
            let condition = match self.dial(flight.target().address, by).await {
                Ok(stream) => {
                    if self.log.is_some() {
                        self.served.endpoint = Some(flight.target().endpoint.name().into());
                    }
                    flight.conclude(worker.tell_time(), Verdict::Success);
                    return Ok((Stream::Plain(stream), flight));
                }
                Err(None) => return Err(Reason::OutOfDescriptors),
                Err(Some(condition)) => condition,
            };
            flight.conclude(worker.tell_time(), Verdict::Failure);
            drop(flight);
            let facts = Facts {
                attempts: self.served.attempts,
                failure: Failure::NoAnswer(condition),
                retry: Retry::Safe,
                idempotent: true,
                dont_retry: false,
                body_replayable: true,
                deadline_left: Deadline::NONE.left(worker.now()),
            };
            let budgets = [&*view.retry_budget, &*local.snapshot.retry_budget];
            let now = worker.now();
            let decision = decide(&view.params.retry, &facts, &budgets, now, &mut worker.rng.borrow_mut());
            match decision {
                Decision::Retry { delay, .. } => tokio::time::sleep(delay).await,
                Decision::Stop(_) => return Err(Reason::ConnectFailed),
            }
        }
    }

    /// Opens a connection to an endpoint.
    ///
    /// # Errors
    /// How that failed; `None` when it failed here.
    async fn dial(&self, address: SocketAddr, by: Instant) -> Result<TcpStream, Option<Condition>> {
        let (worker, alarm) = (self.worker, &self.conn.alarm);
        let mut connecting = pin!(TcpStream::connect(address));
        worker.wheel.set(alarm, by);
        let result = poll_fn(|cx| {
            alarm.wake_me(cx.waker());
            match connecting.as_mut().poll(cx) {
                Poll::Ready(Err(error)) if worker.on_io_error(&error) => Poll::Ready(Err(None)),
                Poll::Ready(result) => Poll::Ready(result.map_err(|_| Some(Condition::ConnectFailure))),
                Poll::Pending if alarm.rung() => Poll::Ready(Err(Some(Condition::ConnectFailure))),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        alarm.off();
        match &result {
            Ok(stream) => {
                worker.metrics.connects.one();
                let _ = stream.set_nodelay(true);
            }
            Err(_) => worker.metrics.connect_failures.one(),
        }
        result
    }

    /// Passes bytes both ways until the end.
    async fn relay(&mut self, connected: Connected, removed: &Cell<bool>) -> End {
        let (worker, conn) = (self.worker, self.conn);
        let Connected { mut upstream, mut flight, mut relay, idle, _place } = connected;
        let figures = &conn.listener.figures.tcp[worker.id];
        let begun = worker.tell_time();
        // Until then it is not known whether the endpoint has taken the connection.
        let mut settles_at = Some(begun.after(EARLY));
        let mut idle_at = begun.after(idle);
        let (mut up, mut down) = (0, 0);
        worker.wheel.set(&conn.alarm, idle_at.min(begun.after(EARLY)));
        let end = poll_fn(|cx| {
            conn.alarm.wake_me(cx.waker());
            let moved = relay.poll(cx, worker, &mut conn.stream.borrow_mut(), &mut upstream);
            figures.up.add(relay.up.moved - up);
            figures.down.add(relay.down.moved - down);
            (up, down) = (relay.up.moved, relay.down.moved);
            if let Poll::Ready(end) = moved {
                return Poll::Ready(end);
            }
            if worker.shared.phase() == Phase::Ending || removed.get() {
                return Poll::Ready(End::Cut);
            }
            let rung = conn.alarm.rung();
            let progress = std::mem::take(&mut relay.progress);
            if !rung && !progress {
                return Poll::Pending;
            }
            let now = worker.tell_time();
            if progress {
                idle_at = now.after(idle);
            } else if idle_at <= now {
                return Poll::Ready(End::Idle);
            }
            // An endpoint that has said something, or was silent for long enough, has taken it; one that has closed has not.
            if settles_at.is_some_and(|at| (down > 0 || at <= now) && !relay.down.over()) {
                settles_at = None;
                flight.settle(now);
            }
            worker.wheel.set(&conn.alarm, settles_at.map_or(idle_at, |at| at.min(idle_at)));
            Poll::Pending
        })
        .await;
        conn.alarm.off();
        let early = settles_at.is_some_and(|at| worker.tell_time() < at);
        if early && down == 0 && (end == End::UpstreamGone || relay.upstream_first) {
            flight.judge(Verdict::Failure);
            self.served.reason = Some(Reason::UpstreamReset);
        }
        part(end, &mut conn.stream.borrow_mut(), &mut upstream);
        (self.served.request_bytes, self.served.response_bytes) = (up, down);
        end
    }

    /// It ends before an endpoint got it.
    fn refused(&mut self, reason: Reason) -> Outcome {
        self.worker.metrics.refusals[reason as usize].one();
        self.served.reason = Some(reason);
        // A reset: nobody takes the end of this for the end of an answer.
        if reason != Reason::NoRoute {
            self.conn.break_off();
        }
        if reason == Reason::ConnectFailed { Outcome::Failed } else { Outcome::Refused }
    }

    /// Tells whoever counts what became of it.
    fn observe(self, outcome: Outcome, started: Instant) {
        let Self { worker, conn, mut served, log } = self;
        conn.listener.figures.tcp[worker.id].end(outcome);
        let Some(line) = log else { return };
        served.latency = worker.tell_time().since(started);
        served.ending = match outcome {
            Outcome::Relayed(_) if served.reason.is_some() => Ending::Failed,
            Outcome::Relayed(End::ClientGone) => Ending::Cancelled,
            Outcome::Relayed(End::UpstreamGone) | Outcome::Failed => Ending::Failed,
            Outcome::Relayed(_) => Ending::Success,
            Outcome::Refused => Ending::Refused,
        };
        crate::road::log(worker, &line, &served);
    }
}
