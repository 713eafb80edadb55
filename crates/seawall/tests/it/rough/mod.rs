//! What production does to a gateway: peers that die, hang or dribble, reloads, drains, limits, full disks, wrong input.

mod descriptors;
mod disk;
mod drain;
mod idle;
mod input;
mod kill;
mod metrics;
mod nginx;
mod reload;
mod show;
mod slow;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use testkit::Seawall;
use testkit::load::{Limit, Load, Pace};

/// The program under test.
const SEAWALL: &str = env!("CARGO_BIN_EXE_seawall");

/// What most configurations begin with: ports that the system chooses, and a drain that does not keep a test waiting.
const COMMON: &str = "admin: {address: '127.0.0.1:0'}\nworkers: 2\ndrain: {lame_duck: 0s, finish: 5s}\n";

/// A gateway on any port before one service with these endpoints; `rest` is added to the service, indented by four.
fn gateway(endpoints: &[SocketAddr], rest: &str) -> Seawall {
    Seawall::start(SEAWALL, &config(endpoints, rest))
}

fn config(endpoints: &[SocketAddr], rest: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|endpoint| format!("'{endpoint}'")).collect();
    format!(
        "{COMMON}listeners: [{{address: '127.0.0.1:0'}}]\nservices:\n  shop:\n    endpoints: [{}]\n{rest}",
        endpoints.join(", ")
    )
}

/// An address of our own outside 127.0.0.1: no connection's own port can take it while nobody listens there.
pub(crate) fn own_addr() -> SocketAddr {
    use std::net::TcpListener;
    use std::sync::atomic::AtomicU8;
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let ip = [127, 100 + NEXT.fetch_add(1, Relaxed) % 100, high, low.clamp(1, 254)];
    TcpListener::bind(SocketAddr::from((ip, 0)))
        .and_then(|listener| listener.local_addr())
        .expect("every address in 127/8 is ours")
}

/// What users saw.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    sent: u64,
    ok: u64,
    other: u64,
    errors: u64,
}

impl Seen {
    /// Share of requests that were answered 2xx.
    fn success(&self) -> f64 {
        self.ok as f64 / self.sent as f64
    }

    #[track_caller]
    fn assert_all_succeeded(&self) {
        assert!(self.sent > 0 && self.ok == self.sent, "requests failed: {self:?}");
    }

    #[track_caller]
    fn assert_succeeded(&self, share: f64) {
        assert!(self.sent > 0 && self.success() >= share, "{:.4} of {self:?}", self.success());
    }
}

/// Requests at a steady mean rate over kept connections, in the background, until somebody wants to know how they fared.
struct Traffic {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Seen>,
}

impl Traffic {
    /// `GET path` from now on.
    fn start(addr: SocketAddr, path: &str, connections: usize, per_second: f64) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: shop.example\r\n\r\n");
        let mut load = Load::connect(addr, connections, request.as_bytes()).expect("connections");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = Seen::default();
            let mut seed = 0;
            while !stopped.load(Relaxed) {
                seed += 1;
                let pace = Pace::Poisson { per_second, seed };
                let report = load.run(pace, Limit::time(Duration::from_millis(250))).expect("a run");
                seen.sent += report.sent;
                seen.ok += report.ok;
                seen.other += report.other;
                seen.errors += report.errors;
            }
            seen
        });
        Self { stop, thread }
    }

    /// Ends it; answers what was seen since the start.
    fn stop(self) -> Seen {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("traffic does not panic")
    }
}

/// Lets traffic flow until `route` has finished `more` further requests.
fn flow(seawall: &Seawall, more: u32) {
    let name = "seawall_gateway_requests_total";
    let before = seawall.metric(name, &[]).unwrap_or_default();
    seawall.wait_for_metric(name, &[], |now| now >= before + f64::from(more));
}
