//! A TLS session over a socket. The handshake is done before anything is read or written here.

use std::fmt;
use std::io::{self, IoSlice, Read, Write};
use std::net::TcpStream as Socket;
use std::ops::Range;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use rustls::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::UpstreamTls;

/// Plain bytes taken ahead of a socket that takes no more. One record, so that what follows the answer waits.
const AHEAD_MAX: usize = 16 * 1024;
/// Enciphered bytes that one call to the kernel brings, once a connection carries more than heads.
const BULK: usize = 64 * 1024;
/// What rustls reads by itself.
const READ: usize = 4096;

/// What is known of a session beside its socket.
pub(crate) struct Session {
    tls: Connection,
    /// Plain bytes that have come and were not read yet.
    unread: usize,
    /// The socket has ended or failed, or the session has.
    over: bool,
    /// Nothing is said at the end.
    silent: bool,
    /// Room for enciphered bytes on their way to rustls; empty but in the middle of a large message.
    bulk: Vec<u8>,
    /// The part of `bulk` that rustls has not taken yet.
    untaken: Range<usize>,
    /// The last read filled rustls' own buffer: more is to come.
    busy: bool,
    /// As what it was opened to an endpoint.
    origin: Weak<UpstreamTls>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("unread", &self.unread).field("over", &self.over).finish()
    }
}

/// A session with its socket.
pub(crate) struct TlsStream {
    /// `None` only once it was taken apart.
    parts: Option<(TcpStream, Box<Session>)>,
}

/// The socket for rustls, which knows no polling.
struct Io<'a, 'c, 'w> {
    socket: &'a mut TcpStream,
    cx: &'c mut Context<'w>,
}

fn not_yet<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl Read for Io<'_, '_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(into);
        not_yet(Pin::new(&mut *self.socket).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl Write for Io<'_, '_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        not_yet(Pin::new(&mut *self.socket).poll_write(self.cx, bytes))
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        not_yet(Pin::new(&mut *self.socket).poll_write_vectored(self.cx, pieces))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The socket for rustls where nobody waits for it.
struct Now<'a>(&'a TcpStream);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Session {
    fn new(tls: Connection) -> Self {
        Self {
            tls,
            unread: 0,
            over: false,
            silent: false,
            bulk: Vec::new(),
            untaken: 0..0,
            busy: false,
            origin: Weak::new(),
        }
    }

    /// Hands out plain bytes that have come. `None` when more must come first.
    fn read(&mut self, into: &mut [u8]) -> Option<io::Result<usize>> {
        match self.tls.reader().read(into) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            result => {
                if let Ok(count) = result {
                    self.unread = self.unread.saturating_sub(count);
                }
                Some(result)
            }
        }
    }

    /// Gives rustls more to decipher. Ready with false at the socket's end.
    fn poll_fill(&mut self, cx: &mut Context<'_>, socket: &mut TcpStream) -> Poll<io::Result<bool>> {
        if self.untaken.is_empty() && !self.busy {
            let count = match self.tls.read_tls(&mut Io { socket, cx }) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                result => result?,
            };
            self.busy = count >= READ;
            return Poll::Ready(Ok(count > 0));
        }
        if self.untaken.is_empty() {
            self.bulk.resize(BULK, 0);
            let mut buf = ReadBuf::new(&mut self.bulk);
            let read = Pin::new(socket).poll_read(cx, &mut buf);
            self.untaken = 0..buf.filled().len();
            self.busy = self.untaken.end == BULK;
            if self.untaken.is_empty() {
                // Idle connections keep no buffer.
                self.bulk = Vec::new();
            }
            ready!(read)?;
        }
        let count = self.tls.read_tls(&mut self.bulk.get(self.untaken.clone()).unwrap_or_default())?;
        self.untaken.start += count;
        if self.untaken.is_empty() && !self.busy {
            self.bulk = Vec::new();
        }
        Poll::Ready(Ok(count > 0))
    }

    /// Deciphers what has come.
    fn digest(&mut self) -> io::Result<()> {
        let state = self.tls.process_new_packets().map_err(io::Error::other)?;
        self.unread = state.plaintext_bytes_to_read();
        Ok(())
    }
}

impl TlsStream {
    /// A session that is yet to be agreed on; see [`TlsStream::poll_handshake`].
    pub(crate) fn new(socket: TcpStream, tls: Connection) -> Self {
        Self { parts: Some((socket, Box::new(Session::new(tls)))) }
    }

    /// Remembers as what it was opened to an endpoint.
    pub(crate) fn opened_as(mut self, origin: &Arc<UpstreamTls>) -> Self {
        self.parts().1.origin = Arc::downgrade(origin);
        self
    }

