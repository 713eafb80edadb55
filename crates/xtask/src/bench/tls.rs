//! CPU of handshakes and of requests over TLS, beside the peers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use testkit::backend::Backend;
use testkit::tls::{Authority, Issued, TlsClient, Trust};
use testkit::{TempDir, free_port};

use super::proxy::{self, Proxy};
use super::stats::{Spread, or_dash};
use super::{machine, proc};

/// The name that is asked for.
const NAME: &str = "bench.example";
const PEERS: [&str; 4] = ["haproxy", "nginx", "envoy", "seawall"];
const WARM_UP: Duration = Duration::from_millis(300);
/// Connections that are kept alive.
const KEPT: usize = 16;

/// What is done over and over.
#[derive(Clone, Copy)]
enum Work {
    /// A connection, a handshake in full, one request.
    Full,
    /// The same, with the session of the connection before.
    Resumed,
    /// A request on a connection that stands.
    Kept,
}

impl Work {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Full, "connection, full handshake (TLS 1.3, ECDSA P-256), one request"),
        (Self::Resumed, "connection, resumed handshake (TLS 1.3), one request"),
        (Self::Kept, "request on one of 16 connections that stand"),
    ];
}

/// One client of one proxy.
struct Client {
    trust: Trust,
    addr: SocketAddr,
    kept: Vec<TlsClient>,
    next: usize,
}

impl Client {
    fn new(work: Work, authority: &Authority, addr: SocketAddr) -> Result<Self, String> {
        let trust = match work {
            Work::Full => Trust::forgetful(authority),
            Work::Resumed | Work::Kept => Trust::of(authority, None),
        };
        let mut client = Self { trust, addr, kept: Vec::new(), next: 0 };
        if matches!(work, Work::Kept) {
            for _ in 0..KEPT {
                client.kept.push(client.connect()?);
            }
        }
        Ok(client)
    }

    fn connect(&self) -> Result<TlsClient, String> {
        self.trust.connect(self.addr, NAME).map_err(|error| format!("no session with {}: {error}", self.addr))
    }

    fn turn(&mut self) -> Result<(), String> {
        let mut fresh = if self.kept.is_empty() { Some(self.connect()?) } else { None };
        let client = match &mut fresh {
            Some(client) => client,
            None => {
                self.next = (self.next + 1) % self.kept.len();
                &mut self.kept[self.next]
            }
        };
        let answer = client.try_request("GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n");
        match answer.map_err(|error| error.to_string())?.status {
            200 => Ok(()),
            status => Err(format!("{} answered {status}", self.addr)),
        }
    }

    /// Answers how often it could be done.
    fn run(&mut self, span: Duration) -> Result<u64, String> {
        let (started, mut done) = (Instant::now(), 0);
        while started.elapsed() < span {
            self.turn()?;
            done += 1;
        }
        Ok(done)
    }
}

/// Measures `wanted` peers, all when it is empty.
pub(super) fn run(wanted: &[String], rounds: usize, slice: Duration) -> Result<(), String> {
    if let Some(unknown) = wanted.iter().find(|name| !PEERS.contains(&name.as_str())) {
        return Err(format!("no proxy with TLS is called {unknown:?}; there are {}", PEERS.join(", ")));
    }
    machine::print_header("gateway --protocol tls");
    println!(
        "- method: proxies on CPU {}, load and back ends on CPU {}; {rounds} rounds of {slice:?}, order reversed every other \
         round; one blocking client; CPU time of all threads over what was done; ratios paired by round, median (min–max)",
        machine::PROXY_CPU,
        machine::load_cpu()
    );
    let authority = Authority::new("bench");
    let issued = authority.server(&[NAME]);
    let backends = proxy::start_backends()?;
    let mut proxies = Vec::new();
    for name in PEERS.into_iter().filter(|name| wanted.is_empty() || wanted.iter().any(|word| word == name)) {
        match start(name, &issued, &backends) {
            Ok(proxy) => {
                println!("- {}: {}", proxy.name, proxy.about);
                proxies.push(proxy);
            }
            Err(reason) => println!("- {name}: left out: {reason}"),
        }
    }
    println!();
    if proxies.is_empty() {
        return Err("no proxy could be started".to_owned());
    }
    for (work, about) in Work::ALL {
        measure(work, about, &proxies, &authority, rounds, slice)?;
    }
    Ok(())
}

