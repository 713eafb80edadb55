//! Listening sockets, and what is known of each.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::RwLock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};

use crate::answer::Reason;
use crate::config;
use crate::tcp::{ProxyRefused, TcpShard};
use crate::tls::{Failure, ListenerTls};

/// Connections that the kernel completes ahead of us, per worker.
const BACKLOG: i32 = 4096;

/// One listener, shared by every worker.
#[derive(Debug)]
pub(crate) struct ListenerState {
    pub(crate) name: String,
    /// The real address: the port is never 0.
    pub(crate) address: SocketAddr,
    pub(crate) params: config::Listener,
    pub(crate) tls: Option<Arc<ListenerTls>>,
    /// Figures that survive a change of parameters.
    pub(crate) figures: Arc<ListenerFigures>,
}

#[derive(Debug)]
pub(crate) struct ListenerFigures {
    pub(crate) open: AtomicU32,
    pub(crate) accepted: AtomicU64,
    pub(crate) shed_limit: AtomicU64,
    pub(crate) shed_descriptors: AtomicU64,
    /// Connections closed for what they said, or did not say, in the PROXY protocol.
    pub(crate) proxy_refused: [AtomicU64; ProxyRefused::ALL.len()],
    /// What was passed on as it is, by worker.
    pub(crate) tcp: Box<[TcpShard]>,
    pub(crate) handshakes: Handshakes,
    room: Arc<Room>,
}

/// What becomes of a listener's handshakes.
#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    pub(crate) active: AtomicU32,
    pub(crate) full: AtomicU64,
    pub(crate) resumed: AtomicU64,
    /// Connections closed because too many were under way.
    pub(crate) shed: AtomicU64,
    pub(crate) failures: [AtomicU64; Failure::ALL.len()],
}

impl ListenerFigures {
    /// Those of a listener whose connections share `room` with all others.
    pub(crate) fn new(room: &Arc<Room>, workers: usize) -> Self {
        Self {
            open: AtomicU32::default(),
            accepted: AtomicU64::default(),
            shed_limit: AtomicU64::default(),
            shed_descriptors: AtomicU64::default(),
            proxy_refused: Default::default(),
            tcp: (0..workers).map(|_| TcpShard::default()).collect(),
            handshakes: Handshakes::default(),
            room: Arc::clone(room),
        }
    }
}

impl ListenerState {
    /// Counts a new connection in.
    ///
    /// # Errors
    /// Why it has to be turned away, and to be counted out again.
    pub(crate) fn on_open(&self) -> Result<(), Reason> {
        let figures = &self.figures;
        figures.accepted.fetch_add(1, Relaxed);
        let listener = figures.open.fetch_add(1, Relaxed) < self.params.connections_max;
        let process = figures.room.taken.fetch_add(1, Relaxed) < figures.room.max;
        if !listener {
            figures.shed_limit.fetch_add(1, Relaxed);
            Err(Reason::TooManyConnections)
        } else if !process {
            figures.shed_descriptors.fetch_add(1, Relaxed);
            Err(Reason::OutOfDescriptors)
        } else {
            Ok(())
        }
    }

    /// Counts a connection out.
    pub(crate) fn on_close(&self) {
        self.figures.open.fetch_sub(1, Relaxed);
        self.figures.room.taken.fetch_sub(1, Relaxed);
    }
}

/// The file descriptors that clients may take. The rest is for the ways to endpoints, without which those inside could not
/// be served, and for what the process itself needs.
#[derive(Debug)]
pub(crate) struct Room {
    taken: AtomicU32,
    max: u32,
}

impl Room {
    /// One eighth of `limit`, and at least this many, are not for clients.
    const RESERVE_MIN: u64 = 8;
    /// What a worker opens for itself and for a few listeners.
    const PER_WORKER: u64 = 8;

    /// Client connections open, over all listeners, those included that were taken away since.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Relaxed)
    }

    /// Client connections that may be open.
    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    /// The room of a process that may open `limit` descriptors and has opened nothing for its listeners and workers yet.
    pub(crate) fn new(limit: u64, workers: usize) -> Self {
        let open = std::fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64);
        let needed = open + Self::PER_WORKER * workers as u64 + (limit / 8).max(Self::RESERVE_MIN);
        // Somebody is let in however small the limit: accepting fails by itself then.
        let max = limit.saturating_sub(needed).max(1);
        Self { taken: AtomicU32::new(0), max: u32::try_from(max).unwrap_or(u32::MAX) }
    }
}

/// A listener whose parameters can change while its sockets stay.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) state: RwLock<Arc<ListenerState>>,
}

/// Opens one socket for each worker, all on the same address: the kernel spreads connections over them.
///
/// # Errors
/// The address is in use, not ours, or not allowed.
pub(crate) fn bind(address: SocketAddr, sockets: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    // Another process with the same option could share the port unnoticed, so the first socket asks for it alone.
    drop(open(address, false)?);
    let first = open(address, true)?;
    let address = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..sockets {
        all.push(open(address, true)?);
    }
    Ok((address, all))
}

fn open(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Raises the soft limit of open files to the hard one; answers what it is then.
pub(crate) fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_refused_even_to_those_who_would_share_it() {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (address, _sockets) = bind(any, 2).unwrap();
        assert_eq!(bind(address, 2).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
