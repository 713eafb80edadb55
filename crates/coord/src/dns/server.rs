use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{DnsParams, Known, Over, Zone};
use crate::registry::Directory;

/// Connections at once; more are closed on arrival.
const CONNECTIONS_MAX: usize = 64;
/// How long a connection may be idle, or an answer take to be read.
const IDLE: Duration = Duration::from_secs(5);
/// A longer question is none: names have 255 bytes, and options some hundred.
const QUESTION_MAX: usize = 4096;
/// How often a port that UDP and TCP share is looked for.
const PORT_TRIES: usize = 16;

/// The name server's port cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot answer DNS at {address}: {error}; choose another address with `dns: {{address: …}}`")]
pub struct BindError {
    /// Where.
    pub address: SocketAddr,
    /// What the system said.
    #[source]
    pub error: std::io::Error,
}

/// A name server whose ports are bound. Nothing is answered until [`Server::run`].
#[derive(Debug)]
pub struct Server {
    zone: Zone,
    address: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Server {
    /// Takes the UDP and the TCP port. `params` must have been checked.
    ///
    /// # Errors
    /// [`BindError`].
    ///
    /// # Panics
    /// When the domain is no name.
    pub fn bind(params: &DnsParams) -> Result<Self, BindError> {
        let failed = |error| BindError { address: params.address, error };
        let (udp, tcp) = bind_both(params.address).map_err(failed)?;
        udp.set_nonblocking(true).map_err(failed)?;
        tcp.set_nonblocking(true).map_err(failed)?;
        let address = tcp.local_addr().map_err(failed)?;
        let zone = Zone::new(params).expect("the parameters were checked");
        Ok(Self { zone, address, udp, tcp })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers what `directory` knows, until `stop`.
    ///
    /// # Errors
    /// When the sockets cannot be used with this runtime.
    pub async fn run(self, directory: Directory, stop: CancellationToken) -> std::io::Result<()> {
        let shared = Arc::new(Shared { zone: self.zone, directory });
        let udp = tokio::net::UdpSocket::from_std(self.udp)?;
        let tcp = tokio::net::TcpListener::from_std(self.tcp)?;
        let both = async { tokio::join!(datagrams(udp, &shared), connections(tcp, &shared)) };
        stop.run_until_cancelled(both).await;
        Ok(())
    }
}

/// Both transports on one port. When the system may choose, a port that is free for one may be taken for the other.
fn bind_both(address: SocketAddr) -> std::io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let tcp = TcpListener::bind(address)?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((udp, tcp)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

struct Shared {
    zone: Zone,
    directory: Directory,
}

impl Shared {
    fn answer(&self, question: &[u8], over: Over, rng: &mut fastrand::Rng) -> Option<Vec<u8>> {
        let look_up = |service: &str| match self.directory.roster(service).and_then(|roster| roster.instances)
        {
            Some(instances) if !instances.is_empty() => Known::Instances(instances),
            Some(_) => Known::Nobody,
            None if self.directory.has_heard() => Known::Nobody,
            None => Known::Nothing,
        };
        self.zone.answer(question, over, look_up, rng)
    }
}

async fn datagrams(socket: tokio::net::UdpSocket, shared: &Shared) {
    let mut rng = fastrand::Rng::new();
    let mut question = vec![0; QUESTION_MAX];
    loop {
        let (length, from) = match socket.recv_from(&mut question).await {
            Ok(received) => received,
            // What came back for an answer that could not be delivered.
            Err(error) => {
                debug!(%error, "a datagram could not be received");
                tokio::task::yield_now().await;
                continue;
            }
        };
        if let Some(reply) = shared.answer(&question[..length], Over::Udp, &mut rng)
            && let Err(error) = socket.send_to(&reply, from).await
        {
            debug!(%error, "an answer could not be sent");
        }
    }
}

async fn connections(listener: tokio::net::TcpListener, shared: &Arc<Shared>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "a DNS connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Without room it is closed: the client asks again.
        if let Ok(place) = Arc::clone(&room).try_acquire_owned() {
            let shared = Arc::clone(shared);
            open.spawn(async move {
                let _place = place;
                if let Err(error) = converse(stream, &shared).await {
                    debug!(%error, "a DNS connection ended");
                }
            });
        }
    }
}

/// Questions and answers, each after its length (RFC 1035, 4.2.2; RFC 7766), until the client has had enough.
async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut rng = fastrand::Rng::new();
    let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    loop {
        let mut length = [0; 2];
        match timeout(IDLE, stream.read_exact(&mut length)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
        let length = usize::from(u16::from_be_bytes(length));
        if length > QUESTION_MAX {
            return Ok(());
        }
        let mut question = vec![0; length];
        timeout(IDLE, stream.read_exact(&mut question)).await.map_err(late)??;
        let Some(reply) = shared.answer(&question, Over::Tcp, &mut rng) else { return Ok(()) };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        let mut bytes = Vec::with_capacity(reply.len() + 2);
        bytes.extend(length.to_be_bytes());
        bytes.extend(reply);
        timeout(IDLE, stream.write_all(&bytes)).await.map_err(late)??;
    }
}
