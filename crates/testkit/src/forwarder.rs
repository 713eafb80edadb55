//! A proxy that moves bytes and parses nothing: the floor under every gateway.
//!
//! One upstream connection per client connection, upstreams in turn, a plain epoll loop on one thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::sys::{Epoll, Events, Interest};

const LISTENER: usize = usize::MAX;

/// One direction's source and the other's sink. Its peer stands beside it: index `i` and `i ^ 1`.
struct End {
    stream: TcpStream,
    /// What the peer sent and this end's socket has not taken yet.
    pending: Vec<u8>,
    /// Whether this end has finished sending.
    finished: bool,
    interest: Interest,
}

/// Forwards every connection of `listener` to one of `upstreams` until `stop` is set.
///
/// Looks at `stop` whenever something happens, such as one more connection: a time-out on every wait would arm a timer
/// each time, which costs as much as forwarding does.
pub fn serve(listener: &TcpListener, upstreams: &[SocketAddr], stop: &AtomicBool) -> io::Result<()> {
    let epoll = Epoll::new()?;
    listener.set_nonblocking(true)?;
    epoll.add(listener, LISTENER, Interest::READ)?;
    let mut turn = upstreams.iter().cycle();
    let mut forwarder =
        Forwarder { epoll, ends: Vec::new(), free: Vec::new(), buffer: vec![0; 64 * 1024].into() };
    let mut events = Events::with_room(512);
    while !stop.load(Relaxed) {
        forwarder.epoll.wait(&mut events, None)?;
        for token in events.tokens() {
            if token == LISTENER {
                // A peer that has gone, or an upstream that refuses, costs this connection only.
                if let (Ok((client, _)), Some(upstream)) = (listener.accept(), turn.next()) {
                    let _ =
                        TcpStream::connect(upstream).and_then(|upstream| forwarder.open(client, upstream));
                }
            } else if forwarder.on_ready(token).is_err() {
                forwarder.close(token);
            }
        }
    }
    Ok(())
}

struct Forwarder {
    epoll: Epoll,
    ends: Vec<Option<End>>,
    free: Vec<usize>,
    buffer: Box<[u8]>,
}

impl Forwarder {
    fn open(&mut self, client: TcpStream, upstream: TcpStream) -> io::Result<()> {
        let first = self.free.pop().unwrap_or_else(|| {
            self.ends.extend([None, None]);
            self.ends.len() - 2
        });
        for (index, stream) in (first..).zip([client, upstream]) {
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            self.epoll.add(&stream, index, Interest::READ)?;
            self.ends[index] =
                Some(End { stream, pending: Vec::new(), finished: false, interest: Interest::READ });
        }
        Ok(())
    }

    fn close(&mut self, index: usize) {
        let first = index & !1;
        if self.ends[first].take().is_some() | self.ends[first + 1].take().is_some() {
            self.free.push(first);
        }
    }

    fn on_ready(&mut self, index: usize) -> io::Result<()> {
        let (low, high) = self.ends.split_at_mut(index | 1);
        let pair = (low[index & !1].as_mut(), high[0].as_mut());
        // Closed by an earlier event of the same wait.
        let (Some(low), Some(high)) = pair else { return Ok(()) };
        let (own, peer) = if index & 1 == 0 { (low, high) } else { (high, low) };

        if !own.pending.is_empty() {
            let count = wrote(own.stream.write(&own.pending))?;
            own.pending.drain(..count);
            if own.pending.is_empty() && peer.finished {
                own.stream.shutdown(Shutdown::Write)?;
            }
        }
        if !own.finished && peer.pending.is_empty() {
            match own.stream.read(&mut self.buffer) {
                Ok(0) => {
                    own.finished = true;
                    if peer.pending.is_empty() {
                        peer.stream.shutdown(Shutdown::Write)?;
                    }
                }
                Ok(count) => {
                    let written = wrote(peer.stream.write(&self.buffer[..count]))?;
                    peer.pending.extend_from_slice(&self.buffer[written..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if own.finished && peer.finished && own.pending.is_empty() && peer.pending.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (own_blocked, peer_blocked) = (!own.pending.is_empty(), !peer.pending.is_empty());
        own.watch(&self.epoll, index, peer_blocked)?;
        peer.watch(&self.epoll, index ^ 1, own_blocked)
    }
}

impl End {
    /// Reads while the peer takes what is read, writes while something is left.
    fn watch(&mut self, epoll: &Epoll, index: usize, peer_blocked: bool) -> io::Result<()> {
        let wanted = Interest { read: !self.finished && !peer_blocked, write: !self.pending.is_empty() };
        if wanted != self.interest {
            epoll.change(&self.stream, index, wanted)?;
            self.interest = wanted;
        }
        Ok(())
    }
}

fn wrote(outcome: io::Result<usize>) -> io::Result<usize> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::upstream::{Reply, Upstream};
    use std::sync::Arc;
    use std::thread;

    /// Runs `test` against a forwarder to `upstream`.
    fn forwarding(upstream: &Upstream, test: impl FnOnce(SocketAddr)) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, to) = (listener.local_addr().unwrap(), upstream.addr());
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&listener, &[to], &stopped));
        test(addr);
        stop.store(true, Relaxed);
        drop(TcpStream::connect(addr));
        thread.join().unwrap().unwrap();
    }

    #[test]
    fn moves_bytes_both_ways() {
        let upstream = Upstream::echo();
        forwarding(&upstream, |addr| {
            let mut client = Client::connect(addr);
            for _ in 0..3 {
                let sent = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi";
                assert_eq!(client.request(sent).text(), sent);
            }
            assert_eq!(upstream.connections(), 1);
        });
    }

    #[test]
    fn holds_what_a_slow_reader_has_not_taken() {
        let upstream = Upstream::start(|_| Reply::status(200).fill(50 << 20));
        forwarding(&upstream, |addr| {
            let mut client = Client::connect(addr);
            client.send("GET / HTTP/1.1\r\n\r\n");
            upstream.wait_for_requests(1);
            assert_eq!(client.response().body.len(), 50 << 20);
        });
    }

    #[test]
    fn half_close_and_close_are_passed_on() {
        let upstream = Upstream::start(|_| Reply::echo_tunnel("x"));
        forwarding(&upstream, |addr| {
            let mut client = Client::connect(addr);
            client.request("GET / HTTP/1.1\r\n\r\n");
            client.send("last words");
            client.finish_sending();
            assert_eq!(client.exactly(10).unwrap(), b"last words");
            assert!(client.is_closed_by_server());
        });
        crate::wait_until("it is closed", crate::wait::PATIENCE, || upstream.open_connections() == 0);
    }
}
