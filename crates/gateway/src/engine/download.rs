//! An answer on its way to the client.

use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

use super::buffers::Buffer;
use super::conn::{Conn, poll_read};
use super::worker::Worker;
use crate::codec::{Body, Malformed, write_last_chunk};

/// Why an answer stopped half-way. The client cannot be told any more: its connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DownloadError {
    /// The client left.
    ClientGone,
    /// The endpoint closed the connection in the middle of the body.
    Truncated,
    /// The endpoint's framing is wrong.
    Malformed(Malformed),
}

/// Which side a download waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    Client,
    Upstream,
}

/// The answer's bytes that have not reached the client yet.
pub(crate) struct Download {
    body: Body,
    /// Head and body as the client gets them.
    pending: Buffer,
    sent: usize,
    /// The client cannot read chunks.
    dechunk: bool,
    /// The endpoint sent more than its answer: the connection cannot be used again.
    pub(crate) overrun: bool,
    /// Bytes of the body forwarded.
    pub(crate) bytes: u64,
    pub(crate) waits: Waits,
    /// Bytes have moved since the flag was last cleared.
    pub(crate) progress: bool,
}

impl Download {
    /// `pending` holds the head; `first` is what arrived behind it.
    pub(crate) fn new(
        body: Body,
        pending: Buffer,
        dechunk: bool,
        first: &[u8],
    ) -> Result<Self, DownloadError> {
        let mut download = Self {
            body,
            pending,
            sent: 0,
            dechunk,
            overrun: false,
            bytes: 0,
            waits: Waits::Upstream,
            progress: false,
        };
        if !first.is_empty() || download.body.finished() {
            download.feed(first)?;
        }
        Ok(download)
    }

    /// Whether all of the answer has come from the endpoint.
    pub(crate) fn arrived(&self) -> bool {
        self.body.finished()
    }

    /// Whether the client learns only from the connection's end that the answer has ended.
    pub(crate) fn ends_by_closing(&self) -> bool {
        self.dechunk || matches!(self.body, Body::UntilClose)
    }

    fn feed(&mut self, input: &[u8]) -> Result<(), DownloadError> {
        let before = self.pending.len();
        let advance = if self.dechunk {
            let pending = &mut self.pending;
            self.body.advance_data(input, |data| pending.extend(data)).map_err(DownloadError::Malformed)?
        } else {
            let advance = self.body.advance(input).map_err(DownloadError::Malformed)?;
            self.pending.extend(&input[..advance.forward]);
            advance
        };
        self.bytes += (self.pending.len() - before) as u64;
        self.overrun |= advance.consumed < input.len();
        if advance.done && !self.dechunk && matches!(self.body, Body::Chunked(_)) {
            write_last_chunk(self.body.trailers(), &mut self.pending);
        }
        Ok(())
    }

    /// Moves bytes until all of the answer has reached the client.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        conn: &Conn,
        upstream: &mut TcpStream,
    ) -> Poll<Result<(), DownloadError>> {
        loop {
            self.waits = Waits::Client;
            while self.sent < self.pending.len() {
                match ready!(conn.poll_write(cx, &self.pending[self.sent..])) {
                    Ok(count) if count > 0 => self.sent += count,
                    _ => return Poll::Ready(Err(DownloadError::ClientGone)),
                }
                self.progress = true;
            }
            self.pending.clear();
            self.sent = 0;
            if self.arrived() {
                return Poll::Ready(Ok(()));
            }
            self.waits = Waits::Upstream;
            let mut scratch = worker.scratch.borrow_mut();
            match ready!(poll_read(upstream, cx, &mut scratch)) {
                Ok(0) if self.body.may_close() => return Poll::Ready(Ok(())),
                Ok(0) | Err(_) => return Poll::Ready(Err(DownloadError::Truncated)),
                Ok(count) => {
                    self.progress = true;
                    // The common case of a long body: straight from the read buffer to the client.
                    if !self.dechunk && matches!(self.body, Body::Length(_) | Body::UntilClose) {
                        self.pass(cx, conn, &scratch[..count])?;
                    } else {
                        self.feed(&scratch[..count])?;
                    }
                }
            }
        }
    }

    /// Writes what the client takes at once and keeps the rest.
    fn pass(&mut self, cx: &mut Context<'_>, conn: &Conn, input: &[u8]) -> Result<(), DownloadError> {
        let advance = self.body.advance(input).map_err(DownloadError::Malformed)?;
        self.overrun |= advance.consumed < input.len();
        self.bytes += advance.forward as u64;
        let written = match conn.poll_write(cx, &input[..advance.forward]) {
            Poll::Ready(Ok(count)) => count,
            Poll::Ready(Err(_)) => return Err(DownloadError::ClientGone),
            Poll::Pending => 0,
        };
        self.pending.extend(&input[written..advance.forward]);
        Ok(())
    }
}
