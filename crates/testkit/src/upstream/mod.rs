//! A programmable HTTP/1.1 back end: answers as told, misbehaves as told, records what it was sent.
//!
//! ```
//! use testkit::{Reply, Upstream, get};
//!
//! let upstream = Upstream::start(|request| Reply::ok(format!("you asked for {}", request.target)));
//! assert_eq!(get(upstream.addr(), "/tea").text(), "you asked for /tea");
//! assert_eq!(upstream.requests()[0].target, "/tea");
//! ```

mod connection;
mod reply;

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::http::Headers;
use crate::wait::{PATIENCE, wait_until};

pub use connection::Request;
pub use reply::{Gate, Reply};

/// The path whose answer [`Upstream::set_health`] decides; requests for it are counted apart and not recorded.
pub const HEALTH_PATH: &str = "/healthz";

/// A request as it was received.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The method.
    pub method: String,
    /// The target as written.
    pub target: String,
    /// The header fields.
    pub headers: Headers,
    /// As much of the body as was read.
    pub body: Vec<u8>,
    /// The trailers.
    pub trailers: Headers,
    /// Whether the body was read to its end.
    pub complete: bool,
    /// Which connection it came on, counted from 0 over the back end's whole life.
    pub connection: u64,
    /// When its head was complete.
    pub at: Instant,
}

type Handler = dyn Fn(&Request<'_>) -> Reply + Send + Sync;

/// A back end on loopback, a thread per connection. Stops when dropped.
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Mutex<Option<(TcpListener, JoinHandle<()>)>>,
}

impl Upstream {
    /// Starts one at an address of its own.
    #[must_use]
    pub fn start(handler: impl Fn(&Request<'_>) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), handler)
    }

    /// Starts one at `addr`. Panics when the address is taken.
    #[must_use]
    pub fn start_at(
        addr: SocketAddr,
        handler: impl Fn(&Request<'_>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener =
            TcpListener::bind(addr).unwrap_or_else(|error| panic!("cannot listen on {addr}: {error}"));
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared::new(Box::new(handler)));
        let upstream = Self { addr, shared, acceptor: Mutex::new(None) };
        upstream.accept_from(listener);
        upstream
    }

    /// Always answers `200 OK` with `body`.
    #[must_use]
    pub fn constant(body: &str) -> Self {
        let body = body.to_owned();
        Self::start(move |_| Reply::ok(&body))
    }

    /// Answers with the request as it came: its head line by line, an empty line, its body.
    #[must_use]
    pub fn echo() -> Self {
        Self::start(|request| {
            let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target).into_bytes();
            for (name, value) in &request.headers.0 {
                text.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
            }
            text.extend_from_slice(b"\r\n");
            text.extend_from_slice(request.body());
            Reply::ok(text)
        })
    }

    /// Where it listens, or listened before it was stopped.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Every request so far but health checks, by arrival of its head.
    #[must_use]
    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.state().recorded.clone()
    }

    /// How many requests have come so far, health checks not counted.
    #[must_use]
    pub fn request_count(&self) -> usize {
        self.shared.state().recorded.len()
    }

    /// Forgets the requests recorded so far. Those under way are no longer recorded.
    pub fn forget_requests(&self) {
        let mut state = self.shared.state();
        state.forgotten += state.recorded.len();
        state.recorded.clear();
    }

    /// Waits until `count` requests have come.
    pub fn wait_for_requests(&self, count: usize) {
        let what = format!("{} has received {count} requests", self.addr);
        wait_until(&what, PATIENCE, || self.request_count() >= count);
    }

    /// How many connections have been accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    /// How many connections are open now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.shared.state().open.len()
    }

    /// Sets the status that [`HEALTH_PATH`] answers with; 200 at first.
    pub fn set_health(&self, status: u16) {
        self.shared.health.store(status, Relaxed);
    }

    /// How many health checks have come so far.
    #[must_use]
    pub fn health_checks(&self) -> u64 {
        self.shared.checks.load(Relaxed)
    }

    /// Ends as a process that is told to stop: closes the listener and every connection. Returns when nothing is left.
    pub fn stop(&self) {
        self.end(false);
    }

    /// Ends as a machine that loses its connections: resets every one.
    pub fn kill(&self) {
        self.end(true);
    }

    /// Listens again at the same address after [`Upstream::stop`] or [`Upstream::kill`].
    pub fn start_again(&self) {
        let listener = TcpListener::bind(self.addr)
            .unwrap_or_else(|error| panic!("cannot listen on {} again: {error}", self.addr));
        self.shared.state().stopped = false;
        self.accept_from(listener);
    }

    fn accept_from(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        let accepting = listener.try_clone().expect("a free file descriptor");
        let thread = thread::spawn(move || accept(&shared, &accepting));
        let previous = self.acceptor().replace((listener, thread));
        assert!(previous.is_none(), "{} is running", self.addr);
    }

    fn acceptor(&self) -> MutexGuard<'_, Option<(TcpListener, JoinHandle<()>)>> {
        self.acceptor.lock().expect("no panic while held")
    }

    fn end(&self, reset: bool) {
        let Some((listener, thread)) = self.acceptor().take() else { return };
        {
            // Before any connection can end by itself, so that all end in the same way.
            let mut state = self.shared.state();
            state.stopped = true;
            state.reset = reset;
            if reset {
                state.open.values().for_each(lose);
            }
        }
        self.shared.stop.notify_all();
        // Wakes `accept`, which then fails; nothing else does so without a connection.
        let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        drop(listener);
        thread.join().expect("accepting does not panic");
        let mut state = self.shared.state();
        for stream in state.open.values() {
            // Ends the reads of the connection's own thread; only a stop tells the peer so.
            let _ = stream.shutdown(if reset { Shutdown::Read } else { Shutdown::Both });
        }
        let until = Instant::now() + PATIENCE;
        while !state.open.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{} has connections whose handlers do not return", self.addr);
            state = self.shared.ended.wait_timeout(state, left).expect("no panic while held").0;
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.stop();
        }
    }
}

