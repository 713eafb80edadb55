//! One worker a core: its own runtime, listeners, connections, pools and timers. Workers share nothing that a request
//! changes but the policies' atomics.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use model::Instant;
use parking_lot::RwLock;
use policy::Rng;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::buffers::Buffers;
use super::conn::Conn;
use super::h2;
use super::h2::client::Links;
use super::handshake;
use super::pool::Pool;
use super::slots::Slots;
use super::stream::Stream;
use super::wheel::{Alarm, Wheel};
use crate::access_log::AccessLog;
use crate::answer::{After, Date, Reason, refuse};
use crate::config::{Alpn, ProxyProtocol};
use crate::listen::{Listener, ListenerState};
use crate::metrics::WorkerMetrics;
use crate::road::{self, Next};
use crate::service::Clock;
use crate::snapshot::{Local, Snapshot};
use crate::tcp;

/// Bytes that one read brings at most.
const SCRATCH: usize = 64 * 1024;
/// How long a connection that is closed early is heard out, and how much.
const LINGER_TIME: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 1024 * 1024;
/// How long nothing is accepted after file descriptors ran out and nothing could be done about it.
const PAUSE: Duration = Duration::from_millis(20);
/// Turns of the runtime that connections get to end by themselves before it does; in each many are looked at.
const TURNS: usize = 1000;
/// How often it is measured how late timers ring.
const LAG_INTERVAL: Duration = Duration::from_millis(50);
/// How often idle upstream connections are looked through.
const SWEEP: Duration = Duration::from_secs(1);

/// Where the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    Serving,
    LameDuck,
    Finishing,
    /// What has no end of its own is cut.
    Ending,
}

impl Phase {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::LameDuck => "lame_duck",
            Self::Finishing | Self::Ending => "finishing",
        }
    }
}

/// What all workers and the control thread share.
pub(crate) struct Shared {
    pub(crate) clock: Clock,
    snapshot: RwLock<Arc<Snapshot>>,
    version: AtomicU64,
    phase: AtomicU8,
    idle_upstream_max: AtomicU64,
    /// How often a worker ran out of file descriptors: the others look at it to give up what idles.
    shortages: AtomicU64,
    pub(crate) access_log: AccessLog,
}

impl Shared {
    pub(crate) fn new(
        clock: Clock,
        snapshot: Snapshot,
        idle_upstream_max: u32,
        access_log: AccessLog,
    ) -> Self {
        Self {
            clock,
            version: AtomicU64::new(snapshot.version),
            snapshot: RwLock::new(Arc::new(snapshot)),
            phase: AtomicU8::new(Phase::Serving as u8),
            idle_upstream_max: AtomicU64::new(idle_upstream_max.into()),
            shortages: AtomicU64::new(0),
            access_log,
        }
    }

    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read())
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let version = snapshot.version;
        *self.snapshot.write() = Arc::new(snapshot);
        self.version.store(version, Ordering::Release);
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Serving,
            1 => Phase::LameDuck,
            2 => Phase::Finishing,
            _ => Phase::Ending,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn idle_upstream_max(&self) -> u32 {
        self.idle_upstream_max.load(Ordering::Relaxed) as u32
    }

    pub(crate) fn set_idle_upstream_max(&self, max: u32) {
        self.idle_upstream_max.store(max.into(), Ordering::Relaxed);
    }
}

/// What a worker is told to do.
pub(crate) enum Command {
    /// Accept connections here.
    Listen { listener: Arc<Listener>, socket: std::net::TcpListener, stop: CancellationToken },
    /// Look at the phase: close idle connections if the process is finishing.
    Phase,
    /// End.
    Stop,
}

/// One worker. Lives on its own thread and never leaves it.
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) clock: Clock,
    /// The time as of the last look at the clock.
    now: Cell<Instant>,
    /// What one read brings; lent for the time of one poll.
    pub(crate) scratch: RefCell<Box<[u8]>>,
    pub(crate) path_scratch: RefCell<String>,
    pub(crate) wheel: Wheel,
    pub(crate) pool: Pool,
    /// Connections to endpoints that speak HTTP/2.
    pub(crate) links: Links,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) rng: RefCell<Rng>,
    pub(crate) date: Date,
    pub(crate) metrics: Arc<WorkerMetrics>,
    local: RefCell<Rc<Local>>,
    /// Open connections, to wake the idle ones when the process leaves.
    alarms: RefCell<HashMap<u64, Rc<Alarm>>>,
    next_connection: Cell<u64>,
    /// Held back so that there is one left to refuse connections with when all others are used up.
    spare_descriptor: RefCell<Option<std::fs::File>>,
}

