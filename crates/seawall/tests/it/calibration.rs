//! The same load on the same back end, once for real (gateway and back end on loopback) and once simulated, agrees.
//!
//! The bands, which `docs/published.md` repeats, are wide enough for a busy machine with two cores and narrow enough that a
//! simulation of another design falls out of them: without policies, twice the capacity gives no goodput at all after
//! the first second, and neither does a gateway that lets everybody queue.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use model::Criticality::{Critical, CriticalPlus};
use model::Span;
use sim::Scenario;
use sim::scenario::{Arrival, Backend, ClassShare, Distribution, Service, Traffic};
use testkit::load::surge::{Manners, Surge, Verdict};
use testkit::station::{self, Capacity, Counts, ServiceSpread};

use crate::gate::Gate;

const WORKERS: usize = 4;
const SERVICE: Duration = Duration::from_millis(20);
const QUEUE_MAX: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(1);

/// Of the higher class, and of the lower. Neither is cut because the machine that runs the test is busy.
const SHARES: [f64; 2] = [0.4, 0.6];

/// Addresses that the generator sends from; the gateway tells customers apart by them.
const CUSTOMERS: u32 = 16;

/// What both worlds tell.
#[derive(Debug)]
struct Outcome {
    /// Of all requests, and of each class.
    success: f64,
    success_by_class: [f64; 2],
    goodput_per_s: f64,
    amplification: f64,
    p50_ms: f64,
}

/// The back end, on a thread of its own.
struct Station {
    addr: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<std::io::Result<()>>>,
}

impl Station {
    fn start() -> Self {
        let capacity = Capacity {
            workers: WORKERS,
            service: SERVICE,
            spread: ServiceSpread::Exponential,
            queue_max: Some(QUEUE_MAX),
            reports_load: false,
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = Some(std::thread::spawn(move || station::serve(&listener, &capacity, 1, &stopped)));
        Self { addr, stop, thread }
    }

    fn counts(&self) -> Counts {
        Counts::parse(&testkit::get(self.addr, "/stats").text())
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        // It looks at that when something happens.
        drop(TcpStream::connect(self.addr));
        self.thread.take().map(JoinHandle::join);
    }
}

/// Real requests, at so many per second.
fn measured(per_sec: f64, span: Duration) -> Outcome {
    let station = Station::start();
    let gate = Gate::to(&[station.addr]).trusting().start();
    let request =
        |class| format!("GET / HTTP/1.1\r\nHost: test\r\nseawall-criticality: {class}\r\n\r\n").into_bytes();
    let manners = Manners {
        requests: vec![request("CRITICAL_PLUS"), request("CRITICAL")],
        patience: PATIENCE,
        attempts_max: 1,
        backoff: Duration::ZERO,
    };
    let mut surge = Surge::new(gate.addr(), manners, 1).expect("sockets");
    surge.run(&SHARES.map(|share| share * per_sec), span).expect("sockets");
    surge.drain().expect("sockets");
    let requests = surge.requests();
    assert!(
        requests.iter().all(|request| request.verdict != Verdict::Unsent),
        "the generator ran out of ports"
    );
    let mut latencies: Vec<_> = requests.iter().filter_map(|request| request.latency()).collect();
    latencies.sort_unstable();
    let ratio = |class: Option<usize>| {
        let of = || requests.iter().filter(|request| class.is_none_or(|class| request.class == class));
        of().filter(|request| request.verdict == Verdict::Ok).count() as f64 / of().count() as f64
    };
    Outcome {
        success: ratio(None),
        success_by_class: [ratio(Some(0)), ratio(Some(1))],
        goodput_per_s: latencies.len() as f64 / span.as_secs_f64(),
        amplification: station.counts().arrived as f64 / requests.len() as f64,
        p50_ms: latencies[latencies.len() / 2].as_secs_f64() * 1e3,
    }
}

/// The same, simulated; the mean of some seeds.
fn simulated(per_sec: f64, span: Duration) -> Outcome {
    const SEEDS: u64 = 8;
    let backend = Backend {
        workers: WORKERS as u32,
        queue_max: QUEUE_MAX as u32,
        service_time: Distribution::Exponential { mean: Span::from_millis(SERVICE.as_millis() as u64) },
        ..Backend::default()
    };
    let traffic = Traffic {
        service: "web".into(),
        arrival: Arrival::Constant { per_sec },
        classes: [CriticalPlus, Critical]
            .into_iter()
            .zip(SHARES)
            .map(|(class, share)| ClassShare { class, share })
            .collect(),
        customers: CUSTOMERS,
        timeout: Span::from_millis(PATIENCE.as_millis() as u64),
        tells_deadline: false,
        ..Traffic::default()
    };
    let reports: Vec<_> = (1..=SEEDS)
        .map(|seed| {
            let service = Service { endpoints: 1, backend: backend.clone(), ..Service::default() };
            sim::run(&Scenario {
                seed,
                duration: Span::from_millis(span.as_millis() as u64),
                traffic: BTreeMap::from([("web".into(), traffic.clone())]),
                services: BTreeMap::from([("web".into(), service)]),
                ..Scenario::default()
            })
        })
        .collect();
    let mean = |of: &dyn Fn(&sim::Report) -> f64| reports.iter().map(of).sum::<f64>() / SEEDS as f64;
    Outcome {
        success: mean(&|report| report.total.success_ratio),
        success_by_class: [CriticalPlus, Critical]
            .map(|class| mean(&|report| report.classes[&class].figures.success_ratio)),
        goodput_per_s: mean(&|report| report.total.goodput_per_s),
        amplification: mean(&|report| report.total.amplification),
        p50_ms: mean(&|report| report.total.latency_ms.map_or(f64::NAN, |latency| latency.p50)),
    }
}

/// Whether `real` lies within `below` to `above` times what was simulated.
fn agree(what: &str, real: f64, simulated: f64, below: f64, above: f64) -> Option<String> {
    let times = real / simulated;
    let outside = !(below..=above).contains(&times);
    outside.then(|| format!("{what}: {real:.3} for real, {simulated:.3} simulated: {times:.2} times"))
}

fn compare(load: f64, span: Duration, success_band: f64) {
    let capacity = WORKERS as f64 / SERVICE.as_secs_f64();
    let (real, simulated) = (measured(load * capacity, span), simulated(load * capacity, span));
    println!("{load} times the capacity: {real:?}\nsimulated: {simulated:?}");
    let mut wrong = Vec::new();
    let pairs = [(real.success, simulated.success)]
        .into_iter()
        .chain(real.success_by_class.into_iter().zip(simulated.success_by_class));
    for (what, (real, simulated)) in
        ["success", "success CRITICAL_PLUS", "success CRITICAL"].iter().zip(pairs)
    {
        if (real - simulated).abs() > success_band {
            wrong.push(format!("{what}: {real:.3} for real, {simulated:.3} simulated"));
        }
    }
    wrong.extend(agree("goodput", real.goodput_per_s, simulated.goodput_per_s, 0.8, 1.2));
    wrong.extend(agree("amplification", real.amplification, simulated.amplification, 0.8, 1.2));
    wrong.extend(agree("p50", real.p50_ms, simulated.p50_ms, 0.5, 2.0));
    assert!(wrong.is_empty(), "{load} times the capacity: {wrong:#?}");
}

#[test]
fn within_its_capacity_a_service_does_what_the_simulator_says() {
    compare(0.8, Duration::from_secs(4), 0.03);
}

#[test]
fn at_twice_its_capacity_a_service_does_what_the_simulator_says() {
    compare(2.0, Duration::from_secs(6), 0.12);
}
