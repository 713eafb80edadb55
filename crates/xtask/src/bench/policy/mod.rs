//! Nanoseconds and allocations per decision.

mod balancers;
mod decisions;

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant as Clock};

use model::Instant;
use policy::Rng;
use testkit::alloc::{Counting, thread_allocations};
use testkit::sys::thread_cpu_time;

use super::machine;
use super::stats::Spread;
use crate::args::Args;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Sizes of the fleets.
const SIZES: [usize; 3] = [2, 100, 1000];
const THREADS: usize = 16;
/// What a decision on the request's way may take.
const NANOS_MAX: f64 = 1000.0;
/// Virtual time between two decisions of a thread. Each thread stands for a worker with 100 000 requests a second, so
/// that what happens once in a while (weights computed anew, a breaker's probes) has its true share.
const STEP: Duration = Duration::from_micros(10);

/// How long and how often everything is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    span: Duration,
}

/// One decision's turn: what its caller brings.
struct Turn<'a> {
    now: Instant,
    /// The number of the calling thread.
    shard: usize,
    /// Counts this thread's decisions.
    nth: u64,
    rng: &'a mut Rng,
}

/// Measures decisions, prints a row for each, and remembers which do not keep their promise.
struct Bench {
    effort: Effort,
    only: Vec<String>,
    broken: Vec<String>,
}

pub(super) fn run(mut args: Args) -> Result<(), String> {
    let effort = if args.flag("quick") {
        Effort { rounds: 3, span: Duration::from_millis(20) }
    } else {
        Effort { rounds: 9, span: Duration::from_millis(100) }
    };
    let mut bench = Bench { effort, only: args.list("only")?, broken: Vec::new() };
    args.finish()?;
    machine::print_header("policy");
    println!(
        "- method: CPU time of a calibrated loop of {} ms over decisions, median (min–max) of {} rounds; {THREADS} threads \
         share one instance, their CPU time over their decisions; virtual time advances by {} µs per decision of a \
         thread",
        effort.span.as_millis(),
        effort.rounds,
        STEP.as_micros()
    );
    bench.table("On the request's way, whatever the number of endpoints");
    decisions::on_the_way(&mut bench);
    for size in SIZES {
        bench.table(&format!("On the request's way, {size} endpoints"));
        balancers::on_the_way(&mut bench, size);
    }
    bench.table(&format!("Off the request's way, {} endpoints", SIZES[2]));
    balancers::off_the_way(&mut bench, SIZES[2]);

    println!();
    match bench.broken.as_slice() {
        [] => println!("Every decision on the request's way stays below 1 µs and allocates nothing."),
        broken => println!("Above 1 µs, or allocating, on the request's way: {}.", broken.join("; ")),
    }
    Ok(())
}

