//! A TCP relay that can be cut: a network partition that needs no privilege.
//!
//! A cut is silent, as a broken network is: connections stay open and nothing arrives any more. A relay can be cut for
//! everybody or for the connections of one process only, which it tells apart by who owns the other end of the socket.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

/// Forwards connections to one address until it is cut. Ends when dropped.
#[derive(Debug)]
pub struct Relay {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Processes whose connections may come from; those of others are nobody's.
    processes: Vec<u32>,
    all_cut: bool,
    cut: HashSet<u32>,
    links: Vec<Arc<Link>>,
}

#[derive(Debug)]
struct Link {
    from: Option<u32>,
    /// What arrives is thrown away from now on.
    cut: AtomicBool,
    ends: [TcpStream; 2],
}

impl Relay {
    /// A relay to `to` on a loopback port of its own.
    #[must_use]
    pub fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared { to, stop: AtomicBool::new(false), state: Mutex::default() });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.stop.load(SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    // An address that refuses costs this connection only.
                    let _ = accepting.join(client);
                }
            }
        });
        Self { addr, shared }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Says which processes [`Relay::cut_from`] may name, before they connect.
    pub fn tell_apart(&self, processes: &[u32]) {
        self.shared.state().processes = processes.to_vec();
    }

    /// Cuts every connection, present and future.
    pub fn cut(&self) {
        let mut state = self.shared.state();
        state.all_cut = true;
        state.links.iter().for_each(|link| link.cut.store(true, SeqCst));
    }

    /// Cuts the connections of one process, present and future.
    pub fn cut_from(&self, process: u32) {
        let mut state = self.shared.state();
        state.cut.insert(process);
        let theirs = state.links.iter().filter(|link| link.from == Some(process));
        theirs.for_each(|link| link.cut.store(true, SeqCst));
    }

    /// Lets new connections through again. Those that were cut have lost bytes: they are closed.
    pub fn heal(&self) {
        let mut state = self.shared.state();
        state.all_cut = false;
        state.cut.clear();
        state.links.retain(|link| {
            let whole = !link.cut.load(SeqCst);
            if !whole {
                link.close();
            }
            whole
        });
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.state().links.iter().for_each(|link| link.close());
        drop(TcpStream::connect(self.addr));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    fn join(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        let port = client.peer_addr()?.port();
        let upstream = TcpStream::connect(self.to)?;
        client.set_nodelay(true)?;
        upstream.set_nodelay(true)?;
        let link = {
            let mut state = self.state();
            let from = owner_of(port, &state.processes);
            let is_cut = state.all_cut || from.is_some_and(|from| state.cut.contains(&from));
            let ends = [client.try_clone()?, upstream.try_clone()?];
            let link = Arc::new(Link { from, cut: AtomicBool::new(is_cut), ends });
            state.links.push(Arc::clone(&link));
            link
        };
        for (from, to) in [(client.try_clone()?, upstream.try_clone()?), (upstream, client)] {
            let (link, shared) = (Arc::clone(&link), Arc::clone(self));
            thread::spawn(move || {
                pump(&link, from, to);
                shared.state().links.retain(|other| !Arc::ptr_eq(other, &link));
            });
        }
        Ok(())
    }
}

impl Link {
    fn close(&self) {
        // Fails when the end is closed already.
        self.ends.iter().for_each(|end| drop(end.shutdown(Shutdown::Both)));
    }
}

fn pump(link: &Link, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !link.cut.load(SeqCst) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    if !link.cut.load(SeqCst) {
        link.close();
    }
}

/// Which of `processes` has a TCP socket bound to `port` of the loopback address.
fn owner_of(port: u16, processes: &[u32]) -> Option<u32> {
    if processes.is_empty() {
        return None;
    }
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!("0100007F:{port:04X}");
    let inode = table.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        (words.get(1) == Some(&local.as_str()))
            .then(|| words.get(9).map(|inode| (*inode).to_owned()))
            .flatten()
    })?;
    let name = format!("socket:[{inode}]");
    processes.iter().copied().find(|process| {
        let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
        open.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target.to_str() == Some(&name)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::upstream::Upstream;
    use crate::wait::{PATIENCE, wait_until};

    #[test]
    fn a_cut_is_silent_and_heals() {
        let upstream = Upstream::echo();
        let relay = Relay::start(upstream.addr());
        let mut client = Client::connect(relay.addr());
        let asked = "GET / HTTP/1.1\r\n\r\n";
        assert_eq!(client.request(asked).text(), asked);
        relay.cut();
        client.send(asked);
        let mut late = Client::connect(relay.addr());
        late.send(asked);
        wait_until("both were let in", PATIENCE, || relay.shared.state().links.len() == 2);
        relay.heal();
        assert!(client.is_closed_by_server() && late.is_closed_by_server());
        assert_eq!(upstream.requests().len(), 1);
        assert_eq!(Client::connect(relay.addr()).request(asked).text(), asked);
    }

    #[test]
    fn tells_whose_connection_it_is() {
        let upstream = Upstream::echo();
        let relay = Relay::start(upstream.addr());
        relay.tell_apart(&[std::process::id()]);
        relay.cut_from(std::process::id());
        let mut client = Client::connect(relay.addr());
        wait_until("it is known", PATIENCE, || {
            relay.shared.state().links.iter().any(|link| link.from == Some(std::process::id()))
        });
        relay.heal();
        assert!(client.is_closed_by_server());
    }
}
