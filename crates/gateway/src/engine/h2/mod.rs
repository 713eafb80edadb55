//! HTTP/2 on either side of the road, without a second road.
//!
//! The road works on heads of HTTP/1.1 and on bodies framed as HTTP/1.1 frames them. A stream of HTTP/2 is shown to it as a
//! connection of its own that carries exactly one such exchange: [`Asked`](server::Asked) towards a client,
//! [`Asking`](client::Asking) towards an endpoint. So everything that the road decides (strictness, routing, admission,
//! attempts, deadlines, outcomes, logs) is decided once, and HTTP/1.1 pays nothing for HTTP/2. See ADR 0011.
//!
//! `head` and `body` translate, `meter` watches for floods, `server` and `client` hold the connections.

pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod head;
mod keep_alive;
pub(crate) mod meter;
pub(crate) mod server;
pub(crate) mod wire;

use std::io;

use h2::Reason;

/// What every connection of HTTP/2 begins with.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream's error as the road understands it. `ConnectionRefused` means that the other side has not begun with the
/// request, so that it may be sent again whatever it is.
fn io_error(error: &h2::Error) -> io::Error {
    let unprocessed = error.reason() == Some(Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR));
    let kind = if unprocessed { io::ErrorKind::ConnectionRefused } else { io::ErrorKind::ConnectionReset };
    io::Error::from(kind)
}
