//! CPU per request beside the peers.

use std::time::Duration;

use testkit::load::{Histogram, Limit, Load};

use super::proxy::{self, Proxy};
use super::shape::{SHAPES, Shape, named};
use super::stats::{Spread, or_dash};
use super::{machine, proc};
use crate::args::Args;

const SLICE: Duration = Duration::from_secs(1);
const WARM_UP: Duration = Duration::from_millis(300);
const ROUNDS: usize = 9;
const ROUNDS_QUICK: usize = 3;

/// One slice of one proxy.
struct Sample {
    /// Microseconds of CPU per answer.
    cost: f64,
    per_second: f64,
    failed: u64,
    late: u64,
    latency: Histogram,
}

pub(super) fn run(mut args: Args) -> Result<(), String> {
    let rounds = if args.flag("quick") { ROUNDS_QUICK } else { ROUNDS };
    let rounds = args.option("rounds")?.unwrap_or(rounds).max(1);
    let only = args.list("only")?;
    let (every, beside): (&[&'static str], _) = match args.option::<String>("protocol")?.as_deref() {
        None | Some("h1") => (&proxy::NAMES, "haproxy"),
        Some("tcp") => (&proxy::TCP_NAMES, "haproxy-tcp"),
        Some("tls") => {
            let peers = args.list("peers")?;
            args.finish()?;
            return super::tls::run(&peers, rounds, SLICE);
        }
        Some("h2") => {
            let peers = args.list("peers")?;
            args.finish()?;
            return super::h2::run(&peers, rounds, SLICE);
        }
        Some(other) => return Err(format!("no protocol is called {other:?}; there are h1, h2, tcp and tls")),
    };
    let names = proxy::chosen(&args.list("peers")?, every)?;
    args.finish()?;
    let shapes: Vec<&Shape> = if only.is_empty() {
        SHAPES.iter().collect()
    } else {
        let unknown = |name: &String| format!("no shape is called {name:?}");
        only.iter().map(|name| named(name).ok_or_else(|| unknown(name))).collect::<Result<_, _>>()?
    };

    machine::print_header("gateway");
    println!(
        "- method: proxies on CPU {}, load and back ends on CPU {}; {rounds} rounds of 1 s slices, order reversed every \
         other round; CPU time of all threads over answers; ratios paired by round, median (min–max)",
        machine::PROXY_CPU,
        machine::load_cpu()
    );
    let backends = proxy::start_backends()?;
    let proxies = proxy::start_all(&names, &backends, 1000);
    if proxies.is_empty() {
        return Err("no proxy could be started".to_owned());
    }
    for shape in shapes {
        let samples = measure(shape, &proxies, rounds)?;
        report(shape, &proxies, &samples, beside);
    }
    Ok(())
}

/// Samples by proxy, then by round.
fn measure(shape: &Shape, proxies: &[Proxy], rounds: usize) -> Result<Vec<Vec<Sample>>, String> {
    let mut loads = Vec::new();
    for proxy in proxies {
        let cannot = |error| format!("{}: {error}", proxy.name);
        let mut load = Load::connect(proxy.addr, shape.connections, &shape.request()).map_err(cannot)?;
        load.run(shape.pace(0), Limit::time(WARM_UP)).map_err(cannot)?;
        loads.push((load, proxy.pids()));
    }
    let mut samples: Vec<Vec<Sample>> = proxies.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for turn in 0..proxies.len() {
            let index = if round % 2 == 0 { turn } else { proxies.len() - 1 - turn };
            let (load, pids) = &mut loads[index];
            samples[index].push(slice(load, pids, shape, round)?);
        }
    }
    Ok(samples)
}

fn slice(load: &mut Load, pids: &[u32], shape: &Shape, round: usize) -> Result<Sample, String> {
    let before = proc::cpu_time(pids);
    let report = load.run(shape.pace(round), Limit::time(SLICE)).map_err(|error| error.to_string())?;
    let used = proc::cpu_time(pids).saturating_sub(before);
    Ok(Sample {
        cost: used.as_secs_f64() * 1e6 / report.answered() as f64,
        per_second: report.answered() as f64 / report.elapsed.as_secs_f64(),
        failed: report.errors + report.other,
        late: report.late,
        latency: report.latency,
    })
}

/// Prints one kind of traffic, with ratios to the proxy called `beside`.
fn report(shape: &Shape, proxies: &[Proxy], samples: &[Vec<Sample>], beside: &str) {
    let costs: Vec<Vec<f64>> =
        samples.iter().map(|samples| samples.iter().map(|sample| sample.cost).collect()).collect();
    let reference =
        |name: &str| proxies.iter().position(|proxy| proxy.name == name).map(|index| &costs[index]);
    let (haproxy, forwarder) = (reference(beside), reference("forwarder"));
    println!("## {}: {}\n", shape.name, shape.about);
    let latency_titles = if shape.is_open() { " p50 µs | p99 µs | late |" } else { "" };
    println!("| proxy | µs/request | × haproxy | × forwarder | requests/s | failed |{latency_titles}");
    println!("|---|---|---|---|---|---|{}", if shape.is_open() { "---|---|---|" } else { "" });
    for ((proxy, samples), costs) in proxies.iter().zip(samples).zip(&costs) {
        let ratio = |to: Option<&Vec<f64>>| or_dash(to.and_then(|to| Spread::of_ratios(costs, to)));
        let rate = Spread::of(samples.iter().map(|sample| sample.per_second)).map_or(0.0, |rate| rate.median);
        let failed: u64 = samples.iter().map(|sample| sample.failed).sum();
        print!(
            "| {} | {} | {} | {} | {rate:.0} | {failed} |",
            proxy.name,
            or_dash(Spread::of(costs.iter().copied())),
            ratio(haproxy),
            ratio(forwarder)
        );
        if shape.is_open() {
            let quantile = |quantile| {
                let micros =
                    samples.iter().map(|sample| sample.latency.quantile(quantile).as_secs_f64() * 1e6);
                Spread::of(micros).map_or(0.0, |spread| spread.median)
            };
            let late: u64 = samples.iter().map(|sample| sample.late).sum();
            print!(" {:.0} | {:.0} | {late} |", quantile(0.5), quantile(0.99));
        }
        println!();
    }
    println!();
}
