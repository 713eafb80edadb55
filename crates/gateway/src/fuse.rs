//! The fuse of a batch listener: thousands of clients on one side, a few connections to endpoints on the other.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use crate::config;
use crate::engine::stream::{Parked, Stream};
use crate::service::{NoPlace, Places};
use model::{Criticality, Instant};
use parking_lot::Mutex;
use policy::bulkhead::Bulkhead;

/// The highest class that a batch request can have.
pub(crate) const CLASS_MAX: Criticality = Criticality::SheddablePlus;

/// A bulkhead over all services, and the connections that go with its places.
///
/// At most `connections` requests of the process hold a place, exactly. A request has one connection at a time, and idle
/// ones are kept only while places are left over for them, so at most as many connections are open too. Because a place
/// may go to another worker's client next, idle connections belong to no worker: they are handed over without their
/// runtime, which costs a few system calls that interactive requests are spared. Fails towards refusing: whoever finds no
/// place in time is told to come back later.
///
/// Source: SRE book, ch. 21, "Load from connections": a batch proxy protects back ends from connections and from load.
#[derive(Debug)]
pub(crate) struct Fuse {
    pub(crate) params: config::Fuse,
    places: Places,
    connections: Mutex<Connections>,
    /// Refused because the line was full, and because the wait was too long.
    queue_full: AtomicU64,
    queue_timeout: AtomicU64,
}

#[derive(Debug, Default)]
struct Connections {
    /// The one that idles for the shortest time comes last.
    idle: Vec<Idle>,
    used: usize,
}

#[derive(Debug)]
struct Idle {
    target: u64,
    parked: Parked,
    until: Instant,
}

/// A fuse at one moment.
#[derive(Clone, Copy, Debug)]
pub struct FuseStatus {
    /// Requests under way.
    pub active: u32,
    /// Connections to endpoints, idle ones included.
    pub connections: u32,
    /// Most of either.
    pub connections_max: u32,
    /// Requests that wait.
    pub waiting: u32,
    /// Most that may wait.
    pub waiting_max: u32,
    /// Requests refused because the line was full.
    pub queue_full: u64,
    /// Requests refused because they waited too long.
    pub queue_timeout: u64,
}

impl Fuse {
    /// A fuse that `workers` workers share.
    pub(crate) fn new(params: &config::Fuse, workers: usize) -> Self {
        Self {
            params: params.clone(),
            places: Places::new(Bulkhead::new(&params.bulkhead(), workers)),
            connections: Mutex::default(),
            queue_full: AtomicU64::default(),
            queue_timeout: AtomicU64::default(),
        }
    }

    /// A place, waited for until `until` if need be. `gone` is ready when nobody wants it any more.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn enter(
        self: &Arc<Self>,
        shard: usize,
        until: impl FnOnce() -> tokio::time::Instant,
        gone: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<Held, NoPlace> {
        match self.places.enter(shard, until, gone).await {
            Ok(waited) => Ok(Held { fuse: Arc::clone(self), shard, waited, uses: false.into() }),
            Err(why) => {
                match why {
                    NoPlace::Full => self.queue_full.fetch_add(1, Relaxed),
                    NoPlace::Late => self.queue_timeout.fetch_add(1, Relaxed),
                    NoPlace::Gone => 0,
                };
                Err(why)
            }
        }
    }

    /// Closes whatever idled for too long or was closed by the other side.
    pub(crate) fn sweep(&self, now: Instant) {
        let fine = |idle: &Idle| idle.until > now && !disturbed(&idle.parked);
        self.connections.lock().idle.retain(fine);
    }

    /// Closes what idles: file descriptors are needed elsewhere. Answers how many that were.
    pub(crate) fn clear(&self) -> usize {
        std::mem::take(&mut self.connections.lock().idle).len()
    }

    pub(crate) fn status(&self) -> FuseStatus {
        let connections = {
            let connections = self.connections.lock();
            connections.idle.len() + connections.used
        };
        FuseStatus {
            active: self.places.active(),
            connections: u32::try_from(connections).unwrap_or(u32::MAX),
            connections_max: self.params.connections,
            waiting: self.places.waiting(),
            waiting_max: self.params.waiting_max,
            queue_full: self.queue_full.load(Relaxed),
            queue_timeout: self.queue_timeout.load(Relaxed),
        }
    }
}