fn start(name: &'static str, issued: &Issued, backends: &Backend) -> Result<Proxy, String> {
    let (dir, addr) = (TempDir::new(name), free_port());
    let [one, other] = [0, 1].map(|index| backends.addrs()[index]);
    let (cert, key) = (issued.cert.display(), issued.key.display());
    let file = match name {
        "haproxy" => {
            let read =
                |path| std::fs::read_to_string(path).map_err(|error: std::io::Error| error.to_string());
            let both = dir.write("both.pem", &(read(&issued.cert)? + &read(&issued.key)?));
            let config = format!(
                "global\n  nbthread 1\ndefaults\n  mode http\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\n\
                 frontend f\n  bind {addr} ssl crt {} alpn http/1.1\n  default_backend b\n\
                 backend b\n  balance roundrobin\n  server one {one}\n  server two {other}\n",
                both.display()
            );
            dir.write("haproxy.cfg", &config);
            "haproxy.cfg"
        }
        "nginx" => {
            let config = format!(
                "worker_processes 1;\ndaemon off;\npid run/nginx.pid;\nevents {{ worker_connections 4096; }}\n\
                 http {{ access_log off; client_body_temp_path run/body; proxy_temp_path run/proxy;\n\
                 fastcgi_temp_path run/f; uwsgi_temp_path run/u; scgi_temp_path run/s; keepalive_requests 100000000;\n\
                 upstream b {{ server {one}; server {other}; keepalive 64; keepalive_requests 100000000; }}\n\
                 server {{ listen {addr} ssl; ssl_certificate {cert}; ssl_certificate_key {key};\n\
                 ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:s:10m; ssl_session_tickets on;\n\
                 location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection \"\"; }} }} }}\n"
            );
            dir.write("nginx.conf", &config);
            "nginx.conf"
        }
        "envoy" => {
            let port = |addr: SocketAddr| {
                format!("{{socket_address: {{address: {}, port_value: {}}}}}", addr.ip(), addr.port())
            };
            let endpoint = |addr| format!("{{endpoint: {{address: {}}}}}", port(addr));
            let config = format!(
                "static_resources:\n  listeners:\n  - address: {listen}\n    filter_chains:\n    - transport_socket:\n        \
                 name: tls\n        typed_config:\n          \
                 '@type': type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n          \
                 common_tls_context:\n            tls_certificates: [{{certificate_chain: {{filename: '{cert}'}}, \
                 private_key: {{filename: '{key}'}}}}]\n      filters:\n      - name: http\n        typed_config:\n          \
                 '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
                 stat_prefix: s\n          codec_type: HTTP1\n          http_filters:\n          - name: router\n            \
                 typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}\n          \
                 route_config: {{virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, \
                 route: {{cluster: b}}}}]}}]}}\n  clusters:\n  - name: b\n    connect_timeout: 5s\n    load_assignment:\n      \
                 cluster_name: b\n      endpoints: [{{lb_endpoints: [{first}, {second}]}}]\n",
                listen = port(addr),
                first = endpoint(one),
                second = endpoint(other),
            );
            dir.write("envoy.yaml", &config);
            "envoy.yaml"
        }
        _ => {
            let config = format!(
                "workers: 1\nadmin: {{address: '127.0.0.1:0'}}\nlisteners: [{{address: '127.0.0.1:0', \
                 tls: {{certificates: [{{cert: '{cert}', key: '{key}'}}]}}}}]\n\
                 services: {{b: {{balance: round_robin, endpoints: ['{one}', '{other}']}}}}\n"
            );
            let bin = machine::build_seawall("", "")?;
            return proxy::serve_seawall(name, &bin, &config, "`seawall up`, defaults with TLS".to_owned());
        }
    };
    let (about, command) = proxy::peer(name, file, &dir)?;
    proxy::launch(name, addr, about, command, dir)
}

fn measure(
    work: Work,
    about: &str,
    proxies: &[Proxy],
    authority: &Authority,
    rounds: usize,
    slice: Duration,
) -> Result<(), String> {
    let mut clients = Vec::new();
    for proxy in proxies {
        let mut client = Client::new(work, authority, proxy.addr)?;
        client.run(WARM_UP)?;
        clients.push(client);
    }
    let mut costs = vec![Vec::new(); proxies.len()];
    let mut rates = vec![Vec::new(); proxies.len()];
    for round in 0..rounds {
        for turn in 0..proxies.len() {
            let index = if round % 2 == 0 { turn } else { proxies.len() - 1 - turn };
            let pids = proxies[index].pids();
            let (before, started) = (proc::cpu_time(&pids), Instant::now());
            let done = clients[index].run(slice)?;
            let used = proc::cpu_time(&pids).saturating_sub(before);
            costs[index].push(used.as_secs_f64() * 1e6 / done as f64);
            rates[index].push(done as f64 / started.elapsed().as_secs_f64());
        }
    }
    println!("## {about}\n\n| proxy | µs | × haproxy | × nginx | per second of CPU | per second |");
    println!("|---|---|---|---|---|---|");
    let reference =
        |name: &str| proxies.iter().position(|proxy| proxy.name == name).map(|index| &costs[index]);
    for ((proxy, own), rates) in proxies.iter().zip(&costs).zip(&rates) {
        let ratio = |to: Option<&Vec<f64>>| or_dash(to.and_then(|to| Spread::of_ratios(own, to)));
        let spread = Spread::of(own.iter().copied());
        let per_cpu = spread.as_ref().map_or(0.0, |spread| 1e6 / spread.median);
        let rate = Spread::of(rates.iter().copied()).map_or(0.0, |rate| rate.median);
        println!(
            "| {} | {} | {} | {} | {per_cpu:.0} | {rate:.0} |",
            proxy.name,
            or_dash(spread),
            ratio(reference("haproxy")),
            ratio(reference("nginx")),
        );
    }
    println!();
    Ok(())
}
