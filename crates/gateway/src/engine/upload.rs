//! A request's body on its way to an endpoint, kept for another attempt while it is small enough.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::buffers::{Buffer, Buffers};
use super::conn::Conn;
use super::stream::Stream;
use super::worker::Worker;
use crate::codec::{Body, Malformed, write_last_chunk};
use crate::grpc::{Messages, TooLong};

/// Why a body stopped half-way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadError {
    /// The client left.
    ClientGone,
    /// The client's framing is wrong.
    Malformed(Malformed),
    /// The body is larger than allowed.
    TooLarge,
    /// The endpoint takes no more. It may still answer.
    Upstream,
}

/// The body of one request, over all of its attempts.
pub(crate) struct Upload {
    body: Body,
    /// While the body can be replayed: all of it that has arrived, as it goes out. After that: what was not sent yet.
    kept: Buffer,
    /// Bytes of `kept` that went out in this attempt.
    sent: usize,
    replayable: bool,
    replay_max: usize,
    /// An attempt has had a connection to send it on.
    begun: bool,
    /// Bytes that arrived.
    pub(crate) bytes: u64,
    bytes_max: u64,
    /// Where the messages of a gRPC call end, if their length is bounded.
    messages: Option<Messages>,
}

impl Upload {
    pub(crate) fn new(
        body: Body,
        replay_max: usize,
        bytes_max: u64,
        messages: Option<Messages>,
        buffers: &Rc<Buffers>,
    ) -> Self {
        Self {
            body,
            kept: buffers.take(),
            sent: 0,
            replayable: true,
            replay_max,
            begun: false,
            bytes: 0,
            bytes_max,
            messages,
        }
    }

    /// Whether all of it has arrived and gone out.
    pub(crate) fn done(&self) -> bool {
        self.arrived() && self.sent == self.kept.len()
    }

    /// Whether all of it has arrived. A body that is larger than allowed never has: what was read behind its end is lost.
    pub(crate) fn arrived(&self) -> bool {
        self.body.finished() && self.bytes <= self.bytes_max
    }

    /// Whether all that has arrived went out, and more must come from the client.
    pub(crate) fn waits_for_client(&self) -> bool {
        !self.arrived() && self.sent == self.kept.len()
    }

    /// Whether another attempt could send it from the beginning.
    pub(crate) fn replayable(&self) -> bool {
        self.replayable || !self.begun
    }

    /// Takes what has already arrived, so that a small body goes out together with its head.
    pub(crate) fn absorb(&mut self, conn: &Conn, buffers: &Rc<Buffers>) -> Result<(), UploadError> {
        if self.arrived() {
            return Ok(());
        }
        let Some(carry) = conn.carry.take() else { return Ok(()) };
        let consumed = self.feed(&carry)?;
        conn.keep(&carry[consumed..], buffers);
        Ok(())
    }

    /// Begins another attempt: appends what is kept to `wire` when it is small, so that one write carries both.
    pub(crate) fn restart(&mut self, wire: &mut Buffer) {
        const TOGETHER_MAX: usize = 16 * 1024;
        self.begun = true;
        self.sent = 0;
        if self.kept.len() <= TOGETHER_MAX {
            wire.extend(&self.kept);
            self.sent = self.kept.len();
        }
    }

    /// Takes bytes of the stream; answers how many belong to this body.
    fn feed(&mut self, input: &[u8]) -> Result<usize, UploadError> {
        let mut short = Ok(());
        let messages = &mut self.messages;
        let advance = self.body.advance_data(input, |data| {
            if let (Some(messages), Ok(())) = (messages.as_mut(), short) {
                short = messages.advance(data);
            }
        });
        let advance = advance.map_err(UploadError::Malformed)?;
        if let Err(TooLong) = short {
            // As with a body that is too large: what lies behind it is lost.
            self.bytes_max = 0;
        }
        self.bytes += advance.forward as u64;
        if self.bytes > self.bytes_max {
            return Err(UploadError::TooLarge);
        }
        if self.replayable && self.kept.len() + advance.forward > self.replay_max {
            self.replayable = false;
            self.kept.consume(self.sent);
            self.sent = 0;
        }
        self.kept.extend(&input[..advance.forward]);
        if advance.done && matches!(self.body, Body::Chunked(_)) {
            write_last_chunk(self.body.trailers(), &mut self.kept);
        }
        Ok(advance.consumed)
    }

    /// Sends on what has arrived and reads more, until all went out. `progress` is set when bytes moved.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        conn: &Conn,
        upstream: &mut Stream,
        progress: &mut bool,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            while self.sent < self.kept.len() {
                match ready!(upstream.poll_write(cx, &self.kept[self.sent..])) {
                    Ok(count) if count > 0 => self.sent += count,
                    _ => return Poll::Ready(Err(UploadError::Upstream)),
                }
                *progress = true;
            }
            if ready!(upstream.poll_flush(cx)).is_err() {
                return Poll::Ready(Err(UploadError::Upstream));
            }
            if !self.replayable {
                self.kept.clear();
                self.sent = 0;
            }
            if self.arrived() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_more(cx, worker, conn))?;
            *progress = true;
        }
    }

    /// Takes the next bytes that the client sent.
    fn poll_more(
        &mut self,
        cx: &mut Context<'_>,
        worker: &Worker,
        conn: &Conn,
    ) -> Poll<Result<(), UploadError>> {
        if conn.has_carry() {
            return Poll::Ready(self.absorb(conn, &worker.buffers));
        }
        let mut scratch = worker.scratch.borrow_mut();
        match ready!(conn.poll_read(cx, &mut scratch)) {
            Ok(0) | Err(_) => Poll::Ready(Err(UploadError::ClientGone)),
            Ok(count) => {
                let consumed = self.feed(&scratch[..count])?;
                conn.keep(&scratch[consumed..count], &worker.buffers);
                Poll::Ready(Ok(()))
            }
        }
    }
}
