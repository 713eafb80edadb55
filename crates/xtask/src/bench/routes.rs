//! What a large configuration costs: to load it, and each request.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::TempDir;
use testkit::load::{Limit, Load, Pace};

use super::stats::{Spread, or_dash};
use super::{machine, proc, proxy};
use crate::args::Args;
use crate::run::read;

const ROUTES: usize = 10_000;
const SERVICES: usize = 1_000;
const ROUNDS: usize = 9;
const CHECKS: usize = 5;
const SLICE: Duration = Duration::from_secs(1);

pub(super) fn run(mut args: Args) -> Result<(), String> {
    let rounds = args.option("rounds")?.unwrap_or(ROUNDS).max(1);
    args.finish()?;
    machine::print_header("gateway-routes");
    let backends = proxy::start_backends()?;
    let bin = machine::build_seawall("", "")?;
    let (small, large) = (config(1, 1, backends.addrs()), config(ROUTES, SERVICES, backends.addrs()));

    let dir = TempDir::new("routes");
    let path = dir.write("large.yaml", &large);
    let mut spans = Vec::new();
    for _ in 0..CHECKS {
        let started = Instant::now();
        read(Command::new(&bin).arg("check").arg(&path))?;
        spans.push(started.elapsed().as_secs_f64());
    }
    let size = large.len() / 1024;
    println!(
        "- `seawall check`, {ROUTES} routes, {SERVICES} services, {size} KiB: {} s",
        or_dash(Spread::of(spans))
    );

    let request = "GET /section0/item?page=2 HTTP/1.1\r\nHost: shop0.example\r\nAccept: */*\r\n\r\n";
    let mut running = Vec::new();
    for (name, config) in [("small", &small), ("large", &large)] {
        let proxy = proxy::serve_seawall(name, &bin, config, String::new())?;
        let mut load =
            Load::connect(proxy.addr, 64, request.as_bytes()).map_err(|error| error.to_string())?;
        load.run(Pace::Closed, Limit::time(SLICE / 2)).map_err(|error| error.to_string())?;
        running.push((proxy, load, Vec::new()));
    }
    for round in 0..rounds {
        for turn in 0..running.len() {
            let index = if round % 2 == 0 { turn } else { running.len() - 1 - turn };
            let (proxy, load, costs) = &mut running[index];
            let pids = proxy.pids();
            let before = proc::cpu_time(&pids);
            let report = load.run(Pace::Closed, Limit::time(SLICE)).map_err(|error| error.to_string())?;
            if report.ok != report.sent {
                return Err(format!(
                    "{}: {} of {} requests failed",
                    proxy.name,
                    report.sent - report.ok,
                    report.sent
                ));
            }
            let used = proc::cpu_time(&pids).saturating_sub(before);
            costs.push(used.as_secs_f64() * 1e6 / report.answered() as f64);
        }
    }
    println!("\n| configuration | µs/request | × small |\n|---|---|---|");
    for (proxy, _, costs) in &running {
        let ratio = Spread::of_ratios(costs, &running[0].2);
        println!("| {} | {} | {} |", proxy.name, or_dash(Spread::of(costs.iter().copied())), or_dash(ratio));
    }
    Ok(())
}

/// `routes` routes over a tenth as many hosts, to `services` services. The first of each is in every size, so that the
/// same request does the same thing in all.
fn config(routes: usize, services: usize, backends: &[SocketAddr]) -> String {
    let mut text =
        "workers: 1\nadmin:\n  address: 127.0.0.1:0\nlisteners:\n  - address: 127.0.0.1:0\nroutes:\n"
            .to_owned();
    let endpoints = backends.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    let hosts = routes.div_ceil(10);
    for route in 0..routes {
        let (host, section, service) = (route % hosts, route / hosts, route % services);
        let _ = writeln!(
            text,
            "  - match: {{host: shop{host}.example, path: /section{section}/}}\n    service: s{service}"
        );
    }
    text.push_str("services:\n");
    for service in 0..services {
        let _ = writeln!(text, "  s{service}:\n    endpoints: [{endpoints}]");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_has_the_wanted_size_and_distinct_routes() {
        let text = config(ROUTES, SERVICES, &["127.0.0.1:1".parse().unwrap()]);
        let mut matches: Vec<_> = text.lines().filter(|line| line.contains("- match:")).collect();
        matches.sort_unstable();
        matches.dedup();
        assert_eq!(matches.len(), ROUTES);
        assert_eq!(text.matches("endpoints: [127.0.0.1:1]").count(), SERVICES);
        for line in config(1, 1, &["127.0.0.1:1".parse().unwrap()]).lines() {
            assert!(text.contains(line), "{line}");
        }
    }
}
