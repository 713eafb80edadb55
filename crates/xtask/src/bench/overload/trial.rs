//! One peer under one load, with fresh processes: settle, overload, back to normal.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use testkit::client::try_get;
use testkit::load::Histogram;
use testkit::load::surge::{Manners, Surge};
use testkit::process::Process;
use testkit::station::{Capacity, Counts};
use testkit::sys::thread_cpu_time;

use super::judge::{CLASSES, Judgement, PATIENCE, due_in, recovered};
use super::peers::{Kind, Peer};
use crate::bench::proc;

/// Says where the back end listens.
pub(super) const LISTENING: &str = "listening on ";
/// The load before and after an overload, as a share of the capacity.
pub(super) const CALM: f64 = 0.9;
/// How long a proxy gets to open its connections and to learn what is normal.
const SETTLE: Duration = Duration::from_secs(2);
const UNLOADED: f64 = 0.25;
const UNLOADED_SPAN: Duration = Duration::from_secs(5);
/// The most important class asks for this share of the capacity at any load, so that it alone always fits.
const TOP_SHARE: f64 = 0.1;
/// How the other classes share the rest of the load.
const OTHER_SHARES: [f64; CLASSES.len() - 1] = [0.4, 0.3, 0.3];
/// From a failed attempt to the next: the eager client that makes an overload worse.
const BACKOFF: Duration = Duration::from_millis(10);
/// The proxy has a CPU to itself. Where it waits for it for more than this share of the time, other programs were
/// measured too.
const WAITED_MAX: f64 = 0.1;
const STEP: Duration = Duration::from_millis(100);
const START_MAX: Duration = Duration::from_secs(10);
/// The same arrivals and service times for every peer.
const SEED: u64 = 42;

/// What every trial has in common.
pub(super) struct Plan {
    pub(super) capacity: Capacity,
    pub(super) overload: Duration,
    pub(super) recovery_max: Duration,
    pub(super) unloaded: Unloaded,
}

/// How fast the back end answers without a queue and without a proxy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unloaded {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
}

/// Whether and when all was well again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Recovery {
    /// There was nothing to recover from.
    None,
    After(Duration),
    /// Not within the time that it got.
    NotWithin(Duration),
}

/// What one trial has shown.
pub(super) struct Row {
    pub(super) peer: &'static Kind,
    pub(super) load: f64,
    pub(super) attempts_max: u32,
    pub(super) span: Duration,
    pub(super) judgement: Judgement,
    /// What the back end saw during the overload.
    pub(super) backend: Counts,
    /// CPU time over wall time.
    pub(super) proxy_cpu: f64,
    pub(super) load_cpu: f64,
    pub(super) recovery: Recovery,
    /// Why the figures mean nothing, if so.
    pub(super) invalid: Option<String>,
}

/// Arrivals per second of each class, at `load` times the capacity.
fn rates(capacity: &Capacity, load: f64) -> [f64; CLASSES.len()] {
    let top = TOP_SHARE.min(load);
    let [second, third, last] = OTHER_SHARES.map(|share| (load - top) * share);
    [top, second, third, last].map(|share| share * capacity.per_second())
}

fn manners(attempts_max: u32) -> Manners {
    let request = |class: &str| {
        format!("GET /work HTTP/1.1\r\nHost: www.example.com\r\nseawall-criticality: {class}\r\n\r\n")
            .into_bytes()
    };
    Manners { requests: CLASSES.map(request).to_vec(), patience: PATIENCE, attempts_max, backoff: BACKOFF }
}

/// Measures the back end alone.
pub(super) fn unloaded(plan: &Plan) -> Result<Unloaded, String> {
    let backend = Backend::start(&plan.capacity)?;
    let cannot = |error: std::io::Error| format!("the load without a proxy: {error}");
    let mut surge = Surge::new(backend.addr, manners(1), SEED).map_err(cannot)?;
    surge.run(&rates(&plan.capacity, UNLOADED), UNLOADED_SPAN).map_err(cannot)?;
    surge.drain().map_err(cannot)?;
    let judgement = Judgement::of(surge.requests());
    if let Some(why) = judgement.invalid() {
        eprintln!("without a proxy: {why}: the ratios to it mean little");
    }
    if judgement.good() < judgement.offered() {
        return Err("the back end does not even answer without a load".to_owned());
    }
    let quantile = |quantile| Histogram::quantile(&judgement.latency, quantile);
    Ok(Unloaded { p50: quantile(0.5), p99: quantile(0.99) })
}