impl Worker {
    fn new(
        id: usize,
        shared: Arc<Shared>,
        metrics: Arc<WorkerMetrics>,
        seed: u64,
        buffer_bytes_max: u64,
    ) -> Rc<Self> {
        let clock = shared.clock;
        let local = Local::new(shared.snapshot());
        Rc::new(Self {
            id,
            clock,
            now: Cell::new(clock.now()),
            scratch: RefCell::new(vec![0; SCRATCH].into_boxed_slice()),
            path_scratch: RefCell::default(),
            wheel: Wheel::new(clock.now()),
            pool: Pool::default(),
            links: Links::default(),
            buffers: Buffers::new(buffer_bytes_max, Arc::clone(&metrics.buffers)),
            rng: RefCell::new(Rng::with_seed(seed)),
            date: Date::default(),
            metrics,
            local: RefCell::new(local),
            alarms: RefCell::default(),
            next_connection: Cell::new(0),
            spare_descriptor: RefCell::new(std::fs::File::open("/dev/null").ok()),
            shared,
        })
    }

    /// The time as of the last look at the clock: good enough for whatever happens in the same breath.
    pub(crate) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Looks at the clock.
    pub(crate) fn tell_time(&self) -> Instant {
        let now = self.clock.now();
        self.now.set(now);
        now
    }

    /// The newest configuration.
    pub(crate) fn local(&self) -> Rc<Local> {
        let mut local = self.local.borrow_mut();
        if local.snapshot.version != self.shared.version.load(Ordering::Acquire) {
            *local = Local::new(self.shared.snapshot());
        }
        Rc::clone(&local)
    }

    /// Whether clients are told to go elsewhere.
    pub(crate) fn draining(&self) -> bool {
        self.shared.phase() != Phase::Serving
    }

    /// An alarm for a new connection, which is also woken when the process leaves.
    pub(crate) fn enlist(self: &Rc<Self>) -> Enlisted {
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        let alarm = Alarm::new();
        self.alarms.borrow_mut().insert(id, Rc::clone(&alarm));
        Enlisted { worker: Rc::clone(self), id, alarm }
    }

    /// Makes room when an error says that file descriptors have run out; answers whether it does.
    pub(crate) fn on_io_error(&self, error: &io::Error) -> bool {
        let out = is_out_of_descriptors(error);
        if out {
            self.free_descriptors();
        }
        out
    }

    /// Closes what idles here at once, and within a second what idles at other workers; answers whether there was any here.
    fn free_descriptors(&self) -> bool {
        self.shared.shortages.fetch_add(1, Ordering::Relaxed);
        let fuses: usize = self.local().snapshot.fuses.iter().map(|(_, fuse)| fuse.clear()).sum();
        self.pool.clear() + self.links.clear() + fuses > 0
    }
}

/// A connection that is woken when the process leaves, for as long as this lives.
pub(crate) struct Enlisted {
    worker: Rc<Worker>,
    id: u64,
    pub(crate) alarm: Rc<Alarm>,
}

impl Drop for Enlisted {
    fn drop(&mut self) {
        self.worker.alarms.borrow_mut().remove(&self.id);
    }
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// What a worker's thread is started with.
pub(crate) struct WorkerParams {
    pub(crate) id: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<WorkerMetrics>,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) seed: u64,
    pub(crate) buffer_bytes_max: u64,
}

/// Runs a worker on this thread until it is told to stop.
///
/// # Errors
/// The runtime could not be built: no descriptors, no memory.
pub(crate) fn run(params: WorkerParams) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    let WorkerParams { id, shared, metrics, mut commands, seed, buffer_bytes_max } = params;
    runtime.block_on(async {
        let worker = Worker::new(id, shared, metrics, seed, buffer_bytes_max);
        let driver = Rc::clone(&worker);
        tokio::task::spawn_local(async move { driver.wheel.drive(driver.clock).await });
        let sweeper = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            let mut shortages = 0;
            loop {
                tokio::time::sleep(SWEEP).await;
                let known = sweeper.shared.shortages.load(Ordering::Relaxed);
                if std::mem::replace(&mut shortages, known) != known {
                    sweeper.pool.clear();
                    sweeper.links.clear();
                }
                let now = sweeper.clock.now();
                let idle = sweeper.pool.sweep(now) + sweeper.links.sweep(now);
                sweeper.metrics.idle_upstream.set(idle as u64);
                if sweeper.id == 0 {
                    sweeper.local().snapshot.fuses.iter().for_each(|(_, fuse)| fuse.sweep(now));
                }
            }
        });
        let timed = Rc::clone(&worker);
        tokio::task::spawn_local(async move {
            loop {
                let due = tokio::time::Instant::now() + LAG_INTERVAL;
                tokio::time::sleep_until(due).await;
                let lag = u64::try_from(due.elapsed().as_nanos()).unwrap_or(u64::MAX);
                timed.metrics.lag_nanos.store(lag, Ordering::Relaxed);
            }
        });
        let slots = Rc::new(Slots::new());
        while let Some(command) = commands.recv().await {
            match command {
                Command::Listen { listener, socket, stop } => {
                    let (worker, slots) = (Rc::clone(&worker), Rc::clone(&slots));
                    tokio::task::spawn_local(async move {
                        match TcpListener::from_std(socket) {
                            Ok(socket) => accept(worker, slots, listener, socket, stop, road::request).await,
                            Err(error) => tracing::error!(%error, "cannot listen"),
                        }
                    });
                }
                Command::Phase => {
                    for alarm in worker.alarms.borrow().values() {
                        alarm.wake();
                    }
                }
                Command::Stop => {
                    // What was just told to end gets a few turns to do so.
                    for _ in 0..TURNS {
                        if worker.alarms.borrow().is_empty() {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    break;
                }
            }
        }
    });
    Ok(())
}

