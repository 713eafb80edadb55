//! Nanoseconds and allocations per decision.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant as Clock};

use model::{Instant, Ratio, Verdict};
use policy::{Ended, Endpoint, Fleet, Rng};
use testkit::alloc::{Counting, thread_allocations};
use testkit::sys::thread_cpu_time;

use super::machine;
use super::stats::Spread;
use crate::args::Args;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZES: [usize; 3] = [1, 16, 1000];
const THREADS: usize = 16;

/// How long and how often everything is measured.
#[derive(Clone, Copy)]
struct Effort {
    rounds: usize,
    span: Duration,
}

pub(super) fn run(mut args: Args) -> Result<(), String> {
    let effort = if args.flag("quick") {
        Effort { rounds: 3, span: Duration::from_millis(20) }
    } else {
        Effort { rounds: 9, span: Duration::from_millis(100) }
    };
    args.finish()?;
    machine::print_header("policy");
    println!(
        "- method: CPU time of a calibrated loop of {} ms over decisions, median (min–max) of {} rounds; {THREADS} threads \
         share one instance, their CPU time over their decisions\n",
        effort.span.as_millis(),
        effort.rounds
    );
    println!(
        "| decision | endpoints | ns, 1 thread | ns, {THREADS} threads | allocations |\n|---|---|---|---|---|"
    );
    for size in SIZES {
        decisions(effort, size);
    }
    Ok(())
}

/// Every decision on the request's way; one line (or block) each.
fn decisions(effort: Effort, size: usize) {
    let now = Instant::from_secs(1);
    let key = b"customer-4711/cart";
    let fleet = fleet(size);
    measure(effort, "hash of an 18-byte key", size, |_| policy::hash(black_box(key)));
    measure(effort, "endpoint: start and end", size, |rng| {
        let endpoint = &fleet.endpoints()[rng.usize(..size)];
        endpoint.on_start(now);
        endpoint.on_end(now, Ended { latency: Duration::from_millis(3), verdict: Verdict::Success });
    });
}

/// `size` endpoints, all available.
fn fleet(size: usize) -> Fleet {
    let endpoint = |index| {
        let name = format!("10.0.{}.{}:8080", index / 250, index % 250 + 1);
        Arc::new(Endpoint::new(&name, 1, u32::MAX, Instant::ORIGIN))
    };
    Fleet::new((0..size).map(endpoint).collect(), Ratio::percent(50))
}

/// Measures one decision and prints its row. `decide` is shared by all threads, as a policy is by all workers.
fn measure<T>(effort: Effort, name: &str, size: usize, decide: impl Fn(&mut Rng) -> T + Sync) {
    let iterations = calibrate(effort.span, &decide);
    let before = thread_allocations();
    let alone: Vec<f64> =
        (0..effort.rounds).map(|round| nanos_each(iterations, round as u64, &decide)).collect();
    // The vector of results is the one allocation that is ours.
    let allocations =
        (thread_allocations() - before).saturating_sub(1) as f64 / (iterations * effort.rounds as u64) as f64;
    let share = (iterations / THREADS as u64).max(1);
    let shared: Vec<f64> = (0..effort.rounds).map(|round| nanos_shared(share, round, &decide)).collect();
    let show = |figures: Vec<f64>| {
        Spread::of(figures).map_or_else(String::new, |spread| {
            format!("{:.1} ({:.1}–{:.1})", spread.median, spread.min, spread.max)
        })
    };
    println!("| {name} | {size} | {} | {} | {allocations:.3} |", show(alone), show(shared));
}

/// How many decisions take about `span`.
fn calibrate<T>(span: Duration, decide: &impl Fn(&mut Rng) -> T) -> u64 {
    let mut iterations = 64;
    loop {
        let started = Clock::now();
        spin(iterations, 0, decide);
        let took = started.elapsed();
        if took >= span / 10 {
            let wanted = iterations as f64 * span.as_secs_f64() / took.as_secs_f64();
            return wanted as u64;
        }
        iterations *= 4;
    }
}

fn spin<T>(iterations: u64, seed: u64, decide: &impl Fn(&mut Rng) -> T) {
    let mut rng = Rng::with_seed(seed);
    for _ in 0..iterations {
        black_box(decide(&mut rng));
    }
}

fn nanos_each<T>(iterations: u64, seed: u64, decide: &impl Fn(&mut Rng) -> T) -> f64 {
    let before = thread_cpu_time();
    spin(iterations, seed, decide);
    (thread_cpu_time() - before).as_nanos() as f64 / iterations as f64
}

fn nanos_shared<T>(iterations: u64, round: usize, decide: &(impl Fn(&mut Rng) -> T + Sync)) -> f64 {
    let start = Barrier::new(THREADS);
    let total: f64 = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|index| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    nanos_each(iterations, (round * THREADS + index) as u64, decide)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(f64::NAN)).sum()
    });
    total / THREADS as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_thread_decides() {
        let count = std::sync::atomic::AtomicU64::new(0);
        let nanos =
            nanos_shared(10, 0, &|_: &mut Rng| count.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
        assert_eq!(count.into_inner(), 10 * THREADS as u64);
        assert!(nanos > 0.0);
    }
}
