//! CPU of requests that come multiplexed by HTTP/2, beside the peers. The load is `h2load`'s; back ends speak HTTP/1.1.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use testkit::backend::Backend;
use testkit::process::find_program;
use testkit::{TempDir, free_port};

use super::proxy::{self, Proxy};
use super::stats::{Spread, or_dash};
use super::{machine, proc};

const PEERS: [&str; 4] = ["haproxy", "nginx", "envoy", "seawall"];
const SHAPES: [(&str, &str, &str); 2] =
    [("1", "100", "1 connection × 100 streams"), ("64", "10", "64 connections × 10 streams")];

/// Measures `wanted` peers, all when it is empty.
pub(super) fn run(wanted: &[String], rounds: usize, slice: Duration) -> Result<(), String> {
    if let Some(unknown) = wanted.iter().find(|name| !PEERS.contains(&name.as_str())) {
        return Err(format!("no proxy with HTTP/2 is called {unknown:?}; there are {}", PEERS.join(", ")));
    }
    find_program("h2load").ok_or("h2load is missing (Debian: nghttp2-client)")?;
    machine::print_header("gateway --protocol h2");
    println!(
        "- method: proxies on CPU {}, h2load and back ends on CPU {}; {rounds} rounds of {slice:?}, order reversed every \
         other round; h2c with prior knowledge; CPU time of all threads over answers; ratios paired by round, median (min–max)",
        machine::PROXY_CPU,
        machine::load_cpu()
    );
    let backends = proxy::start_backends()?;
    let mut proxies = Vec::new();
    for name in PEERS.into_iter().filter(|name| wanted.is_empty() || wanted.iter().any(|word| word == name)) {
        match start(name, &backends) {
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
    for shape in SHAPES {
        measure(shape, &proxies, rounds, slice)?;
    }
    Ok(())
}

fn start(name: &'static str, backends: &Backend) -> Result<Proxy, String> {
    let (dir, addr) = (TempDir::new(name), free_port());
    let [one, other] = [0, 1].map(|index| backends.addrs()[index]);
    let file = match name {
        "haproxy" => {
            let config = format!(
                "global\n  nbthread 1\ndefaults\n  mode http\n  timeout client 60s\n  timeout server 60s\n  timeout connect 5s\n\
                 frontend f\n  bind {addr} proto h2\n  default_backend b\n\
                 backend b\n  balance roundrobin\n  server one {one}\n  server two {other}\n"
            );
            dir.write("haproxy.cfg", &config);
            "haproxy.cfg"
        }
        "nginx" => {
            let config = format!(
                "worker_processes 1;\ndaemon off;\npid run/nginx.pid;\nevents {{ worker_connections 4096; }}\n\
                 http {{ access_log off; client_body_temp_path run/body; proxy_temp_path run/proxy;\n\
                 fastcgi_temp_path run/f; uwsgi_temp_path run/u; scgi_temp_path run/s; keepalive_requests 100000000;\n\
                 upstream b {{ server {one}; server {other}; keepalive 128; keepalive_requests 100000000; }}\n\
                 server {{ listen {addr} http2; http2_max_concurrent_streams 128;\n\
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
                "static_resources:\n  listeners:\n  - address: {listen}\n    filter_chains:\n    - filters:\n      - name: http\n        \
                 typed_config:\n          \
                 '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          \
                 stat_prefix: s\n          codec_type: HTTP2\n          http_filters:\n          - name: router\n            \
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
                "workers: 1\nadmin: {{address: '127.0.0.1:0'}}\nlisteners: [{{address: '127.0.0.1:0'}}]\n\
                 services: {{b: {{balance: round_robin, endpoints: ['{one}', '{other}']}}}}\n"
            );
            let bin = machine::build_seawall("", "")?;
            return proxy::serve_seawall(name, &bin, &config, "`seawall up`, defaults".to_owned());
        }
    };
    let (about, command) = proxy::peer(name, file, &dir)?;
    proxy::launch(name, addr, about, command, dir)
}

/// Loads `addr` for `span`; answers how many requests succeeded and how many did not.
fn load(addr: SocketAddr, connections: &str, streams: &str, span: Duration) -> Result<(u64, u64), String> {
    let output = Command::new("h2load")
        .args(["-c", connections, "-m", streams, "-t", "1", "-D", &span.as_secs_f64().to_string()])
        .arg(format!("http://{addr}/"))
        .output()
        .map_err(|error| format!("h2load cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("requests: ")).unwrap_or_default();
    let count = |what: &str| {
        let part = line.split(", ").find(|part| part.ends_with(what))?;
        part.split_ascii_whitespace().find_map(|word| word.parse::<u64>().ok())
    };
    let bad = count("failed").unwrap_or(0) + count("errored").unwrap_or(0);
    match count("succeeded") {
        Some(succeeded) if succeeded > 0 => Ok((succeeded, bad)),
        _ => Err(format!("h2load got nothing from {addr}: {line}")),
    }
}

fn measure(
    (connections, streams, about): (&str, &str, &str),
    proxies: &[Proxy],
    rounds: usize,
    slice: Duration,
) -> Result<(), String> {
    let mut costs = vec![Vec::new(); proxies.len()];
    let mut rates = vec![Vec::new(); proxies.len()];
    let mut failed = vec![0; proxies.len()];
    for round in 0..rounds {
        for turn in 0..proxies.len() {
            let index = if round % 2 == 0 { turn } else { proxies.len() - 1 - turn };
            let pids = proxies[index].pids();
            let before = proc::cpu_time(&pids);
            let (done, bad) = load(proxies[index].addr, connections, streams, slice)?;
            let used = proc::cpu_time(&pids).saturating_sub(before);
            costs[index].push(used.as_secs_f64() * 1e6 / done as f64);
            rates[index].push(done as f64 / slice.as_secs_f64());
            failed[index] += bad;
        }
    }
    println!("## {about}\n\n| proxy | µs | × haproxy | × nginx | per second | failed |");
    println!("|---|---|---|---|---|---|");
    let reference =
        |name: &str| proxies.iter().position(|proxy| proxy.name == name).map(|index| &costs[index]);
    for (index, proxy) in proxies.iter().enumerate() {
        let ratio = |to: Option<&Vec<f64>>| or_dash(to.and_then(|to| Spread::of_ratios(&costs[index], to)));
        let rate = Spread::of(rates[index].iter().copied()).map_or(0.0, |rate| rate.median);
        println!(
            "| {} | {} | {} | {} | {rate:.0} | {} |",
            proxy.name,
            or_dash(Spread::of(costs[index].iter().copied())),
            ratio(reference("haproxy")),
            ratio(reference("nginx")),
            failed[index],
        );
    }
    println!();
    Ok(())
}