/// Whether an idle connection was closed, or brought what nobody asked for.
fn disturbed(parked: &Parked) -> bool {
    !matches!(parked.socket.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

/// A request's place in a fuse. Given back when dropped, by which time the request's connection has been closed or kept.
#[derive(Debug)]
pub(crate) struct Held {
    fuse: Arc<Fuse>,
    shard: usize,
    /// Whether the place had to be waited for.
    pub(crate) waited: bool,
    /// Whether the request's connection is counted.
    uses: std::cell::Cell<bool>,
}

impl Held {
    /// Counts a connection to `target` for this request, whose earlier one is closed by now, and answers an idle one if
    /// there is one. If not, one that idles elsewhere makes room for the one that the request will open.
    pub(crate) fn take(&self, target: u64, now: Instant) -> Option<Stream> {
        let mut connections = self.fuse.connections.lock();
        let Connections { idle, used } = &mut *connections;
        if !self.uses.replace(true) {
            *used += 1;
        }
        while let Some(position) = idle.iter().rposition(|idle| idle.target == target) {
            let Idle { parked, until, .. } = idle.remove(position);
            if until > now && !disturbed(&parked) {
                return parked.unpark().ok();
            }
        }
        let room = (self.fuse.params.connections as usize).saturating_sub(*used);
        idle.drain(..idle.len().saturating_sub(room));
        None
    }

    /// Keeps the request's connection to `target` for the next one.
    pub(crate) fn put(&self, target: u64, stream: Stream, until: Instant) {
        let Ok(parked) = stream.park() else { return };
        let mut connections = self.fuse.connections.lock();
        if self.uses.replace(false) {
            connections.used -= 1;
        }
        connections.idle.push(Idle { target, parked, until });
    }

    /// Closes all idle connections to `target`: one of them turned out to be dead, so the others probably are.
    pub(crate) fn forget(&self, target: u64) {
        self.fuse.connections.lock().idle.retain(|idle| idle.target != target);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.uses.get() {
            self.fuse.connections.lock().used -= 1;
        }
        self.fuse.places.release(self.shard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, TcpListener};
    use tokio::net::TcpStream;

    async fn connected(address: SocketAddr) -> Stream {
        Stream::Plain(TcpStream::connect(address).await.unwrap())
    }

    fn fuse(connections: u32) -> Arc<Fuse> {
        Arc::new(Fuse::new(&config::Fuse { connections, ..config::Fuse::default() }, 2))
    }

    async fn held(fuse: &Arc<Fuse>) -> Held {
        fuse.enter(0, tokio::time::Instant::now, |_| Poll::Pending).await.expect("a place")
    }

    fn endpoint() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn open(fuse: &Fuse) -> (usize, usize) {
        let connections = fuse.connections.lock();
        (connections.used, connections.idle.len())
    }

    #[tokio::test]
    async fn idle_connections_and_used_ones_are_never_more_than_places() {
        let (_listener, address) = endpoint();
        let fuse = fuse(2);
        let (now, until) = (Instant::ORIGIN, Instant::NEVER);
        let (first, second) = (held(&fuse).await, held(&fuse).await);
        for (held, target) in [(&first, 1), (&second, 2)] {
            assert!(held.take(target, now).is_none());
            held.put(target, connected(address).await, until);
        }
        assert_eq!(open(&fuse), (0, 2));
        // Another target: the one that idles longest makes room.
        assert!(first.take(3, now).is_none());
        assert_eq!(open(&fuse), (1, 1));
        let reused = second.take(2, now).expect("the connection that idles");
        assert_eq!(open(&fuse), (2, 0));
        // A second attempt has no second connection.
        drop(reused);
        assert!(second.take(2, now).is_none());
        assert_eq!(open(&fuse), (2, 0));
        drop((first, second));
        assert_eq!((open(&fuse), fuse.status().active), ((0, 0), 0));
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_or_idled_for_too_long_is_not_used() {
        let (listener, address) = endpoint();
        let fuse = fuse(4);
        let held = held(&fuse).await;
        let soon = Instant::from_nanos(10);
        held.put(1, connected(address).await, soon);
        assert!(held.take(1, soon).is_none());
        held.put(1, connected(address).await, Instant::NEVER);
        drop(listener.accept().unwrap());
        drop(listener.accept().unwrap());
        let closed = held.fuse.connections.lock().idle[0].parked.socket.try_clone().unwrap();
        closed.set_nonblocking(false).unwrap();
        assert_eq!(closed.peek(&mut [0]).unwrap(), 0);
        closed.set_nonblocking(true).unwrap();
        assert_eq!(open(&fuse), (0, 1));
        fuse.sweep(Instant::ORIGIN);
        assert_eq!(open(&fuse), (0, 0));
    }
}