    pub(crate) fn belongs_to(&self, origin: &Arc<UpstreamTls>) -> bool {
        std::ptr::eq(self.session().origin.as_ptr(), Arc::as_ptr(origin))
    }

    pub(crate) fn from_parts(socket: TcpStream, session: Box<Session>) -> Self {
        Self { parts: Some((socket, session)) }
    }

    /// Takes the socket off its runtime.
    pub(crate) fn into_parts(mut self) -> io::Result<(Socket, Box<Session>)> {
        let (socket, session) = self.parts.take().expect("taken apart once");
        Ok((socket.into_std()?, session))
    }

    fn parts(&mut self) -> (&mut TcpStream, &mut Session) {
        let (socket, session) = self.parts.as_mut().expect("not taken apart");
        (socket, session)
    }

    pub(crate) fn socket(&self) -> &TcpStream {
        &self.parts.as_ref().expect("not taken apart").0
    }

    fn session(&self) -> &Session {
        &self.parts.as_ref().expect("not taken apart").1
    }

    /// What both sides agreed on.
    pub(crate) fn tls(&self) -> &Connection {
        &self.session().tls
    }

    /// Agrees on a session. An error has been told to the other side as well as could be without waiting for it.
    pub(crate) fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (socket, session) = self.parts();
        loop {
            let mut blocked = false;
            while session.tls.wants_write() {
                match session.tls.write_tls(&mut Io { socket, cx }) {
                    Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        blocked = true;
                        break;
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
            if !session.tls.is_handshaking() {
                return if blocked { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            if !ready!(session.poll_fill(cx, socket))? {
                session.over = true;
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if let Err(error) = session.digest() {
                session.over = true;
                let _ = session.tls.write_tls(&mut Now(socket));
                return Poll::Ready(Err(error));
            }
        }
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        // Whoever waits for an answer must have asked: nobody else looks after what the socket has not taken yet.
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        let (socket, session) = self.parts();
        loop {
            if let Some(result) = session.read(into) {
                session.over |= !matches!(result, Ok(count) if count > 0);
                return Poll::Ready(result);
            }
            match ready!(session.poll_fill(cx, socket)) {
                Ok(_) => {}
                Err(error) => {
                    session.over = true;
                    return Poll::Ready(Err(error));
                }
            }
            if let Err(error) = session.digest() {
                session.over = true;
                let _ = session.tls.write_tls(&mut Now(socket));
                return Poll::Ready(Err(error));
            }
            // New keys may have been asked for.
            if session.tls.wants_write() {
                let _ = session.tls.write_tls(&mut Now(socket));
            }
        }
    }

    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let session = self.session();
        if session.unread > 0 || session.over || !session.untaken.is_empty() {
            return Poll::Ready(Ok(()));
        }
        self.socket().poll_read_ready(cx)
    }

    /// Enciphers up to a record once the kernel has taken all that came before.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(cx))?;
        let session = self.parts().1;
        let count = session.tls.writer().write(&bytes[..bytes.len().min(AHEAD_MAX)])?;
        // Whoever has more to write would wait in the next call; whoever has not flushes.
        if let Poll::Ready(Err(error)) = self.poll_flush(cx) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(count))
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (socket, session) = self.parts();
        while session.tls.wants_write() {
            match session.tls.write_tls(&mut Io { socket, cx }) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Enciphers `pieces` up to what one answer of an endpoint brings at once, and writes what the kernel takes.
    pub(crate) fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        let (socket, session) = self.parts();
        if session.tls.wants_write() {
            return Ok(0);
        }
        let count = session.tls.writer().write_vectored(pieces)?;
        while session.tls.wants_write()
            && session.tls.write_tls(&mut Now(socket)).is_ok_and(|count| count > 0)
        {}
        Ok(count)
    }

    /// Tells the other side that all has been said, if the kernel takes that at once.
    pub(crate) fn say_goodbye(&mut self) {
        let (socket, session) = self.parts();
        if session.silent || session.tls.is_handshaking() {
            return;
        }
        session.silent = true;
        session.tls.send_close_notify();
        while session.tls.wants_write()
            && session.tls.write_tls(&mut Now(socket)).is_ok_and(|count| count > 0)
        {}
    }

    /// Nothing is said at the end: it is none.
    pub(crate) fn leave_unsaid(&mut self) {
        self.parts().1.silent = true;
    }
}

impl Drop for TlsStream {
    fn drop(&mut self) {
        if self.parts.is_some() {
            self.say_goodbye();
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = ready!(TlsStream::poll_read(self.get_mut(), cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        TlsStream::poll_write(self.get_mut(), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        TlsStream::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(TlsStream::poll_flush(stream, cx))?;
        stream.say_goodbye();
        Poll::Ready(Ok(()))
    }
}
