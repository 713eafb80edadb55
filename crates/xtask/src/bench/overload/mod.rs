//! More load than the service can take: what comes through, how fast, and how soon it is over.

mod judge;
mod peers;
mod report;
mod trial;

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use testkit::station::{Capacity, ServiceSpread};
use testkit::sys::{pin_to_cpu, raise_open_files};

use super::machine;
use crate::args::Args;
use peers::PEERS;
use trial::{Plan, Row};

const USAGE: &str = "\
cargo xtask bench overload [OPTIONS]

A back end with 8 workers of 20 ms (400 requests/s), a proxy before it, and clients that do not care: an open loop of
four classes, each client patient for 1 s. For each load: settle, overload, back to 0.9 of the capacity until all is
well again. Every load meets fresh processes. Method and configurations: bench/overload/README.md.

  --peers NAME,…        of haproxy, nginx, envoy, seawall          [all]
  --loads N,…           multiples of the capacity                  [0.5,0.9,1.2,2,5,10]
  --seconds N           of overload per load                       [6]
  --recovery-seconds N  to wait at most for recovery               [10]
  --retries WHICH       no, yes (3 attempts) or both               [both]
  --fixed               every request takes 20 ms, instead of exponentially distributed times around 20 ms
  --quick               loads 0.9 and 5, 2 s each, at most 3 s for recovery, no retries
  --json                JSON instead of tables
";

/// What the back end can do, which nobody has to guess: 400 requests/s, so that clients, proxy and back end together
/// leave both cores mostly idle even at ten times that, with every request tried three times.
const CAPACITY: Capacity = Capacity {
    workers: 8,
    service: Duration::from_millis(20),
    spread: ServiceSpread::Exponential,
    queue_max: None,
    reports_load: false,
};
const LOADS: [f64; 6] = [0.5, 0.9, 1.2, 2.0, 5.0, 10.0];
/// Attempts per request of clients that retry.
const ATTEMPTS: u32 = 3;
/// Descriptors of the largest crowd that waits in vain: every attempt of a second on a connection of its own, and as
/// many behind the proxy.
const OPEN_FILES: u64 = 60_000;

pub(super) fn run(mut args: Args) -> Result<(), String> {
    if args.flag("help") {
        print!("{USAGE}");
        return Ok(());
    }
    let is_quick = args.flag("quick");
    let quick = |quick: f64, full: f64| if is_quick { quick } else { full };
    let names = args.list("peers")?;
    let loads = args.list("loads")?;
    let seconds = args.option("seconds")?.unwrap_or(quick(2.0, 6.0));
    let recovery_seconds = args.option("recovery-seconds")?.unwrap_or(quick(3.0, 10.0));
    let retries: Option<String> = args.option("retries")?;
    let spread = if args.flag("fixed") { ServiceSpread::Fixed } else { ServiceSpread::Exponential };
    let as_json = args.flag("json");
    args.finish()?;

    if let Some(unknown) = names.iter().find(|name| !PEERS.iter().any(|peer| peer.name == name.as_str())) {
        let known: Vec<&str> = PEERS.iter().map(|peer| peer.name).collect();
        return Err(format!("no peer is called {unknown:?}; there are {}", known.join(", ")));
    }
    let loads = if !loads.is_empty() {
        loads.iter().map(|load| positive("loads", load.parse().ok())).collect::<Result<_, _>>()?
    } else if is_quick {
        vec![0.9, 5.0]
    } else {
        LOADS.to_vec()
    };
    let attempts: &[u32] = match retries.as_deref() {
        Some("no") => &[1],
        Some("yes") => &[ATTEMPTS],
        Some("both") => &[1, ATTEMPTS],
        Some(other) => return Err(format!("--retries: {other:?} is none of no, yes and both")),
        None if is_quick => &[1],
        None => &[1, ATTEMPTS],
    };
    let mut plan = Plan {
        capacity: Capacity { spread, ..CAPACITY },
        overload: Duration::from_secs_f64(positive("seconds", Some(seconds))?),
        recovery_max: Duration::from_secs_f64(positive("recovery-seconds", Some(recovery_seconds))?),
        unloaded: trial::Unloaded::default(),
    };
    // Raised before anything is started, because children inherit it.
    let files =
        raise_open_files(OPEN_FILES).map_err(|error| format!("cannot raise the file limit: {error}"))?;
    pin_to_cpu(machine::load_cpu()).map_err(|error| format!("cannot pin the load: {error}"))?;

    let peers = peers::prepare(&names)?;
    if !as_json {
        machine::print_header("overload");
        println!("- open files: {files}");
        report::print_method(&plan, &peers);
    }
    plan.unloaded = trial::unloaded(&plan)?;
    let mut rows: Vec<Row> = Vec::new();
    let all = attempts.len() * loads.len() * peers.len();
    for attempts_max in attempts {
        for load in &loads {
            for peer in &peers {
                eprintln!(
                    "{} of {all}: {}, {load} × capacity, {attempts_max} attempt(s)",
                    rows.len() + 1,
                    peer.kind.name
                );
                rows.push(trial::run(&plan, peer, *load, *attempts_max)?);
            }
        }
    }
    if as_json {
        println!("{}", report::json(&plan, &peers, &rows));
    } else {
        report::print(&plan, attempts, &rows);
    }
    Ok(())
}

fn positive(name: &str, value: Option<f64>) -> Result<f64, String> {
    value
        .filter(|value| value.is_finite() && *value > 0.0)
        .ok_or_else(|| format!("--{name} wants positive numbers"))
}

/// The back end, as a process of its own: serves until it is killed, and says where.
pub(super) fn station(mut args: Args) -> Result<(), String> {
    let workers: usize = args.option("workers")?.ok_or("--workers is missing")?;
    let micros: u64 = args.option("service-us")?.ok_or("--service-us is missing")?;
    let spread: ServiceSpread = args.option("spread")?.unwrap_or(ServiceSpread::Exponential);
    let queue_max = args.option("queue")?;
    let reports_load = args.flag("report-load");
    let seed = args.option("seed")?.unwrap_or(1);
    let listen: SocketAddr = args.option("listen")?.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
    args.finish()?;
    let capacity =
        Capacity { workers, service: Duration::from_micros(micros), spread, queue_max, reports_load };
    let listener =
        TcpListener::bind(listen).map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let addr = listener.local_addr().map_err(|error| error.to_string())?;
    println!("{}{addr}", trial::LISTENING);
    testkit::station::serve(&listener, &capacity, seed, &AtomicBool::new(false))
        .map_err(|error| error.to_string())
}
