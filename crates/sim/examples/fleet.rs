//! How fast the simulator is: a thousand clients with subsets of a thousand back ends, 10 000 requests a second.
//!
//! `cargo run --release -p sim --example fleet [seconds]`

use std::collections::BTreeMap;
use std::time::Instant;

use model::Span;
use sim::scenario::{Arrival, Backend, Service, Traffic};
use sim::{Scenario, run};

fn main() {
    let secs = std::env::args().nth(1).and_then(|secs| secs.parse().ok()).unwrap_or(600);
    let mut service = Service {
        endpoints: 1_000,
        backend: Backend { workers: 4, ..Backend::default() },
        ..Service::default()
    };
    service.policies.subset.size = 20;
    let traffic = Traffic {
        service: "store".into(),
        clients: 1_000,
        arrival: Arrival::Constant { per_sec: 10_000.0 },
        ..Traffic::default()
    };
    let scenario = Scenario {
        duration: Span::from_secs(secs),
        gateways: 0,
        services: BTreeMap::from([("store".into(), service)]),
        traffic: BTreeMap::from([("web".into(), traffic)]),
        ..Scenario::default()
    };
    let begun = Instant::now();
    let report = run(&scenario);
    println!("{} s simulated in {:.1} s", secs, begun.elapsed().as_secs_f64());
    println!("{report:?}");
}
