//! Idle connections to endpoints, kept by each worker for itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::stream::Stream;
use crate::fuse::Held;
use model::Instant;

/// An idle connection and since when it idles.
struct Idle {
    stream: Stream,
    until: Instant,
}

/// Ids count up from one; they are spread enough as they are.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = policy::hash(bytes);
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A worker's idle upstream connections, by target.
#[derive(Default)]
pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>, BuildHasherDefault<IdHasher>>>,
}

/// Where a request's connections come from, and where they go when it has done with them.
#[derive(Clone, Copy)]
pub(crate) enum Supply<'a> {
    /// Its worker's pool.
    Worker(&'a Pool),
    /// Its listener's fuse.
    Fuse(&'a Held),
}

impl Supply<'_> {
    /// An idle connection to `target`. Without one, the request opens its own.
    pub(crate) fn take(self, target: u64, now: Instant) -> Option<Stream> {
        match self {
            Self::Worker(pool) => pool.take(target),
            Self::Fuse(held) => held.take(target, now),
        }
    }

    /// Keeps `stream` for up to `keep`; a pool that keeps `idle_max` already closes it.
    pub(crate) fn put(self, target: u64, stream: Stream, now: Instant, keep: Duration, idle_max: u32) {
        if !stream.is_reusable() {
            return;
        }
        match self {
            Self::Worker(pool) => pool.put(target, stream, now, keep, idle_max),
            Self::Fuse(held) => held.put(target, stream, now.after(keep)),
        }
    }

    /// Closes all idle connections to `target`.
    pub(crate) fn forget(self, target: u64) {
        match self {
            Self::Worker(pool) => pool.forget(target),
            Self::Fuse(held) => held.forget(target),
        }
    }
}

/// Whether the kernel has reported anything on an idle connection: it was closed, or the endpoint sent what nobody asked
/// for. Costs no system call: the runtime already knows.
fn disturbed(stream: &mut Stream) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    match stream.poll_read_ready(&mut cx) {
        Poll::Pending => false,
        Poll::Ready(_) => {
            // Readiness may be a left-over; only now is it worth asking the kernel.
            let mut byte = [0];
            !matches!(stream.poll_read(&mut cx, &mut byte), Poll::Pending)
        }
    }
}

impl Pool {
    /// The connection to `target` that idles for the shortest time and still stands.
    pub(crate) fn take(&self, target: u64) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(&target)?;
        while let Some(mut connection) = connections.pop() {
            if !disturbed(&mut connection.stream) {
                return Some(connection.stream);
            }
        }
        None
    }

    /// Closes all idle connections to `target`: one of them turned out to be dead, so the others probably are.
    pub(crate) fn forget(&self, target: u64) {
        self.idle.borrow_mut().remove(&target);
    }

    /// Keeps `stream` for up to `keep`; closes it when `idle_max` are kept already.
    pub(crate) fn put(&self, target: u64, stream: Stream, now: Instant, keep: Duration, idle_max: u32) {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.entry(target).or_default();
        if connections.len() < idle_max as usize {
            connections.push(Idle { stream, until: now.after(keep) });
        }
    }

    /// Closes whatever idled for too long or was closed by the other side. Answers how many idle.
    pub(crate) fn sweep(&self, now: Instant) -> usize {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| {
            connections.retain_mut(|connection| connection.until > now && !disturbed(&mut connection.stream));
            !connections.is_empty()
        });
        idle.values().map(Vec::len).sum()
    }

    /// Closes them all: file descriptors are needed elsewhere.
    pub(crate) fn clear(&self) -> usize {
        self.idle.borrow_mut().drain().map(|(_, connections)| connections.len()).sum()
    }
}
