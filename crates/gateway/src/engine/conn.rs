//! A client's connection, and what every stage of a request needs from it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use super::buffers::{Buffer, Buffers};
use super::stream::Stream;
use super::wheel::Alarm;
use crate::config::Alpn;
use crate::listen::ListenerState;
use crate::tls::{Agreed, Identity};

/// Requests that a client sent ahead of their turn are read up to this many bytes, then left in the kernel.
const AHEAD_MAX: usize = 16 * 1024;

/// A client's connection.
pub(crate) struct Conn {
    pub(crate) stream: RefCell<Stream>,
    /// What both sides agreed on, and who the client proved to be; `None` without TLS.
    pub(crate) tls: Option<Rc<Agreed>>,
    pub(crate) peer: IpAddr,
    pub(crate) listener: Arc<ListenerState>,
    /// Whether the peer's forwarding, deadline and criticality headers are believed.
    pub(crate) trusted: bool,
    /// The one coarse timer of this connection's task.
    pub(crate) alarm: Rc<Alarm>,
    /// Bytes read but not used yet: a partial head, or requests sent ahead.
    pub(crate) carry: RefCell<Option<Buffer>>,
    pub(crate) requests: Cell<u64>,
    /// It is one of its listener's connections, not a stream on one of them.
    counted: bool,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.alarm.off();
        if self.counted {
            self.listener.on_close();
        }
    }
}

impl Conn {
    pub(crate) fn new(
        stream: Stream,
        tls: Option<Box<Agreed>>,
        peer: IpAddr,
        listener: Arc<ListenerState>,
        alarm: Rc<Alarm>,
    ) -> Self {
        let trusted = listener.params.trusted.iter().any(|network| network.contains(peer));
        Self {
            stream: RefCell::new(stream),
            tls: tls.map(Rc::from),
            peer,
            listener,
            trusted,
            alarm,
            carry: RefCell::new(None),
            requests: Cell::new(0),
            counted: true,
        }
    }

    /// A believed proxy has said whose connection it is.
    pub(crate) fn set_peer(&mut self, peer: IpAddr) {
        self.peer = peer;
        self.trusted = self.listener.params.trusted.iter().any(|network| network.contains(peer));
    }

    /// One stream on the connection `parent`, for the one request that it carries.
    pub(crate) fn of_stream(parent: &Self, stream: Stream, alarm: Rc<Alarm>) -> Self {
        Self {
            stream: RefCell::new(stream),
            tls: parent.tls.clone(),
            peer: parent.peer,
            listener: Arc::clone(&parent.listener),
            trusted: parent.trusted,
            alarm,
            carry: RefCell::new(None),
            requests: Cell::new(0),
            counted: false,
        }
    }

    /// Whether the connection can still be of any protocol: nothing has been asked on it yet.
    pub(crate) fn is_new(&self) -> bool {
        self.counted && self.tls.is_none() && self.requests.get() == 0
    }

    /// The protocol that is spoken above TLS or TCP. A client that named none speaks HTTP/1.1.
    pub(crate) fn protocol(&self) -> Alpn {
        self.tls.as_ref().and_then(|agreed| agreed.alpn).unwrap_or(Alpn::Http11)
    }

    /// Who the client proved to be.
    pub(crate) fn identity(&self) -> Option<&Identity> {
        self.tls.as_ref()?.identity.as_ref()
    }

    /// The header that tells who the client proved to be, if it is told.
    pub(crate) fn identity_field(&self) -> Option<(&str, &Identity)> {
        let name = self.listener.params.tls.as_ref()?.identity_header.as_deref()?;
        Some((name, self.identity()?))
    }

    /// Whether the connection has had as many requests as it may.
    pub(crate) fn last_request(&self) -> bool {
        if !self.counted {
            // Its connection counts.
            return false;
        }
        let max = self.listener.params.limits.requests_per_connection;
        max != 0 && self.requests.get() >= max
    }

    pub(crate) fn has_carry(&self) -> bool {
        self.carry.borrow().is_some()
    }

    /// Keeps `bytes` for the next stage or the next request.
    pub(crate) fn keep(&self, bytes: &[u8], buffers: &Rc<Buffers>) {
        if !bytes.is_empty() {
            self.carry.borrow_mut().get_or_insert_with(|| buffers.take()).extend(bytes);
        }
    }

    /// Reads once into `into`; 0 means that the client will send no more.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.stream.borrow_mut().poll_read(cx, into)
    }

    /// Writes once from `bytes`.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.borrow_mut().poll_write(cx, bytes)
    }

    /// Ready when the kernel has all that was taken to be written.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.borrow_mut().poll_flush(cx)
    }

    /// Makes closing the connection a reset, which no client takes for the end of a whole answer.
    pub(crate) fn break_off(&self) {
        self.stream.borrow_mut().break_off();
    }

    /// Ready once the client is gone. What it sends ahead meanwhile is kept; past a bound it is left in the kernel, and
    /// then its leaving goes unseen until the answer is written.
    ///
    /// A client that closes only its sending half counts as gone, as with nginx and Envoy: nobody can tell it from one
    /// that is.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>, buffers: &Rc<Buffers>) -> Poll<()> {
        if let Stream::Asked(stream) = &mut *self.stream.borrow_mut() {
            return stream.poll_gone(cx);
        }
        loop {
            if self.carry.borrow().as_ref().is_some_and(|carry| carry.len() >= AHEAD_MAX) {
                return Poll::Pending;
            }
            if self.stream.borrow().poll_read_ready(cx).is_pending() {
                return Poll::Pending;
            }
            let mut bytes = [0; 4096];
            match ready!(self.poll_read(cx, &mut bytes)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(count) => self.keep(&bytes[..count], buffers),
            }
        }
    }
}

/// Writes what is left of `pending` until it is empty or the other side takes no more.
pub(crate) fn poll_flush(
    stream: &mut Stream,
    cx: &mut Context<'_>,
    pending: &mut Buffer,
    sent: &mut usize,
) -> Poll<io::Result<()>> {
    while *sent < pending.len() {
        let count = ready!(stream.poll_write(cx, &pending[*sent..]))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        *sent += count;
    }
    ready!(stream.poll_flush(cx))?;
    pending.clear();
    *sent = 0;
    Poll::Ready(Ok(()))
}