/// Accepts connections until `stop`; those that the kernel has completed by then are still served.
async fn accept<F: Future<Output = Next> + 'static>(
    worker: Rc<Worker>,
    slots: Rc<Slots<F>>,
    listener: Arc<Listener>,
    socket: TcpListener,
    stop: CancellationToken,
    request: impl Fn(Rc<Worker>, Rc<Conn>) -> F + Copy + 'static,
) {
    let removed = Rc::new(Cell::new(false));
    let welcome = |stream: TcpStream, peer: SocketAddr| {
        let state = Arc::clone(&listener.state.read());
        match state.on_open() {
            Ok(()) => {
                let worker = Rc::clone(&worker);
                if state.params.tcp.is_some() {
                    tokio::task::spawn_local(tcp::session(worker, stream, peer, state, Rc::clone(&removed)));
                } else {
                    let slots = Rc::clone(&slots);
                    tokio::task::spawn_local(connection(worker, slots, stream, peer, state, request));
                }
            }
            Err(reason) => {
                state.on_close();
                turn_away(&worker, &state, &stream, reason);
            }
        }
    };
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = socket.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, peer)) => welcome(stream, peer),
            Err(error) if is_out_of_descriptors(&error) => {
                shed_one(&worker, &listener, &socket).await;
            }
            // The connection was gone before it was accepted.
            Err(_) => {}
        }
    }
    // The runtime may not have heard of the last ones yet: closing the socket would reset them.
    if let Ok(socket) = socket.into_std() {
        while let Ok((stream, peer)) = socket.accept() {
            if let Ok(stream) = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream)) {
                welcome(stream, peer);
            }
        }
    }
    // The listener's address may be given to another one before those who came in are gone.
    drop(listener);
    // What is passed on as it is has no end of its own: after a while it is cut.
    tokio::time::sleep(worker.shared.snapshot().drain_finish).await;
    removed.set(true);
    worker.alarms.borrow().values().for_each(|alarm| alarm.wake());
}

/// Answers 503 in one write and closes: nobody waits for who may not come in. What speaks something else is only closed.
fn turn_away(worker: &Worker, listener: &ListenerState, stream: &TcpStream, reason: Reason) {
    if listener.params.tcp.is_some() {
        return;
    }
    let mut bytes = Vec::new();
    refuse(&mut bytes, &reason.into(), false, After::Close, true, false, &worker.date);
    let _ = stream.try_write(&bytes);
}

/// All file descriptors are in use. Frees what idles, or takes one connection off the queue to close it, so that its client
/// learns at once instead of waiting for nothing. Where neither helps it pauses: the error comes back at once for as long as
/// it holds, whether somebody waits in the queue or not.
async fn shed_one(worker: &Worker, listener: &Listener, socket: &TcpListener) {
    if worker.free_descriptors() {
        return;
    }
    let spare = worker.spare_descriptor.borrow_mut().take();
    let had_spare = spare.is_some();
    drop(spare);
    let accepted = std::future::poll_fn(|cx| std::task::Poll::Ready(socket.poll_accept(cx))).await;
    let progress = match accepted {
        std::task::Poll::Ready(Ok((stream, _))) => {
            let state = Arc::clone(&listener.state.read());
            state.figures.shed_descriptors.fetch_add(1, Ordering::Relaxed);
            turn_away(worker, &state, &stream, Reason::OutOfDescriptors);
            true
        }
        std::task::Poll::Ready(Err(_)) => false,
        // Nobody waits: the next call waits as well.
        std::task::Poll::Pending => had_spare,
    };
    *worker.spare_descriptor.borrow_mut() = std::fs::File::open("/dev/null").ok();
    if !progress {
        tokio::time::sleep(PAUSE).await;
    }
}

