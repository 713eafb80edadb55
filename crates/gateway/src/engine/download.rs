//! An answer on its way to the client.

use std::io::IoSlice;
use std::task::{Context, Poll, ready};

use super::buffers::Buffer;
use super::conn::Conn;
use super::stream::Stream;
use super::worker::Worker;
use crate::codec::{Body, Malformed, write_last_chunk};
use crate::grpc::Code;

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
    /// `pending` holds the head; `first` is what arrived behind it. With `client`, the answer is certain to go out, so that a
    /// large `first` is offered to the client at once, straight from the read buffer.
    pub(crate) fn new(
        body: Body,
        pending: Buffer,
        dechunk: bool,
        first: &[u8],
        client: Option<&Conn>,
    ) -> Result<Self, DownloadError> {
        /// Smaller ones are cheaper copied behind the head.
        const LARGE: usize = 2048;
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
        match client {
            Some(client) if first.len() >= LARGE && download.verbatim() => download.offer(client, first)?,
            _ if first.is_empty() && !download.body.finished() => {}
            _ => download.feed(first)?,
        }
        Ok(download)
    }

    /// Whether the body's bytes are the client's as they come, with nothing to add behind them.
    fn verbatim(&self) -> bool {
        !self.dechunk && matches!(self.body, Body::Length(_) | Body::UntilClose)
    }

    /// Writes what is pending and `input` in one call, and keeps what the client does not take.
    fn offer(&mut self, client: &Conn, input: &[u8]) -> Result<(), DownloadError> {
        let input = self.account(input)?;
        let both = [IoSlice::new(&self.pending), IoSlice::new(input)];
        // A failure shows again when the rest is written.
        let taken = client.stream.borrow_mut().try_write_vectored(&both).unwrap_or(0);
        let head = taken.min(self.pending.len());
        self.pending.consume(head);
        self.pending.extend(&input[taken - head..]);
        Ok(())
    }

    /// Counts `input` as arrived and answers the part of it that goes on.
    fn account<'i>(&mut self, input: &'i [u8]) -> Result<&'i [u8], DownloadError> {
        let advance = self.body.advance(input).map_err(DownloadError::Malformed)?;
        self.overrun |= advance.consumed < input.len();
        self.bytes += advance.forward as u64;
        Ok(&input[..advance.forward])
    }

    /// Whether all of the answer has come from the endpoint.
    pub(crate) fn arrived(&self) -> bool {
        self.body.finished()
    }

    /// How the call of gRPC ended whose answer this is, once all of it has come.
    pub(crate) fn grpc_status(&self) -> Option<Code> {
        Code::find(self.body.trailers().iter())
    }

    /// Whether the client learns only from the connection's end that the answer has ended.
    pub(crate) fn ends_by_closing(&self) -> bool {
        self.dechunk || matches!(self.body, Body::UntilClose)
    }

    /// Appends `input` to what is pending, as the client gets it.
    fn feed(&mut self, input: &[u8]) -> Result<(), DownloadError> {
        if self.dechunk {
            let before = self.pending.len();
            let pending = &mut self.pending;
            let advance = self
                .body
                .advance_data(input, |data| pending.extend(data))
                .map_err(DownloadError::Malformed)?;
            self.bytes += (self.pending.len() - before) as u64;
            self.overrun |= advance.consumed < input.len();
            return Ok(());
        }
        let input = self.account(input)?;
        self.pending.extend(input);
        if self.body.finished() && matches!(self.body, Body::Chunked(_)) {
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
        upstream: &mut Stream,
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
            if ready!(conn.poll_flush(cx)).is_err() {
                return Poll::Ready(Err(DownloadError::ClientGone));
            }
            self.pending.clear();
            self.sent = 0;
            if self.arrived() {
                return Poll::Ready(Ok(()));
            }
            self.waits = Waits::Upstream;
            let mut scratch = worker.scratch.borrow_mut();
            match ready!(upstream.poll_read(cx, &mut scratch)) {
                Ok(0) if self.body.may_close() => return Poll::Ready(Ok(())),
                Ok(0) | Err(_) => return Poll::Ready(Err(DownloadError::Truncated)),
                Ok(count) => {
                    self.progress = true;
                    if self.verbatim() {
                        self.offer(conn, &scratch[..count])?;
                    } else {
                        self.feed(&scratch[..count])?;
                    }
                }
            }
        }
    }
}
