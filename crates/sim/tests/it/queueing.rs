//! Servers against queueing theory, where theory has a formula.

use std::collections::BTreeMap;

use model::Span;
use sim::scenario::{Arrival, Backend, Discipline, Distribution, Pauses, Service, ServicePolicies, Traffic};
use sim::{Report, Scenario, run};

fn server(backend: Backend, per_sec: f64) -> Report {
    let policies = ServicePolicies { enabled: false, ..ServicePolicies::default() };
    let traffic = Traffic {
        service: "one".into(),
        arrival: Arrival::Constant { per_sec },
        timeout: Span::from_secs(60),
        ..Traffic::default()
    };
    run(&Scenario {
        duration: Span::from_secs(2_000),
        slot: Span::from_secs(100),
        network: Span::default(),
        gateways: 0,
        traffic: BTreeMap::from([("web".into(), traffic)]),
        services: BTreeMap::from([("one".into(), Service { backend, policies, ..Service::default() })]),
        ..Scenario::default()
    })
}

fn exponential(mean: u64) -> Distribution {
    Distribution::Exponential { mean: Span::from_millis(mean) }
}

fn near(found: f64, expected: f64, tolerance: f64) {
    assert!((found / expected - 1.0).abs() <= tolerance, "{found} is not {expected}");
}

/// M/M/1: response times are exponentially distributed with the difference of the rates.
#[test]
fn a_queue_waits_as_long_as_theory_says() {
    let backend = Backend { workers: 1, service_time: exponential(20), ..Backend::default() };
    let latency = server(backend, 40.0).total.latency_ms.unwrap();
    let mean_ms = 1_000.0 / (50.0 - 40.0);
    near(latency.p50, mean_ms * 2f64.ln(), 0.1);
    near(latency.p99, mean_ms * 100f64.ln(), 0.1);
}

/// With many workers and few requests nobody waits, and the distribution is the one given.
#[test]
fn without_a_queue_latency_is_the_service_time() {
    let millis = Span::from_millis;
    let backend = Backend { workers: 1_000, ..Backend::default() };
    for discipline in [Discipline::Fifo, Discipline::Sharing] {
        let service_time = Distribution::LogNormal { median: millis(40), p99: millis(200) };
        let latency = server(Backend { service_time, discipline, ..backend.clone() }, 50.0).total.latency_ms;
        near(latency.unwrap().p50, 40.0, 0.05);
        near(latency.unwrap().p99, 200.0, 0.08);
    }
}

/// Processor sharing: the mean response time is that of M/M/1, whatever the service time, here 100 ms.
#[test]
fn shared_workers_slow_everybody_down() {
    let service_time = Distribution::Constant(Span::from_millis(20));
    let backend = Backend { workers: 1, discipline: Discipline::Sharing, service_time, ..Backend::default() };
    let busy = server(backend.clone(), 40.0).total.latency_ms.unwrap();
    let idle = server(backend, 1.0).total.latency_ms.unwrap();
    near(idle.p50, 20.0, 0.03);
    // Skewed, so that half of all are done sooner.
    assert!((50.0..100.0).contains(&busy.p50) && busy.p99 >= 300.0, "{busy:?}");
}

/// A pause holds up whoever comes during it: a tenth of the time, a tenth of the requests.
#[test]
fn pauses_hold_up_whoever_comes_during_them() {
    let secs = Span::from_secs;
    let backend = Backend {
        workers: 100,
        service_time: Distribution::Constant(Span::from_millis(10)),
        pauses: Some(Pauses { every: secs(10), r#for: secs(1) }),
        ..Backend::default()
    };
    let latency = server(backend, 20.0).total.latency_ms.unwrap();
    near(latency.p50, 10.0, 0.03);
    // Nine tenths of the way through those that are held up, which wait for up to a second.
    near(latency.p99, 910.0, 0.05);
}