/// Serves one connection, request by request.
async fn connection<F: Future<Output = Next> + 'static>(
    worker: Rc<Worker>,
    slots: Rc<Slots<F>>,
    stream: TcpStream,
    peer: SocketAddr,
    listener: Arc<ListenerState>,
    request: impl Fn(Rc<Worker>, Rc<Conn>) -> F + Copy + 'static,
) {
    // Without it small answers wait for acknowledgements; a failure costs latency, nothing else.
    let _ = stream.set_nodelay(true);
    worker.tell_time();
    let enlisted = worker.enlist();
    let (stream, agreed) = match &listener.tls {
        None => (Stream::Plain(stream), None),
        // Boxed: connections without TLS would carry its room.
        Some(tls) => {
            match Box::pin(handshake::agree(&worker, stream, &listener, tls, &enlisted.alarm)).await {
                Some((stream, agreed)) => (stream, Some(agreed)),
                None => {
                    listener.on_close();
                    return;
                }
            }
        }
    };
    let mut conn = Conn::new(stream, agreed, peer.ip(), listener, Rc::clone(&enlisted.alarm));
    if conn.listener.params.proxy_protocol != ProxyProtocol::Off
        && tcp::receive_header(&worker, &mut conn, peer).await.is_err()
    {
        return;
    }
    let conn = Rc::new(conn);
    if worker.shared.phase() >= Phase::Finishing {
        // Accepted at the last moment: the runtime has to look at it before it can tell whether a request has come along.
        tokio::task::yield_now().await;
    }
    // Whatever TLS agreed on takes its own way from here.
    match conn.protocol() {
        Alpn::Http11 => serve(&worker, &slots, &conn, request).await,
        Alpn::Http2 => {
            Box::pin(h2::server::serve(&worker, &conn, &slots, request)).await;
            linger(&worker, &conn).await;
        }
    }
}

/// Serves HTTP/1.1, request by request.
async fn serve<F: Future<Output = Next> + 'static>(
    worker: &Rc<Worker>,
    slots: &Rc<Slots<F>>,
    conn: &Rc<Conn>,
    request: impl Fn(Rc<Worker>, Rc<Conn>) -> F + Copy + 'static,
) {
    let mut waiting = (conn.requests.get(), worker.now());
    loop {
        // Bytes that make no request, such as a part of a TLS record, do not begin the wait anew.
        if waiting.0 != conn.requests.get() {
            waiting = (conn.requests.get(), worker.now());
        }
        if !conn.has_carry() && !idle(worker, conn, waiting.1).await {
            break;
        }
        match slots.run(|| request(Rc::clone(worker), Rc::clone(conn))).await {
            Next::Idle => {}
            Next::Close => break,
            Next::Http2 => {
                // Boxed: connections of HTTP/1.1 do not carry its room.
                Box::pin(h2::server::serve(worker, conn, slots, request)).await;
                linger(worker, conn).await;
                break;
            }
            Next::Linger => {
                linger(worker, conn).await;
                break;
            }
        }
    }
}

/// Waits for the next request, from `since` on; answers false when the connection is to be closed instead.
async fn idle(worker: &Worker, conn: &Conn, since: Instant) -> bool {
    // The first request is waited for as long as any other: browsers and pools connect ahead of need.
    let timeout = conn.listener.params.timeouts.idle;
    worker.wheel.set(&conn.alarm, since.after(timeout.get()));
    std::future::poll_fn(|cx| {
        conn.alarm.wake_me(cx.waker());
        if conn.stream.borrow().poll_read_ready(cx).is_ready() {
            return std::task::Poll::Ready(true);
        }
        if conn.alarm.rung() || worker.shared.phase() >= Phase::Finishing {
            return std::task::Poll::Ready(false);
        }
        std::task::Poll::Pending
    })
    .await
}

/// Tells the client that no more comes, and hears out what it still sends, for a while: closing at once would reset the
/// connection and could take the answer with it.
async fn linger(worker: &Worker, conn: &Conn) {
    conn.stream.borrow_mut().close_write();
    worker.wheel.set(&conn.alarm, worker.tell_time().after(LINGER_TIME));
    let mut heard = 0;
    std::future::poll_fn(|cx| {
        conn.alarm.wake_me(cx.waker());
        loop {
            if conn.alarm.rung() || heard > LINGER_BYTES {
                return std::task::Poll::Ready(());
            }
            match std::task::ready!(conn.poll_read(cx, &mut worker.scratch.borrow_mut())) {
                Ok(count) if count > 0 => heard += count,
                _ => return std::task::Poll::Ready(()),
            }
        }
    })
    .await;
}
