//! A connection's bytes as the h2 library reads and writes them, with the meter in between.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::PREFACE;
use super::meter::{Flood, Meter};
use crate::engine::conn::Conn;
use crate::engine::stream::Stream;
use crate::engine::worker::Worker;

/// What the connection's task and its wire share.
pub(crate) struct Watch {
    meter: RefCell<Meter>,
    /// What was flooded with. Nothing more is read from then on.
    pub(crate) flood: Cell<Option<Flood>>,
    /// Bytes have come since the flag was last cleared.
    pub(crate) heard: Cell<bool>,
}

impl Watch {
    pub(crate) fn new(meter: Meter) -> Rc<Self> {
        Rc::new(Self { meter: RefCell::new(meter), flood: Cell::new(None), heard: Cell::new(false) })
    }

    /// A request was answered to its end.
    pub(crate) fn on_answer(&self) {
        self.meter.borrow_mut().on_answer();
    }
}

/// What lies below a connection of HTTP/2.
enum Below {
    /// A client's connection, whose first bytes may have been read already.
    Client(Rc<Conn>),
    Endpoint(Stream),
}

/// A connection's bytes on their way to and from the h2 library.
pub(crate) struct Wire {
    worker: Rc<Worker>,
    below: Below,
    /// Bytes of the preface that the meter has not passed yet.
    preface: usize,
    watch: Rc<Watch>,
}

impl Wire {
    /// A connection whose peer, a client, begins with the preface.
    pub(crate) fn from_client(worker: &Rc<Worker>, conn: &Rc<Conn>, watch: &Rc<Watch>) -> Self {
        let (worker, watch) = (Rc::clone(worker), Rc::clone(watch));
        Self { worker, below: Below::Client(Rc::clone(conn)), preface: PREFACE.len(), watch }
    }

    /// A connection to an endpoint.
    pub(crate) fn to_endpoint(worker: &Rc<Worker>, stream: Stream, watch: &Rc<Watch>) -> Self {
        let (worker, watch) = (Rc::clone(worker), Rc::clone(watch));
        Self { worker, below: Below::Endpoint(stream), preface: 0, watch }
    }

    fn on<R>(&mut self, work: impl FnOnce(&mut Stream) -> R) -> R {
        match &mut self.below {
            Below::Client(conn) => work(&mut conn.stream.borrow_mut()),
            Below::Endpoint(stream) => work(stream),
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        if let Below::Client(conn) = &self.below
            && let Some(mut carry) = conn.carry.take()
        {
            let count = carry.len().min(into.len());
            into[..count].copy_from_slice(&carry[..count]);
            carry.consume(count);
            if !carry.is_empty() {
                conn.carry.replace(Some(carry));
            }
            return Poll::Ready(Ok(count));
        }
        self.on(|stream| stream.poll_read(cx, into))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = &mut *self;
        if wire.watch.flood.get().is_some() {
            // The connection's task says goodbye; nobody listens any more.
            return Poll::Pending;
        }
        let into = buf.initialize_unfilled();
        let count = ready!(wire.poll_fill(cx, into))?;
        let bytes = &into[..count];
        wire.watch.heard.set(true);
        let skipped = wire.preface.min(count);
        wire.preface -= skipped;
        let now = wire.worker.tell_time();
        if let Err(flood) = wire.watch.meter.borrow_mut().on_received(&bytes[skipped..], now) {
            wire.watch.flood.set(Some(flood));
            return Poll::Pending;
        }
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(self.on(|stream| stream.poll_write(cx, bytes)))?;
        self.watch.meter.borrow_mut().on_sent(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.on(|stream| match stream {
            Stream::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, pieces),
            stream => {
                let first = pieces.iter().find(|piece| !piece.is_empty());
                stream.poll_write(cx, first.map_or(&[], |piece| piece))
            }
        });
        let count = ready!(written)?;
        self.watch.meter.borrow_mut().on_sent(count);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.on(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.on(|stream| stream.poll_flush(cx)))?;
        self.on(Stream::close_write);
        Poll::Ready(Ok(()))
    }
}
