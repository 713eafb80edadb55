//! The same seed gives the same report, bit for bit; another seed another one.

use std::collections::BTreeMap;

use model::{Ratio, Span};
use sim::scenario::{Arrival, Backend, Cache, Call, Crash, Endpoints, Fault, Pauses, Service, Traffic, What};
use sim::{Scenario, run};

/// Something of everything.
fn everything(seed: u64) -> Scenario {
    let secs = Span::from_secs;
    let shop = Service {
        endpoints: 5,
        zones: vec!["a".into(), "b".into()],
        backend: Backend {
            workers: 8,
            cache: Some(Cache { warm_after: 500, ..Cache::default() }),
            crash: Some(Crash { at: 200, restart: secs(2) }),
            pauses: Some(Pauses { every: secs(3), r#for: Span::from_millis(200) }),
            ..Backend::default()
        },
        calls: vec![Call { service: "store".into(), times: 2, on_miss: true, optional: false }],
        ..Service::default()
    };
    let mut store = Service { endpoints: 4, ..Service::default() };
    store.policies.hedge = Some(policy::hedge::HedgeParams::default());
    store.policies.health = Some(policy::health::HealthParams::default());
    let web = Traffic {
        service: "shop".into(),
        arrival: Arrival::Spike { base: 300.0, peak: 900.0, at: secs(8), r#for: secs(4) },
        clients: 20,
        customers: 50,
        timeout: secs(1),
        retry: Some(policy::attempts::RetryPolicyParams::default()),
        ..Traffic::default()
    };
    let loops = Traffic {
        service: "shop".into(),
        arrival: Arrival::Closed { think: Span::from_millis(300) },
        clients: 30,
        ..Traffic::default()
    };
    let fault = |at, service: &str, endpoints, what| Fault {
        at: secs(at),
        r#for: Some(secs(4)),
        service: service.into(),
        endpoints,
        stagger: Span::from_millis(300),
        traffic: None,
        what,
    };
    Scenario {
        seed,
        duration: secs(20),
        gateways: 2,
        traffic: BTreeMap::from([("web".into(), web), ("loops".into(), loops)]),
        services: BTreeMap::from([("shop".into(), shop), ("store".into(), store)]),
        faults: vec![
            fault(3, "shop", Endpoints::Zone("a".into()), What::Die),
            fault(5, "store", Endpoints::Share(Ratio::percent(50)), What::BlackHole),
            fault(9, "store", Endpoints::Index(1), What::Slow(5.0)),
            fault(11, "shop", Endpoints::Count(1), What::LameDuck),
            fault(13, "shop", Endpoints::All, What::Capacity(Ratio::percent(50))),
        ],
        ..Scenario::default()
    }
}

#[test]
fn a_seed_is_a_run() {
    let first = run(&everything(7));
    assert_eq!(first, run(&everything(7)));
    assert_ne!(first, run(&everything(8)));
}
