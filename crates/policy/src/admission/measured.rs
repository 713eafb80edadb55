//! What `docs/adr/0007-adaptive-limit.md` says about the law, measured. Prints tables; promises are in the tests beside it.

use std::boxed::Box;
use std::{println, string::String, vec::Vec};

use super::simulation::*;
use super::tests::{greedy, overload, spike, unloaded};
use super::*;

/// A limit with a law that others have published, without classes, customers or a line.
struct Rival {
    law: fn(&mut Rival, latency: Option<f64>),
    limit: f64,
    inside: u32,
    /// Moving averages of the latency: long and short.
    long: f64,
    short: f64,
}

impl Rival {
    fn new(law: fn(&mut Rival, Option<f64>)) -> Self {
        Self { law, limit: 100.0, inside: 0, long: 0.0, short: 0.0 }
    }

    /// Netflix concurrency-limits, `Gradient2Limit` with its defaults: tolerance 1.5, queue 4, smoothing 0.2, long window 600.
    fn gradient2(&mut self, latency: Option<f64>) {
        let Some(latency) = latency else { return };
        self.short = latency;
        self.long = if self.long == 0.0 { latency } else { self.long + (latency - self.long) * 2.0 / 601.0 };
        if self.long > 2.0 * self.short {
            self.long *= 0.95;
        }
        if f64::from(self.inside) < self.limit / 2.0 {
            return;
        }
        let gradient = (1.5 * self.long / self.short).clamp(0.5, 1.0);
        self.limit = (0.8 * self.limit + 0.2 * (self.limit * gradient + 4.0)).clamp(20.0, 10_000.0);
    }

    /// Additive increase, multiplicative decrease on time-outs alone, as `AIMDLimit` of the same library.
    fn aimd(&mut self, latency: Option<f64>) {
        match latency {
            None => self.limit = (self.limit * 0.9).max(20.0),
            Some(_) if f64::from(self.inside) * 2.0 >= self.limit => self.limit += 1.0,
            Some(_) => {}
        }
    }
}

impl Door for Rival {
    fn arrive(&mut self, _: Instant, _: u32, _: Who) -> Option<Result<(), Shed>> {
        if f64::from(self.inside) >= self.limit.floor() {
            return Some(Err(Shed::Limit));
        }
        self.inside += 1;
        Some(Ok(()))
    }

    fn end(&mut self, _: Instant, _: u32, end: End) {
        let latency = if let End::Success(latency) = end { Some(latency.as_secs_f64()) } else { None };
        (self.law)(self, latency);
        self.inside -= 1;
    }

    fn decided(&mut self, _: Instant, _: &mut Vec<(u32, Result<(), Shed>)>) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn limit(&self) -> u32 {
        self.limit as u32
    }
}