impl Bench {
    fn table(&self, title: &str) {
        println!("\n## {title}\n");
        println!(
            "| decision | ns, 1 thread | ns, {THREADS} threads | allocations | |\n|---|---|---|---|---|"
        );
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|wanted| name.contains(wanted.as_str()))
    }

    /// Measures a decision on the request's way. `decide` is shared by all threads, as a policy is by all workers.
    fn measure<T>(&mut self, name: &str, decide: impl Fn(&mut Turn<'_>) -> T + Sync) {
        if !self.wants(name) {
            return;
        }
        let mut past = Past::default();
        let (iterations, alone) = self.alone(&mut past, &decide);
        let share = (iterations / THREADS as u64).max(1);
        let shared = Figures::of((0..self.effort.rounds).map(|_| shared(share, past.extend(share), &decide)));
        let allocations = alone.allocations + shared.allocations;
        let slow = alone.nanos.median.max(shared.nanos.median) > NANOS_MAX;
        let flag = match (slow, allocations > 0.0) {
            (false, false) => "",
            (true, false) => "**over 1 µs**",
            (false, true) => "**allocates**",
            (true, true) => "**over 1 µs, allocates**",
        };
        if !flag.is_empty() {
            self.broken.push(name.to_owned());
        }
        println!("| {name} | {} | {} | {allocations} | {flag} |", show(alone.nanos), show(shared.nanos));
    }

    /// Measures what no request waits for, in one thread.
    fn measure_off_the_way<T>(&self, name: &str, decide: impl Fn(&mut Turn<'_>) -> T + Sync) {
        if self.wants(name) {
            let (_, alone) = self.alone(&mut Past::default(), &decide);
            println!("| {name} | {} | | {:.1} | |", show(alone.nanos), alone.allocations);
        }
    }

    fn alone<T>(&self, past: &mut Past, decide: &impl Fn(&mut Turn<'_>) -> T) -> (u64, Figures) {
        let iterations = calibrate(self.effort.span, past, decide);
        let rounds = (0..self.effort.rounds).map(|_| cost(iterations, 0, past.extend(iterations), decide));
        (iterations, Figures::of(rounds))
    }
}

/// Decisions that each thread has made with an instance: virtual time goes on from there.
#[derive(Default)]
struct Past(u64);

impl Past {
    /// Makes room for `iterations` more; answers how many went before them.
    fn extend(&mut self, iterations: u64) -> u64 {
        let before = self.0;
        self.0 += iterations;
        before
    }
}

fn show(spread: Spread) -> String {
    format!("{:.1} ({:.1}–{:.1})", spread.median, spread.min, spread.max)
}

/// What one decision took.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Cost {
    nanos: f64,
    allocations: f64,
}

/// What it took in several rounds.
struct Figures {
    nanos: Spread,
    /// The mean.
    allocations: f64,
}

impl Figures {
    fn of(rounds: impl Iterator<Item = Cost>) -> Self {
        let rounds: Vec<Cost> = rounds.collect();
        let none = Spread { median: f64::NAN, min: f64::NAN, max: f64::NAN };
        Self {
            nanos: Spread::of(rounds.iter().map(|cost| cost.nanos)).unwrap_or(none),
            allocations: rounds.iter().map(|cost| cost.allocations).sum::<f64>() / rounds.len() as f64,
        }
    }
}

/// How many decisions take about `span`.
fn calibrate<T>(span: Duration, past: &mut Past, decide: &impl Fn(&mut Turn<'_>) -> T) -> u64 {
    let mut iterations = 1;
    loop {
        let started = Clock::now();
        spin(iterations, 0, past.extend(iterations), decide);
        let took = started.elapsed();
        if took >= span / 10 {
            let wanted = iterations as f64 * span.as_secs_f64() / took.as_secs_f64();
            return (wanted as u64).max(1);
        }
        iterations *= 4;
    }
}

/// Makes `iterations` decisions, of which `before` went before.
fn spin<T>(iterations: u64, shard: usize, before: u64, decide: &impl Fn(&mut Turn<'_>) -> T) {
    let mut rng = Rng::with_seed(before << 8 | shard as u64);
    for nth in before..before + iterations {
        let now = Instant::from_nanos(1_000_000_000 + nth * STEP.as_nanos() as u64);
        black_box(decide(&mut Turn { now, shard, nth, rng: &mut rng }));
    }
}

fn cost<T>(iterations: u64, shard: usize, before: u64, decide: &impl Fn(&mut Turn<'_>) -> T) -> Cost {
    let (allocations, time) = (thread_allocations(), thread_cpu_time());
    spin(iterations, shard, before, decide);
    let nanos = (thread_cpu_time() - time).as_nanos() as f64 / iterations as f64;
    Cost { nanos, allocations: (thread_allocations() - allocations) as f64 / iterations as f64 }
}

/// The mean cost where [`THREADS`] threads decide at once.
fn shared<T>(iterations: u64, before: u64, decide: &(impl Fn(&mut Turn<'_>) -> T + Sync)) -> Cost {
    let start = Barrier::new(THREADS);
    let costs: Vec<Cost> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|shard| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    cost(iterations, shard, before, decide)
                })
            })
            .collect();
        let failed = Cost { nanos: f64::NAN, allocations: f64::NAN };
        threads.into_iter().map(|thread| thread.join().unwrap_or(failed)).collect()
    });
    let mean = |figure: fn(&Cost) -> f64| costs.iter().map(figure).sum::<f64>() / THREADS as f64;
    Cost { nanos: mean(|cost| cost.nanos), allocations: mean(|cost| cost.allocations) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn every_thread_decides_with_a_shard_of_its_own() {
        let (count, shards) = (AtomicU64::new(0), AtomicU64::new(0));
        let cost = shared(10, 0, &|turn: &mut Turn<'_>| {
            shards.fetch_or(1 << turn.shard, Relaxed);
            count.fetch_add(1, Relaxed)
        });
        assert_eq!(count.into_inner(), 10 * THREADS as u64);
        assert_eq!(shards.into_inner(), (1 << THREADS) - 1);
        assert!(cost.nanos > 0.0);
    }

    #[test]
    fn allocations_of_decisions_are_counted_and_no_others() {
        assert_eq!(shared(10, 0, &|turn: &mut Turn<'_>| turn.nth).allocations, 0.0);
        assert_eq!(shared(10, 0, &|turn: &mut Turn<'_>| Box::new(turn.nth)).allocations, 1.0);
    }

    #[test]
    fn time_goes_on_from_calibration_to_the_last_round() {
        let latest = AtomicU64::new(0);
        let decide = |turn: &mut Turn<'_>| {
            assert!(latest.fetch_max(turn.now.as_nanos(), Relaxed) < turn.now.as_nanos());
        };
        let bench = Bench {
            effort: Effort { rounds: 3, span: Duration::from_micros(10) },
            only: Vec::new(),
            broken: Vec::new(),
        };
        bench.alone(&mut Past::default(), &decide);
    }

    /// So that no row fails or measures nothing for want of a run of the whole benchmark.
    #[test]
    fn every_row_decides() {
        let effort = Effort { rounds: 1, span: Duration::from_micros(10) };
        let mut bench = Bench { effort, only: Vec::new(), broken: Vec::new() };
        decisions::on_the_way(&mut bench);
        balancers::on_the_way(&mut bench, 2);
        balancers::off_the_way(&mut bench, 2);
    }
}
