//! A connection's bytes, as they are meant: over plain TCP, or out of a TLS session.
//!
//! One enum for both sides of the gateway, decided once for each connection. Plain connections pay one predictable branch
//! for it; they have no box, no virtual call and no buffer of their own.

use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream as Socket};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::h2::client::Asking;
use super::h2::server::Asked;
use crate::config::Alpn;
use crate::tls::{Security, Session, TlsStream};

/// A connection to a client or to an endpoint.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(TlsStream),
    /// A client's stream of HTTP/2, shown as a connection.
    Asked(Box<Asked>),
    /// A stream of HTTP/2 to an endpoint, shown as a connection.
    Asking(Box<Asking>),
}

/// Why there is no connection to an endpoint.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// It does not accept one.
    Connect(io::Error),
    /// It does, and cannot be talked to in private.
    Secure(io::Error),
}

impl OpenError {
    pub(crate) fn into_inner(self) -> io::Error {
        match self {
            Self::Connect(error) | Self::Secure(error) => error,
        }
    }
}

impl Stream {
    /// Opens a connection to the endpoint that the configuration calls `name`, and offers these protocols where there is TLS.
    pub(crate) async fn open(
        address: SocketAddr,
        name: &str,
        security: &Security,
        offer: &[Alpn],
    ) -> Result<Self, OpenError> {
        let socket = TcpStream::connect(address).await.map_err(OpenError::Connect)?;
        // Without it small requests wait for acknowledgements; a failure costs latency, nothing else.
        let _ = socket.set_nodelay(true);
        match security {
            Security::Plain => Ok(Self::Plain(socket)),
            Security::Tls(tls) => {
                tls.connect(socket, name, offer).await.map(Self::Tls).map_err(OpenError::Secure)
            }
            Security::Unusable => Err(OpenError::Secure(io::Error::other("its service's TLS is not loaded"))),
        }
    }