type NamedWork = (&'static str, fn(f64) -> Work);
type NamedLaw = (&'static str, fn() -> Box<dyn Door>);

const WORKS: [NamedWork; 4] = [
    ("constant", Work::Constant),
    ("exponential", Work::Exponential),
    ("log-normal", |mean| Work::LogNormal(mean, 1.5)),
    ("bimodal", |mean| Work::Bimodal(mean, 0.05, 50.0)),
];

#[test]
fn overload_by_law() {
    let laws: [NamedLaw; 3] = [
        ("this one", || Box::new(Gate::new(&AdmissionParams::default()))),
        ("gradient2", || Box::new(Rival::new(Rival::gradient2))),
        ("aimd", || Box::new(Rival::new(Rival::aimd))),
    ];
    println!(
        "law, mean work, work, servers, order: goodput mean and worst, p99 in unloaded p99 mean and worst, limits in servers"
    );
    for (law, door) in laws {
        for mean in [0.02, 0.2] {
            let (mut all, mut least) = (Vec::new(), f64::INFINITY);
            for (name, work) in WORKS {
                for servers in [8, 30, 100] {
                    for shared in [false, true] {
                        let (mut good, mut slow, mut limits) = (Vec::new(), Vec::new(), String::new());
                        for seed in 0..4 {
                            let mut scenario = overload(seed, work(mean), servers, 10.0);
                            scenario.shared = shared;
                            scenario.lasts = if servers == 8 { 600.0 * mean } else { 400.0 * mean };
                            scenario.timeout = 100.0 * mean;
                            let (from, until) = (scenario.lasts / 2.0, scenario.lasts);
                            let log = run(&scenario, &mut *door());
                            good.push(log.goodput(from, until) / scenario.capacity());
                            slow.push(log.latency(0.99, from, until).1 / unloaded(scenario.work, 0.99));
                            limits +=
                                &std::format!(" {:.1}", f64::from(log.limit_at(until)) / servers as f64);
                        }
                        let mean_of = |all: &[f64]| all.iter().sum::<f64>() / all.len() as f64;
                        let worst = good.iter().copied().fold(f64::INFINITY, f64::min);
                        let slowest = slow.iter().copied().fold(0.0, f64::max);
                        println!(
                            "{law:9} {mean:4} {name:11} {servers:3} {} : {:.3} {worst:.3}  {:.2} {slowest:.2} {limits}",
                            if shared { "shared" } else { "fifo  " },
                            mean_of(&good),
                            mean_of(&slow),
                        );
                        all.push(mean_of(&good));
                        least = least.min(worst);
                    }
                }
            }
            println!(
                "{law} {mean}: goodput {:.3} on average, {least:.3} at worst",
                all.iter().sum::<f64>() / all.len() as f64
            );
        }
    }
}

#[test]
fn spike_and_greed() {
    for mean in [0.02, 0.2] {
        for seed in 0..10 {
            let scenario = spike(seed, mean);
            let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
            let (from, until) = (scenario.streams[2].from, scenario.streams[2].until);
            println!(
                "spike {mean} seed {seed}: high {:.4}, goodput {:.3}",
                log.success(0, from, until),
                log.goodput(from + 50.0 * mean, until) / scenario.capacity()
            );
            let scenario = greedy(seed, mean);
            let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
            let from = scenario.streams[10].from;
            let others: Vec<f64> =
                (0..10).map(|index| log.success(index, from, scenario.lasts - 25.0 * mean)).collect();
            println!("greed {mean} seed {seed}: others {:.4}", others.iter().sum::<f64>() / 10.0);
        }
    }
}

/// The overload benchmark's load: a calm time, then everything at once.
fn step_up(seed: u64, work: Work, servers: usize, load: f64) -> Scenario {
    let mut scenario = Scenario::new(seed, work, servers);
    let (mean, capacity) = (work.mean(), scenario.capacity());
    let start = 100.0 * mean;
    for (load, from, until) in [(0.9, 0.0, start), (load, start, f64::INFINITY)] {
        let shares = [0.1, 0.4 * (load - 0.1), 0.3 * (load - 0.1), 0.3 * (load - 0.1)];
        for (class, share) in Criticality::ALL.into_iter().zip(shares) {
            scenario.streams.extend((1..=CUSTOMERS).map(|customer| {
                let per_sec = share * capacity / CUSTOMERS as f64;
                Stream { customer, from, until, patience: 50.0 * mean, ..Stream::new(class, per_sec) }
            }));
        }
    }
    (scenario.lasts, scenario.timeout) = (start + 300.0 * mean, 50.0 * mean);
    scenario
}

const CUSTOMERS: u64 = 16;

#[test]
fn load_in_one_step() {
    println!(
        "mean work, work, servers, load: goodput, CRITICAL_PLUS, p50 and p99 in unloaded ones, from the first moment; \
         limits after 12.5, 25, 50, 100, 200 and 300 mean works"
    );
    for mean in [0.02, 0.1] {
        for (name, work) in WORKS {
            for servers in [8, 30, 100] {
                for load in [2.0, 10.0] {
                    let scenario = step_up(1, work(mean), servers, load);
                    let (from, until) = (100.0 * mean, scenario.lasts);
                    let log = run(&scenario, &mut Gate::new(&AdmissionParams::default()));
                    let high = |story: &&Story| {
                        scenario.streams[story.stream].class == Criticality::CriticalPlus
                            && (from..until - 20.0 * mean).contains(&story.arrived)
                    };
                    let (served, all) =
                        log.stories.iter().filter(high).fold((0.0, 0.0), |(served, all), story| {
                            (served + f64::from(u8::from(story.fate == Fate::Served)), all + 1.0)
                        });
                    let slower = |quantile: f64| {
                        log.latency(quantile, from, until).1 / unloaded(scenario.work, quantile)
                    };
                    let limits: String = [12.5, 25.0, 50.0, 100.0, 200.0, 300.0]
                        .map(|after| std::format!(" {}", log.limit_at(from + after * mean)))
                        .concat();
                    println!(
                        "{mean:4} {name:11} {servers:3} {load:4}: {:.3} {:.4} {:.2} {:.2} {limits}",
                        log.goodput(from, until) / scenario.capacity(),
                        served / all,
                        slower(0.5),
                        slower(0.99),
                    );
                }
            }
        }
    }
}