/// Measures one peer under one load.
pub(super) fn run(plan: &Plan, peer: &Peer, load: f64, attempts_max: u32) -> Result<Row, String> {
    let name = peer.kind.name;
    let backend = Backend::start(&plan.capacity)?;
    let proxy = peer.start(backend.addr).map_err(|reason| format!("{name}: {reason}"))?;
    let cannot = |error: std::io::Error| format!("{name}: {error}; it said: {}", proxy.last_words());
    let mut surge = Surge::new(proxy.addr, manners(attempts_max), SEED).map_err(cannot)?;
    let calm = rates(&plan.capacity, CALM.min(load));
    surge.run(&calm, SETTLE).map_err(cannot)?;

    let (from, counted) = (surge.elapsed(), backend.counts()?);
    let (pids, started) = (proxy.pids(), Instant::now());
    let before = Used::read(&pids);
    surge.run(&rates(&plan.capacity, load), plan.overload).map_err(cannot)?;
    let wall = started.elapsed().as_secs_f64();
    let after = Used::read(&pids);
    let share = |of: fn(&Used) -> Duration| of(&after).saturating_sub(of(&before)).as_secs_f64() / wall;
    let proxy_waited = share(|used| used.proxy_waited);
    let (until, now_counted) = (surge.elapsed(), backend.counts()?);

    let recovery =
        if load > CALM { recovery(plan, &mut surge, &calm).map_err(cannot)? } else { Recovery::None };
    surge.drain().map_err(cannot)?;
    let judgement = Judgement::of(due_in(surge.requests(), from, until));
    let invalid = judgement.invalid().or_else(|| {
        // A generator that is late afterwards has not measured the recovery.
        Judgement::of(due_in(surge.requests(), until, surge.elapsed())).invalid()
    });
    let invalid = invalid.or_else(|| {
        let percent = 100.0 * proxy_waited;
        (proxy_waited > WAITED_MAX)
            .then(|| format!("the proxy waited {percent:.0} % of the time for its CPU, which others had"))
    });
    Ok(Row {
        peer: peer.kind,
        load,
        attempts_max,
        span: plan.overload,
        judgement,
        backend: Counts {
            arrived: now_counted.arrived - counted.arrived,
            served: now_counted.served - counted.served,
            wasted: now_counted.wasted - counted.wasted,
            refused: now_counted.refused - counted.refused,
            waiting: now_counted.waiting,
        },
        proxy_cpu: share(|used| used.proxy),
        load_cpu: share(|used| used.load),
        recovery,
        invalid,
    })
}

/// CPU time so far.
struct Used {
    proxy: Duration,
    proxy_waited: Duration,
    load: Duration,
}

impl Used {
    fn read(proxy: &[u32]) -> Self {
        Self { proxy: proc::cpu_time(proxy), proxy_waited: proc::waited_time(proxy), load: thread_cpu_time() }
    }
}

/// Goes on at `calm` rates until all is well again, or the time for it is over.
fn recovery(plan: &Plan, surge: &mut Surge, calm: &[f64]) -> std::io::Result<Recovery> {
    let ended = surge.elapsed();
    // The last second to be looked at must have passed, and the patience of its last client.
    while surge.elapsed() - ended < plan.recovery_max + 2 * PATIENCE {
        surge.run(calm, STEP)?;
        let recovered = recovered(surge.requests(), ended, surge.elapsed(), plan.unloaded.p99);
        if let Some(after) = recovered.filter(|after| *after <= plan.recovery_max) {
            return Ok(Recovery::After(after));
        }
    }
    Ok(Recovery::NotWithin(plan.recovery_max))
}

/// The back end's process.
struct Backend {
    addr: SocketAddr,
    process: Process,
}

impl Backend {
    fn start(capacity: &Capacity) -> Result<Self, String> {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut command = Command::new(own);
        command.arg("station");
        for (name, value) in [
            ("--workers", capacity.workers.to_string()),
            ("--service-us", capacity.service.as_micros().to_string()),
            ("--spread", capacity.spread.to_string()),
            ("--seed", SEED.to_string()),
        ] {
            command.args([name, &value]);
        }
        let process =
            Process::start(&mut command).map_err(|error| format!("cannot start the back end: {error}"))?;
        let addr = process.output().find(START_MAX, |line| line.strip_prefix(LISTENING)?.parse().ok());
        match addr {
            Some(addr) => Ok(Self { addr, process }),
            None => Err(format!("the back end: {}", process.output().lines().join(" | "))),
        }
    }

    fn counts(&self) -> Result<Counts, String> {
        let answer = try_get(self.addr, "/stats").map_err(|error| {
            format!("the back end: {error}; it said: {}", self.process.output().lines().join(" | "))
        })?;
        Ok(Counts::parse(&answer.text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::overload::CAPACITY;

    #[test]
    fn the_top_class_always_fits_and_the_sum_is_the_load() {
        for load in [0.05, 0.5, 1.2, 10.0] {
            let rates = rates(&CAPACITY, load);
            let sum: f64 = rates.iter().sum();
            assert!((sum / CAPACITY.per_second() - load).abs() < 1e-9);
            assert!(rates[0] <= TOP_SHARE * CAPACITY.per_second() + 1e-9);
            assert!(rates.iter().all(|rate| *rate >= 0.0));
        }
    }
}
