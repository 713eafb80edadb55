//! The cheapest back end: a plain epoll loop that answers a constant, so that a benchmark measures the proxy.
//!
//! It looks for the ends of heads and nothing else: requests must not have bodies. `GET /16k…` is answered with
//! 16 KiB, everything else with 200 bytes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

use crate::sys::{Epoll, Events, Interest, pin_to_cpu};

/// Length of the small answer's body.
pub const SMALL: usize = 200;
/// Length of the large answer's body.
pub const LARGE: usize = 16 * 1024;

const LARGE_REQUEST: &[u8] = b"GET /16k";

/// A running back end. Stops when dropped.
#[derive(Debug)]
pub struct Backend {
    addrs: Vec<SocketAddr>,
    /// Its other end wakes the loop when this one is closed. A connection to itself would do too, but not when the
    /// benchmark has used up the machine's ports; a time-out on every wait would cost as much as a request.
    alive: Option<UnixStream>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Backend {
    /// Listens on each of `addrs` (port 0: any free one) with one thread, pinned to `cpu` if given.
    pub fn start(addrs: &[SocketAddr], cpu: Option<usize>) -> io::Result<Self> {
        let listeners: Vec<_> = addrs.iter().map(TcpListener::bind).collect::<Result<_, _>>()?;
        let addrs = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        let (alive, ended) = UnixStream::pair()?;
        let thread = thread::spawn(move || {
            if let Some(cpu) = cpu {
                pin_to_cpu(cpu)?;
            }
            serve(&listeners, &ended)
        });
        Ok(Self { addrs, alive: Some(alive), thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(Err(error)) = self.thread.take().and_then(|thread| thread.join().ok()) {
            eprintln!("the back end failed: {error}");
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// The part of a head that has come so far.
    partial: Vec<u8>,
    /// What the peer has not taken yet.
    pending: Vec<u8>,
}

const ENDED: usize = usize::MAX;

fn serve(listeners: &[TcpListener], ended: &UnixStream) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.add(ended, ENDED, Interest::READ)?;
    for (index, listener) in listeners.iter().enumerate() {
        listener.set_nonblocking(true)?;
        epoll.add(listener, index, Interest::READ)?;
    }
    let (small, large) = (answer(SMALL), answer(LARGE));
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free = Vec::new();
    let mut events = Events::with_room(512);
    let mut buffer = vec![0; 64 * 1024];
    let mut out = Vec::new();
    loop {
        epoll.wait(&mut events, None)?;
        for token in events.tokens() {
            if token == ENDED {
                return Ok(());
            }
            if let Some(listener) = listeners.get(token) {
                // Fails when the peer has gone, or descriptors are short; the next event tries again.
                let Ok((stream, _)) = listener.accept() else { continue };
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let slot = free.pop().unwrap_or(connections.len());
                epoll.add(&stream, listeners.len() + slot, Interest::READ)?;
                let connection = Some(Connection { stream, partial: Vec::new(), pending: Vec::new() });
                if slot == connections.len() {
                    connections.push(connection);
                } else {
                    connections[slot] = connection;
                }
                continue;
            }
            let slot = token - listeners.len();
            let Some(connection) = &mut connections[slot] else { continue };
            let was_pending = !connection.pending.is_empty();
            let outcome = connection.on_ready(&mut buffer, &mut out, &small, &large).and_then(|()| {
                let pending = !connection.pending.is_empty();
                if pending == was_pending {
                    return Ok(());
                }
                epoll.change(
                    &connection.stream,
                    token,
                    if pending { Interest::WRITE } else { Interest::READ },
                )
            });
            if outcome.is_err() {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

impl Connection {
    fn on_ready(
        &mut self,
        buffer: &mut [u8],
        out: &mut Vec<u8>,
        small: &[u8],
        large: &[u8],
    ) -> io::Result<()> {
        if !self.pending.is_empty() {
            let count = wrote(self.stream.write(&self.pending))?;
            self.pending.drain(..count);
            return Ok(());
        }
        let count = match self.stream.read(buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            answer => answer?,
        };
        out.clear();
        let choose = |head: &[u8]| if head.starts_with(LARGE_REQUEST) { large } else { small };
        let answer = if self.partial.is_empty() && buffer[..count].ends_with(b"\r\n\r\n") {
            // The common case: whole heads, nearly always one, answered without a copy.
            let mut heads = Heads(&buffer[..count]);
            let first = heads.next().map(choose).unwrap_or_default();
            for head in heads.by_ref() {
                if out.is_empty() {
                    out.extend_from_slice(first);
                }
                out.extend_from_slice(choose(head));
            }
            if out.is_empty() { first } else { &out[..] }
        } else {
            self.partial.extend_from_slice(&buffer[..count]);
            let mut heads = Heads(&self.partial);
            for head in heads.by_ref() {
                out.extend_from_slice(choose(head));
            }
            let left = heads.0.len();
            self.partial.drain(..self.partial.len() - left);
            &out[..]
        };
        if !answer.is_empty() {
            let count = wrote(self.stream.write(answer))?;
            self.pending.extend_from_slice(&answer[count..]);
        }
        Ok(())
    }
}

/// The whole heads at the front of some bytes; the rest stays.
struct Heads<'a>(&'a [u8]);

impl<'a> Iterator for Heads<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr::memmem::find(self.0, b"\r\n\r\n")? + 4;
        let (head, rest) = self.0.split_at(end);
        self.0 = rest;
        Some(head)
    }
}

fn wrote(outcome: io::Result<usize>) -> io::Result<usize> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        outcome => outcome,
    }
}

fn answer(length: usize) -> Vec<u8> {
    let mut bytes = format!(
        "HTTP/1.1 200 OK\r\nServer: constant\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n"
    )
    .into_bytes();
    bytes.resize(bytes.len() + length, b'x');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;

    fn start() -> Backend {
        Backend::start(&["127.0.0.1:0".parse().unwrap(); 2], None).unwrap()
    }

    #[test]
    fn answers_by_path_on_every_port() {
        let backend = start();
        for addr in backend.addrs() {
            let mut client = Client::connect(*addr);
            assert_eq!(client.get("/").body.len(), SMALL);
            assert_eq!(client.get("/16k").body.len(), LARGE);
        }
    }

    #[test]
    fn pipelined_and_cut_heads_are_answered_in_order() {
        let backend = start();
        let mut client = Client::connect(backend.addrs()[0]);
        let requests = "GET / HTTP/1.1\r\n\r\nGET /16k HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\n\r\n";
        for cut in 0..requests.len() {
            client.send(&requests[..cut]);
            client.send(&requests[cut..]);
            let lengths = [(); 3].map(|()| client.response().body.len());
            assert_eq!(lengths, [SMALL, LARGE, SMALL], "cut at {cut}");
        }
    }

    #[test]
    fn a_peer_that_does_not_read_gets_everything_later() {
        let backend = start();
        let mut client = Client::connect(backend.addrs()[0]);
        let count = 1000;
        client.send("GET /16k HTTP/1.1\r\n\r\n".repeat(count));
        let total: usize = (0..count).map(|_| client.response().body.len()).sum();
        assert_eq!(total, count * LARGE);
    }
}
