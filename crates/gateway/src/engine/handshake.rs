//! The first words on a connection to a listener with TLS.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;

use rustls::ServerConnection;
use tokio::net::TcpStream;

use super::stream::Stream;
use super::wheel::Alarm;
use super::worker::Worker;
use crate::listen::{Handshakes, ListenerState};
use crate::tls::{Agreed, Failure, ListenerTls, TlsStream, resumed};

/// A place among the handshakes under way.
struct Place<'a>(&'a Handshakes);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Relaxed);
    }
}

impl<'a> Place<'a> {
    fn take(handshakes: &'a Handshakes, max: u32) -> Option<Self> {
        let place = Self(handshakes);
        if handshakes.active.fetch_add(1, Relaxed) < max {
            return Some(place);
        }
        handshakes.shed.fetch_add(1, Relaxed);
        None
    }
}

/// Agrees on a session with a client. `None` when there is none: the client has been told why, as well as could be without
/// waiting for it.
///
/// However slow the client is, it holds no more than its connection and what a handshake needs, for no longer than the
/// handshake's timeout.
pub(super) async fn agree(
    worker: &Rc<Worker>,
    socket: TcpStream,
    listener: &ListenerState,
    tls: &ListenerTls,
    alarm: &Rc<Alarm>,
) -> Option<(Stream, Box<Agreed>)> {
    let handshakes = &listener.figures.handshakes;
    let _place = Place::take(handshakes, tls.params.handshakes_max)?;
    worker.wheel.set(alarm, worker.now().after(tls.params.handshake_timeout.get()));
    let shaken = async {
        let session = ServerConnection::new(tls.config()).map_err(io::Error::other)?;
        let mut stream = TlsStream::new(socket, session.into());
        poll_fn(|cx| {
            alarm.wake_me(cx.waker());
            match stream.poll_handshake(cx) {
                Poll::Pending if alarm.rung() => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
                result => result,
            }
        })
        .await?;
        Ok(stream)
    };
    let shaken = shaken.await;
    alarm.off();
    match shaken {
        Ok(stream) => {
            let kind = if resumed(stream.tls()) { &handshakes.resumed } else { &handshakes.full };
            kind.fetch_add(1, Relaxed);
            let agreed = Box::new(Agreed::of(stream.tls()));
            Some((Stream::Tls(stream), agreed))
        }
        Err(error) => {
            let failure = Failure::of(&error);
            handshakes.failures[failure as usize].fetch_add(1, Relaxed);
            tracing::debug!(
                listener = listener.name,
                reason = failure.name(),
                %error,
                "a client's handshake failed"
            );
            None
        }
    }
}
