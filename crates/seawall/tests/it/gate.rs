//! What the tests of the whole road share: a gateway in front of given endpoints, and an endpoint played by hand.

use std::fmt::Write as _;
use std::io;
use std::net::{SocketAddr, TcpListener};

use testkit::client::Response;
use testkit::wait::{PATIENCE, wait_for};
use testkit::{Client, Seawall, Upstream};

/// Retries are never short of budget, so that a test can look at what else forbids them.
pub(crate) const RICH: &str = "{ratio: 1.0, floor_per_sec: 1000, burst: 1000}";

/// Whatever learns from failures is off, so that a test of something else can fail as often as it likes.
pub(crate) const NUMB: &str = "throttle: {enabled: false}, ejection: {enabled: false}, breaker: {enabled: false}, \
    endpoint_breaker: {enabled: false}, slow_start: {window: 0s}";

/// A gateway to be: one worker unless said otherwise, so that pools and counts are exact, and ports of the system's choosing. Each part is
/// the inside of a YAML map or list.
pub(crate) struct Gate {
    workers: u32,
    address: &'static str,
    listener: String,
    services: String,
    routes: String,
    root: String,
}

impl Default for Gate {
    fn default() -> Self {
        let (listener, services, routes, root) = Default::default();
        Self { workers: 1, address: "127.0.0.1:0", listener, services, routes, root }
    }
}

impl Gate {
    /// In front of the service `web` with these endpoints.
    pub(crate) fn to(endpoints: &[SocketAddr]) -> Self {
        Self::with("web", endpoints, "")
    }

    /// In front of the service `web` with these endpoints and keys.
    pub(crate) fn with(name: &str, endpoints: &[SocketAddr], keys: &str) -> Self {
        Self::default().service(name, endpoints, keys)
    }

    /// Adds a service.
    pub(crate) fn service(self, name: &str, endpoints: &[SocketAddr], keys: &str) -> Self {
        let endpoints: Vec<_> = endpoints.iter().map(|address| format!("'{address}'")).collect();
        let comma = if keys.is_empty() { "" } else { ", " };
        self.service_keys(name, &format!("endpoints: [{}]{comma}{keys}", endpoints.join(", ")))
    }

    /// Adds a service with these keys, which say where its endpoints are.
    pub(crate) fn service_keys(mut self, name: &str, keys: &str) -> Self {
        writeln!(self.services, "  {name}: {{{keys}}}").expect("memory");
        self
    }

    /// With as many workers.
    pub(crate) fn workers(self, workers: u32) -> Self {
        Self { workers, ..self }
    }

    /// Listens here instead of on 127.0.0.1.
    pub(crate) fn address(self, address: &'static str) -> Self {
        Self { address, ..self }
    }

    /// Keys of the listener.
    pub(crate) fn listener(mut self, keys: &str) -> Self {
        self.listener = format!(", {keys}");
        self
    }

    /// Believes what its clients say of themselves.
    pub(crate) fn trusting(self) -> Self {
        self.listener("trusted: [127.0.0.0/8]")
    }

    /// Adds a route.
    pub(crate) fn route(mut self, keys: &str) -> Self {
        writeln!(self.routes, "  - {{{keys}}}").expect("memory");
        self
    }

    /// Keys of the file itself, a line each.
    pub(crate) fn root(mut self, keys: &str) -> Self {
        self.root = keys.to_owned();
        self
    }

    /// The configuration file.
    pub(crate) fn yaml(&self) -> String {
        let routes = if self.routes.is_empty() { String::new() } else { format!("routes:\n{}", self.routes) };
        let services =
            if self.services.is_empty() { String::new() } else { format!("services:\n{}", self.services) };
        format!(
            "listeners: [{{address: '{}'{}}}]\nadmin: {{address: '127.0.0.1:0'}}\nworkers: {}\n{}\n{routes}{services}",
            self.address, self.listener, self.workers, self.root
        )
    }

    /// The running gateway.
    pub(crate) fn start(&self) -> Seawall {
        Seawall::start(env!("CARGO_BIN_EXE_seawall"), &self.yaml())
    }
}

/// A gateway with every default in front of `upstream`.
pub(crate) fn before(upstream: &Upstream) -> Seawall {
    Gate::to(&[upstream.addr()]).start()
}

/// The addresses of `upstreams`.
pub(crate) fn addresses(upstreams: &[Upstream]) -> Vec<SocketAddr> {
    upstreams.iter().map(Upstream::addr).collect()
}

/// Why the gateway refused; panics when it did not.
pub(crate) fn reason(response: &Response) -> &str {
    response.header("seawall-reason").unwrap_or_else(|| panic!("no refusal: {response:?}"))
}

/// Status and reason of a refusal.
pub(crate) fn refusal(response: &Response) -> (u16, &str) {
    (response.status, reason(response))
}

/// How many requests the gateway has refused for `reason`.
pub(crate) fn refused(gate: &Seawall, reason: &str) -> f64 {
    gate.metric("seawall_gateway_refusals_total", &[&format!("reason=\"{reason}\"")]).unwrap_or(0.0)
}

/// The value of a series without labels, or the sum of all its samples; 0 when there is none.
pub(crate) fn figure(gate: &Seawall, name: &str) -> f64 {
    gate.metric(name, &[]).unwrap_or(0.0)
}

/// A request without a body and with these extra header lines, each ended by CRLF.
pub(crate) fn plain(method: &str, target: &str, lines: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")
}

/// A request with this body, its length stated.
pub(crate) fn posting(method: &str, target: &str, body: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An endpoint that a test plays by hand, connection by connection.
pub(crate) struct Manual {
    listener: TcpListener,
}

impl Manual {
    /// Listens.
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        Self { listener }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// The next connection that the gateway makes, seen from the endpoint: what the client type calls its server is the
    /// gateway.
    pub(crate) fn accept(&self) -> Client {
        let stream = wait_for("the gateway connects", PATIENCE, || match self.listener.accept() {
            Ok((stream, _)) => Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("cannot accept: {error}"),
        });
        stream.set_nonblocking(false).expect("a socket");
        Client::over(stream).expect("a socket")
    }

    /// Has a new client send `request` through `gate`, and takes its head: the client, and the gateway as seen from the
    /// endpoint.
    pub(crate) fn exchange(&self, gate: &Seawall, request: impl AsRef<[u8]>) -> (Client, Client) {
        let mut client = Client::connect(gate.addr());
        client.send(request);
        let mut seen = self.accept();
        seen.head().expect("the request");
        (client, seen)
    }

    /// Whether a connection waits to be accepted.
    pub(crate) fn is_asked(&self) -> bool {
        self.listener.accept().is_ok()
    }
}