    /// The socket below; a stream of HTTP/2 has none of its own.
    pub(crate) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(tls) => Some(tls.socket()),
            Self::Asked(_) | Self::Asking(_) => None,
        }
    }

    /// The protocol that TLS agreed on.
    pub(crate) fn alpn(&self) -> Option<Alpn> {
        match self {
            Self::Tls(tls) => tls.tls().alpn_protocol().and_then(Alpn::of_wire),
            _ => None,
        }
    }

    /// Whether it was opened as `security`, what its service asks for now.
    pub(crate) fn fits(&self, security: &Security) -> bool {
        match (self, security) {
            (Self::Plain(_), Security::Plain) => true,
            (Self::Tls(stream), Security::Tls(tls)) => stream.belongs_to(tls),
            _ => false,
        }
    }

    /// Reads once into `into`; 0 means that the other side will send no more, and meant to. A session that ends without
    /// saying so is an error: somebody may have cut it.
    #[inline]
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => read_socket(socket, cx, into),
            Self::Tls(tls) => tls.poll_read(cx, into),
            Self::Asked(stream) => stream.poll_read(cx, into),
            Self::Asking(stream) => stream.poll_read(cx, into),
        }
    }

    /// Whether reading could bring anything. May be wrong in saying that it could, but not twice without a read between.
    #[inline]
    pub(crate) fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(socket) => socket.poll_read_ready(cx),
            Self::Tls(tls) => tls.poll_read_ready(cx),
            // Nobody waits for the first byte of a stream: it is there.
            Self::Asked(_) | Self::Asking(_) => Poll::Ready(Ok(())),
        }
    }

    /// Takes bytes to write. Those of a session are not on their way before [`Stream::poll_flush`] says so.
    #[inline]
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, bytes),
            Self::Asked(stream) => stream.poll_write(cx, bytes),
            Self::Asking(stream) => stream.poll_write(cx, bytes),
        }
    }

    /// Ready when the kernel has all that was taken to be written.
    #[inline]
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush(cx),
            Self::Asked(stream) => stream.poll_flush(cx),
            Self::Asking(stream) => stream.poll_flush(cx),
        }
    }

    /// Takes as much of `pieces` as can be written at once.
    #[inline]
    pub(crate) fn try_write_vectored(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write_vectored(pieces),
            Self::Tls(tls) => tls.try_write_vectored(pieces),
            // Whoever takes this for written waits for `poll_flush`, and is woken then.
            stream => {
                let mut cx = Context::from_waker(Waker::noop());
                let mut taken = 0;
                for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                    match stream.poll_write(&mut cx, piece) {
                        Poll::Ready(Ok(count)) if count == piece.len() => taken += count,
                        Poll::Ready(Ok(count)) => return Ok(taken + count),
                        Poll::Ready(Err(error)) if taken == 0 => return Err(error),
                        Poll::Ready(Err(_)) | Poll::Pending => break,
                    }
                }
                Ok(taken)
            }
        }
    }

    /// Tells the other side that no more comes.
    pub(crate) fn close_write(&mut self) {
        if let Self::Tls(tls) = self {
            tls.say_goodbye();
        }
        if let Some(socket) = self.socket() {
            let _ = socket2::SockRef::from(socket).shutdown(std::net::Shutdown::Write);
        }
    }

    /// Makes closing the connection a reset, which nobody takes for the end of a whole message.
    pub(crate) fn break_off(&mut self) {
        match self {
            Self::Tls(tls) => tls.leave_unsaid(),
            Self::Asked(stream) => stream.break_off(),
            Self::Plain(_) | Self::Asking(_) => {}
        }
        if let Some(socket) = self.socket() {
            // Fails only when the connection is gone already.
            let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
        }
    }

    /// Takes it off its runtime, so that another worker may have it.
    pub(crate) fn park(self) -> io::Result<Parked> {
        match self {
            Self::Plain(socket) => Ok(Parked { socket: socket.into_std()?, session: None }),
            Self::Tls(tls) => {
                let (socket, session) = tls.into_parts()?;
                Ok(Parked { socket, session: Some(session) })
            }
            Self::Asked(_) | Self::Asking(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Whether it can carry another request. A stream of HTTP/2 cannot; its connection does.
    pub(crate) fn is_reusable(&self) -> bool {
        !matches!(self, Self::Asked(_) | Self::Asking(_))
    }
}

/// A connection of its own, for whoever is no worker.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

impl Stream {
    /// As [`Stream::open`], for whoever is no worker.
    pub(crate) async fn open_apart(
        address: SocketAddr,
        name: &str,
        security: &Security,
        offer: &[Alpn],
    ) -> Result<Box<dyn Io>, OpenError> {
        match Self::open(address, name, security, offer).await? {
            Self::Plain(socket) => Ok(Box::new(socket)),
            Self::Tls(tls) => Ok(Box::new(tls)),
            Self::Asked(_) | Self::Asking(_) => unreachable!("a stream of HTTP/2 is not opened so"),
        }
    }
}

/// A connection that belongs to no runtime.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) socket: Socket,
    session: Option<Box<Session>>,
}

impl Parked {
    /// Puts it on the runtime of whoever calls.
    pub(crate) fn unpark(self) -> io::Result<Stream> {
        let socket = TcpStream::from_std(self.socket)?;
        Ok(match self.session {
            None => Stream::Plain(socket),
            Some(session) => Stream::Tls(TlsStream::from_parts(socket, session)),
        })
    }
}

/// Reads once into `into`. Unlike `try_read`, a short read needs no second call to learn that nothing is left.
#[inline]
pub(crate) fn read_socket(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut buf = ReadBuf::new(into);
    ready!(Pin::new(socket).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().len()))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let count = ready!(Stream::poll_read(self.get_mut(), cx, buf.initialize_unfilled()))?;
        buf.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Stream::poll_write(self.get_mut(), cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Stream::poll_flush(self.get_mut(), cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        ready!(Stream::poll_flush(stream, cx))?;
        stream.close_write();
        Poll::Ready(Ok(()))
    }
}
