//! Bodies: DATA frames as HTTP/1.1 frames them, and back.

use std::io::{self, Write as _};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};

use super::{head, io_error};
use crate::codec::{Body, Malformed};

/// Room for a chunk's size line and the end of its data.
const CHUNK_FRAME: usize = 20;

/// What comes in: a head, then a body, as bytes of HTTP/1.1.
pub(crate) struct Inbound {
    /// Lines to hand out next, and how much of them was.
    lines: Vec<u8>,
    at: usize,
    /// Where data comes from, until it ends.
    recv: Option<RecvStream>,
    data: Bytes,
    chunked: bool,
}

impl Inbound {
    /// `lines` is the head; with `chunked` the body that follows is framed so.
    pub(crate) fn new(lines: Vec<u8>, recv: Option<RecvStream>, chunked: bool) -> Self {
        Self { lines, at: 0, recv, data: Bytes::new(), chunked }
    }

    /// Lines that go out before anything else that has not gone out yet.
    pub(crate) fn more_lines(&mut self) -> &mut Vec<u8> {
        &mut self.lines
    }

    /// Follows the head with a body.
    pub(crate) fn follow(&mut self, recv: Option<RecvStream>, chunked: bool) {
        (self.recv, self.chunked) = (recv, chunked);
    }

    pub(crate) fn has_lines(&self) -> bool {
        self.at < self.lines.len()
    }

    /// Fills `into` with what is there; 0 at the end. What was handed out makes room for more from the peer.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut filled = 0;
        loop {
            let room = &mut into[filled..];
            if self.at < self.lines.len() {
                let count = (self.lines.len() - self.at).min(room.len());
                room[..count].copy_from_slice(&self.lines[self.at..self.at + count]);
                self.at += count;
                filled += count;
                if self.at == self.lines.len() {
                    self.lines.clear();
                    self.at = 0;
                }
            } else if !self.data.is_empty() {
                filled += self.hand_out(room)?;
            }
            if self.at < self.lines.len() || !self.data.is_empty() || filled == into.len() {
                return Poll::Ready(Ok(filled));
            }
            let Some(recv) = &mut self.recv else { return Poll::Ready(Ok(filled)) };
            match recv.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) => self.data = data,
                // What came before is handed out first; the error comes again.
                Poll::Ready(Some(Err(_))) if filled > 0 => return Poll::Ready(Ok(filled)),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io_error(&error))),
                Poll::Ready(None) => match recv.poll_trailers(cx) {
                    Poll::Ready(Ok(trailers)) => {
                        self.recv = None;
                        if self.chunked {
                            self.lines.extend_from_slice(b"0\r\n");
                            if let Some(trailers) = trailers {
                                head::write_trailers(&trailers, &mut self.lines);
                            }
                            self.lines.extend_from_slice(b"\r\n");
                        }
                    }
                    Poll::Ready(Err(_)) if filled > 0 => return Poll::Ready(Ok(filled)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(io_error(&error))),
                    Poll::Pending if filled > 0 => return Poll::Ready(Ok(filled)),
                    Poll::Pending => return Poll::Pending,
                },
                Poll::Pending if filled > 0 => return Poll::Ready(Ok(filled)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Writes data into `room`, as one chunk if there are chunks; 0 when nothing fits.
    fn hand_out(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let frame = if self.chunked { CHUNK_FRAME } else { 0 };
        let count = self.data.len().min(room.len().saturating_sub(frame));
        if count == 0 {
            return Ok(0);
        }
        let mut out = io::Cursor::new(room);
        if self.chunked {
            write!(out, "{count:x}\r\n")?;
        }
        out.write_all(&self.data[..count])?;
        if self.chunked {
            out.write_all(b"\r\n")?;
        }
        self.data.advance(count);
        if let Some(recv) = &mut self.recv {
            // Fails only for a stream that is over, whose room nobody waits for.
            let _ = recv.flow_control().release_capacity(count);
        }
        Ok(out.position() as usize)
    }
}

/// What goes out: a body of HTTP/1.1 framing, as DATA frames and trailers.
pub(crate) struct Outbound {
    send: SendStream<Bytes>,
    body: Body,
    /// Data that the peer's window has no room for yet.
    staged: Bytes,
    /// The body's end has been sent, or the stream was reset.
    over: bool,
}

impl Outbound {
    /// A body framed as `body` says, behind a head that was sent without the end of the stream.
    pub(crate) fn new(send: SendStream<Bytes>, body: Body) -> Self {
        Self { send, body, staged: Bytes::new(), over: false }
    }

    /// A message that ended with its head.
    pub(crate) fn ended(send: SendStream<Bytes>) -> Self {
        Self { send, body: Body::None, staged: Bytes::new(), over: true }
    }

    /// Whether all of it has been handed to the connection.
    pub(crate) fn over(&self) -> bool {
        self.over
    }

    /// Takes bytes of the body once the window had room for all before them. They are on their way when
    /// [`Outbound::poll_flush`] says so.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        if self.over {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let taken = self.stage(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        match self.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(taken)),
        }
    }

    fn stage(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        if !matches!(self.body, Body::Chunked(_)) {
            let taken = self.body.advance(bytes)?.consumed;
            self.staged = Bytes::copy_from_slice(&bytes[..taken]);
            return Ok(taken);
        }
        let mut data = Vec::with_capacity(bytes.len());
        let taken = self.body.advance_data(bytes, |part| data.extend_from_slice(part))?.consumed;
        self.staged = data.into();
        Ok(taken)
    }

    /// Sends what is staged as the window opens, and the end when it has come.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.staged.is_empty() {
            self.send.reserve_capacity(self.staged.len());
            let mut room = self.send.capacity();
            if room == 0 {
                room = match ready!(self.send.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(error)) => return Poll::Ready(Err(io_error(&error))),
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                };
            }
            let part = self.staged.split_to(room.min(self.staged.len()));
            if part.is_empty() {
                continue;
            }
            let last = self.staged.is_empty() && self.body.finished() && self.body.trailers().is_empty();
            self.send.send_data(part, last).map_err(|error| io_error(&error))?;
            self.over |= last;
        }
        if self.body.finished() && !self.over {
            self.end()?;
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self) -> io::Result<()> {
        let trailers = self.body.trailers();
        let sent = if trailers.is_empty() {
            self.send.send_data(Bytes::new(), true)
        } else {
            let trailers =
                head::trailers(trailers).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
            self.send.send_trailers(trailers)
        };
        self.over = true;
        sent.map_err(|error| io_error(&error))
    }

    /// The sender has closed its connection: the end of a body that says so, the loss of any other.
    pub(crate) fn close(&mut self) {
        if !self.over && self.staged.is_empty() && matches!(self.body, Body::UntilClose) {
            // Fails only for a stream that is over.
            let _ = self.send.send_data(Bytes::new(), true);
            self.over = true;
        }
    }

    /// Ends the stream so that nobody takes what has come for the whole.
    pub(crate) fn reset(&mut self, reason: Reason) {
        if !self.over {
            self.send.send_reset(reason);
            self.over = true;
        }
    }

    /// Ready when the peer has reset the stream, or its connection is gone.
    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }
}