/// What the acceptor, the connections and the owner share.
struct Shared {
    handler: Box<Handler>,
    state: Mutex<State>,
    stop: Condvar,
    ended: Condvar,
    accepted: AtomicU64,
    checks: AtomicU64,
    health: AtomicU16,
}

#[derive(Default)]
struct State {
    stopped: bool,
    reset: bool,
    recorded: Vec<Recorded>,
    forgotten: usize,
    open: HashMap<u64, TcpStream>,
}

impl Shared {
    fn new(handler: Box<Handler>) -> Self {
        Self {
            handler,
            state: Mutex::default(),
            stop: Condvar::new(),
            ended: Condvar::new(),
            accepted: AtomicU64::new(0),
            checks: AtomicU64::new(0),
            health: AtomicU16::new(200),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn handle(&self, request: &Request<'_>) -> Reply {
        (self.handler)(request)
    }

    fn is_health_path(&self, target: &str) -> bool {
        target.split('?').next() == Some(HEALTH_PATH)
    }

    fn health_reply(&self) -> Reply {
        Reply::status(self.health.load(Relaxed))
    }

    fn record_check(&self) -> usize {
        self.checks.fetch_add(1, Relaxed);
        usize::MAX
    }

    /// Records a request; answers its number over the back end's whole life.
    fn record(&self, recorded: Recorded) -> usize {
        let mut state = self.state();
        state.recorded.push(recorded);
        state.forgotten + state.recorded.len() - 1
    }

    fn update(&self, number: usize, change: impl FnOnce(&mut Recorded)) {
        let mut state = self.state();
        let forgotten = state.forgotten;
        if let Some(recorded) = number.checked_sub(forgotten).and_then(|index| state.recorded.get_mut(index))
        {
            change(recorded);
        }
    }

    /// Waits for `span` (`None`: for ever) or until the back end is stopped; answers whether it is.
    fn wait_for_stop(&self, span: Option<Duration>) -> bool {
        let until = span.map(|span| Instant::now() + span);
        let mut state = self.state();
        while !state.stopped {
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(Duration::ZERO) => return false,
                Some(left) => state = self.stop.wait_timeout(state, left).expect("no panic while held").0,
                None => state = self.stop.wait(state).expect("no panic while held"),
            }
        }
        true
    }
}

fn accept(shared: &Arc<Shared>, listener: &TcpListener) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(_) if shared.state().stopped => return,
            // Out of descriptors for the moment, or the peer has gone already.
            Err(_) => {
                if shared.wait_for_stop(Some(Duration::from_millis(5))) {
                    return;
                }
                continue;
            }
        };
        let id = shared.accepted.fetch_add(1, Relaxed);
        let Ok(own) = stream.try_clone() else { continue };
        let mut state = shared.state();
        if state.stopped {
            if state.reset {
                lose(&stream);
            }
            return;
        }
        state.open.insert(id, own);
        drop(state);
        let connection = Connection { shared: Arc::clone(shared), id };
        let spawned = thread::Builder::new().stack_size(256 * 1024).spawn(move || {
            // What a peer does to its connection is no failure of this back end; tests look at what was recorded.
            let _: io::Result<()> = connection::serve(&connection.shared, stream, connection.id);
        });
        drop(spawned);
    }
}

/// Makes closing `stream` send a reset.
fn lose(stream: &TcpStream) {
    // Fails only when the connection is gone already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Takes the connection out of the books when its thread ends, even by a handler's panic.
struct Connection {
    shared: Arc<Shared>,
    id: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Ok(mut state) = self.shared.state.lock() {
            state.open.remove(&self.id);
        }
        self.shared.ended.notify_all();
    }
}

#[cfg(test)]
mod tests;
