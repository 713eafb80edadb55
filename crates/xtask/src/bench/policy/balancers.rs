//! What depends on the number of endpoints.

use std::sync::Arc;
use std::time::Duration;

use model::{Instant, Ratio, Span, Verdict};
use policy::balance::{
    self, Balance, Balancer, HashKey, MaglevParams, Pick, PrequalParams, RingHashParams, WeightedByLoadParams,
};
use policy::ejection::{EjectionParams, Ejector, Observation};
use policy::slow_start::SlowStartParams;
use policy::sticky::Sticky;
use policy::subset::{SubsetMethod, SubsetParams, subset};
use policy::{Ended, Endpoint, Fleet, Report, Rng};

use super::{Bench, Turn};

const SUCCESS: Ended = Ended { latency: Duration::from_millis(3), verdict: Verdict::Success };

/// Every balancer with its default parameters.
fn balancers() -> [(&'static str, Balance); 8] {
    let ring = RingHashParams { key: HashKey::Path, points: 100, load_bound: 1.25 };
    [
        ("round_robin", Balance::RoundRobin),
        ("random", Balance::Random),
        ("least_loaded", Balance::LeastLoaded),
        ("peak_ewma", Balance::PeakEwma),
        ("weighted_by_load", Balance::WeightedByLoad(WeightedByLoadParams::default())),
        (
            "prequal",
            Balance::Prequal(PrequalParams { probe_path: Some("/load".to_owned()), ..Default::default() }),
        ),
        ("ring_hash", Balance::RingHash(ring)),
        ("maglev", Balance::Maglev(MaglevParams { key: HashKey::Path, table_size: 65_537 })),
    ]
}

/// `size` available endpoints of various weights, each with a few requests in flight, a measured latency and a report.
fn endpoints(size: usize) -> Vec<Arc<Endpoint>> {
    let mut rng = Rng::with_seed(0);
    let now = Instant::from_secs(1);
    let endpoint = |index| {
        let name = format!("10.0.{}.{}:8080", index / 250, index % 250 + 1);
        let endpoint = Endpoint::new(&name, rng.u32(1..4), u32::MAX, Instant::ORIGIN);
        endpoint.on_start(now);
        endpoint.on_end(now, Ended { latency: Duration::from_micros(rng.u64(500..9000)), ..SUCCESS });
        (0..rng.u32(0..5)).for_each(|_| endpoint.on_start(now));
        endpoint.on_report(now, &report(&mut rng));
        Arc::new(endpoint)
    };
    (0..size).map(endpoint).collect()
}

fn report(rng: &mut Rng) -> Report {
    Report {
        cpu_utilization: Some(0.2 + 0.6 * rng.f64()),
        rps_fractional: Some(100.0),
        requests_in_flight: Some(rng.u32(0..10)),
        latency: Some(Duration::from_micros(rng.u64(500..9000))),
        ..Report::default()
    }
}

/// An attempt: the pick, the endpoint's place, the end. Where endpoints report, each answer does.
fn attempt(turn: &mut Turn<'_>, balancer: &dyn Balancer, fleet: &Fleet, reports: bool) -> Option<u32> {
    let key = Some(policy::mix(turn.nth));
    let index = balancer.pick(fleet, &Pick { now: turn.now, key, tried: &[] }, turn.rng)?;
    let endpoint = fleet.endpoint(index);
    if endpoint.try_start(turn.now) {
        if reports {
            endpoint.on_report(turn.now, &report(turn.rng));
            balancer.on_probe(index);
        }
        endpoint.on_end(turn.now, SUCCESS);
    }
    Some(index)
}

pub(super) fn on_the_way(bench: &mut Bench, size: usize) {
    let now = Instant::from_secs(1);
    for (name, balance) in balancers() {
        let fleet = Fleet::new(endpoints(size), Ratio::percent(50));
        let balancer = balance::build(&balance, &fleet, now, 7);
        bench.measure(&format!("{name}: pick"), |turn| {
            let key = Some(policy::mix(turn.nth));
            balancer.pick(&fleet, &Pick { now: turn.now, key, tried: &[] }, turn.rng)
        });
        let reports = matches!(balance, Balance::WeightedByLoad(_) | Balance::Prequal(_));
        let what = if reports { "start, report and end" } else { "start and end" };
        bench.measure(&format!("{name}: pick, {what}"), |turn| attempt(turn, &*balancer, &fleet, reports));
        bench.measure(&format!("{name}: pick for a retry"), |turn| {
            let tried = [turn.rng.u32(..size as u32), turn.rng.u32(..size as u32)];
            let pick = Pick { now: turn.now, key: Some(policy::mix(turn.nth)), tried: &tried };
            balancer.pick(&fleet, &pick, turn.rng)
        });
    }

    let fleet = Fleet::new(endpoints(size), Ratio::percent(50));
    let prequal = balance::build(&balancers()[5].1, &fleet, now, 7);
    bench.measure("prequal: probes asked for", |turn| prequal.probes(turn.rng));

    // Half of them joined a moment ago, and the window outlasts the measurement.
    let newcomers = endpoints(size);
    newcomers.iter().step_by(2).for_each(|endpoint| endpoint.on_join(now));
    let window = SlowStartParams { window: Span::from_secs(86_400), ..Default::default() };
    let ramped = Fleet::new(newcomers, Ratio::percent(50)).with_slow_start(&window, now);
    for (name, balance) in balancers() {
        let balancer = balance::build(&balance, &ramped, now, 7);
        bench.measure(&format!("{name}: pick during slow start"), |turn| {
            let key = Some(policy::mix(turn.nth));
            balancer.pick(&ramped, &Pick { now: turn.now, key, tried: &[] }, turn.rng)
        });
    }

    let sticky = Sticky::new([1, 2], &fleet);
    let cookies: Vec<_> = (0..size as u32).map(|index| sticky.cookie(index)).collect();
    bench.measure("sticky: find the cookie's endpoint", |turn| {
        let cookie = cookies[turn.rng.usize(..size)];
        sticky.find(&cookie, &fleet, &Pick { now: turn.now, key: None, tried: &[] })
    });
    bench.measure("sticky: make a cookie", |turn| sticky.cookie(turn.rng.u32(..size as u32)));
}

pub(super) fn off_the_way(bench: &mut Bench, size: usize) {
    let now = Instant::from_secs(1);
    let endpoints = endpoints(size);
    bench.measure_off_the_way("fleet: rebuild, with slow start", |turn| {
        Fleet::new(endpoints.clone(), Ratio::percent(50))
            .with_slow_start(&SlowStartParams::default(), turn.now)
    });
    let fleet = Fleet::new(endpoints.clone(), Ratio::percent(50));
    for (name, balance) in balancers() {
        bench.measure_off_the_way(&format!("{name}: rebuild"), |turn| {
            balance::build(&balance, &fleet, turn.now, 7)
        });
    }
    bench.measure_off_the_way("sticky: rebuild", |_| Sticky::new([1, 2], &fleet));

    let keys: Vec<u64> = endpoints.iter().map(|endpoint| endpoint.key()).collect();
    for (name, method) in [
        ("aperture", SubsetMethod::Aperture),
        ("deterministic", SubsetMethod::Deterministic),
        ("rendezvous", SubsetMethod::Rendezvous),
        ("random", SubsetMethod::Random),
    ] {
        let params = SubsetParams { size: (size / 10).max(1) as u32, method, client: None };
        bench.measure_off_the_way(&format!("subset: a tenth, {name}"), |turn| {
            subset(&params, turn.nth, &keys)
        });
    }

    let observations: Vec<_> = keys
        .iter()
        .map(|key| Observation {
            key: *key,
            usable: true,
            calls: 1000,
            failures: key % 3,
            latency: Some(Duration::from_micros(900 + key % 200)),
        })
        .collect();
    bench.measure_off_the_way("ejection: an interval", |turn| {
        Ejector::new(&EjectionParams::default(), now).on_interval(turn.now, &observations, turn.rng)
    });
}
