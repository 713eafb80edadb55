//! What the store costs: committed writes per second, and what a back-up of 1 GiB does to their latency.
//!
//! `store-bench DIRECTORY [--mib 1024] [--seconds 5] [--rate-mib 32]`. Run it through `cargo xtask bench store`.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use store::{Migration, Room, Store, StoreParams, args, backup, restore};

const ROOM: Room = Room::new(
    "probe",
    &[Migration {
        name: "rows",
        statements: &["CREATE TABLE probe_rows (id INTEGER PRIMARY KEY NOT NULL, body TEXT NOT NULL) STRICT"],
    }],
);

/// Bytes of a row that fills the store.
const ROW: usize = 4096;

type Failure = Box<dyn std::error::Error>;

static NEXT: AtomicI64 = AtomicI64::new(0);

/// Latencies of writes in microseconds, sorted.
struct Latencies(Vec<u64>);

impl Latencies {
    fn of(mut found: Vec<u64>) -> Self {
        found.sort_unstable();
        Self(found)
    }

    fn mean(&self) -> f64 {
        self.0.iter().sum::<u64>() as f64 / self.0.len().max(1) as f64
    }

    fn at(&self, share: f64) -> u64 {
        let place = (self.0.len() as f64 * share) as usize;
        self.0.get(place.min(self.0.len().saturating_sub(1))).copied().unwrap_or(0)
    }
}

/// So many writers, each with its next write as soon as the last is acknowledged, until told to stop; with a pause between
/// writes when they are to leave the disk mostly idle.
async fn write(
    store: &Store,
    writers: usize,
    pause: Duration,
    stop: &AtomicBool,
) -> Result<Latencies, Failure> {
    let writer = async || {
        let mut found = Vec::new();
        while !stop.load(Relaxed) {
            let id = NEXT.fetch_add(1, Relaxed);
            let started = Instant::now();
            let sql = "INSERT INTO probe_rows (id, body) VALUES (?, 'a small record of some sixty bytes, as a lease or a run has')";
            store.execute(sql, args![id]).await?;
            found.push(u64::try_from(started.elapsed().as_micros())?);
            if !pause.is_zero() {
                tokio::time::sleep(pause).await;
            }
        }
        Ok::<_, Failure>(found)
    };
    let mut all = Vec::new();
    let mut running: Vec<_> = (0..writers).map(|_| Box::pin(writer())).collect();
    std::future::poll_fn(|context| {
        running.retain_mut(|writer| match writer.as_mut().poll(context) {
            std::task::Poll::Ready(found) => {
                all.push(found);
                false
            }
            std::task::Poll::Pending => true,
        });
        if running.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    let mut found = Vec::new();
    for part in all {
        found.extend(part?);
    }
    Ok(Latencies::of(found))
}

async fn write_for(
    store: &Store,
    writers: usize,
    pause: Duration,
    span: Duration,
) -> Result<Latencies, Failure> {
    let stop = AtomicBool::new(false);
    let timer = async {
        tokio::time::sleep(span).await;
        stop.store(true, Relaxed);
    };
    let (found, ()) = tokio::join!(write(store, writers, pause, &stop), timer);
    found
}

fn option(words: &[String], name: &str, default: u64) -> Result<u64, Failure> {
    match words.iter().position(|word| word == name) {
        Some(at) => Ok(words.get(at + 1).ok_or("a value is missing")?.parse()?),
        None => Ok(default),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let directory = Path::new(words.first().ok_or("usage: store-bench DIRECTORY")?);
    let (mib, seconds) = (option(&words, "--mib", 1024)?, option(&words, "--seconds", 5)?);
    let rate = option(&words, "--rate-mib", 32)? << 20;
    let params = StoreParams::at(directory.join("records.db").display().to_string());
    let store = Store::open(&params, &[ROOM]).await?;
    let span = Duration::from_secs(seconds);
    println!("| writers | committed/s | mean µs | p50 µs | p99 µs |\n|---|---|---|---|---|");
    for writers in [1, 64] {
        let found = write_for(&store, writers, Duration::ZERO, span).await?;
        let per_second = found.0.len() as f64 / span.as_secs_f64();
        println!(
            "| {writers} | {per_second:.0} | {:.0} | {} | {} |",
            found.mean(),
            found.at(0.5),
            found.at(0.99)
        );
    }
    let body = "x".repeat(ROW);
    let rows = (mib << 20) / ROW as u64;
    let body = body.as_str();
    for _ in 0..rows.div_ceil(500) {
        store
            .write(|mut tx| async move {
                for _ in 0..500 {
                    let id = NEXT.fetch_add(1, Relaxed);
                    tx.execute("INSERT INTO probe_rows (id, body) VALUES (?, ?)", args![id, body]).await?;
                }
                tx.commit(()).await
            })
            .await?;
    }
    println!(
        "\nback-up of {mib} MiB at up to {} MiB/s beside 4 writers with 2 ms between writes\n",
        rate >> 20
    );
    println!("| | mean µs | p50 µs | p99 µs |\n|---|---|---|---|");
    let pause = Duration::from_millis(2);
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..3 {
        alone.extend(write_for(&store, 4, pause, span).await?.0);
        let stop = AtomicBool::new(false);
        let into = directory.join(format!("backup-{round}"));
        let copying = async {
            let started = Instant::now();
            let made = backup(&params, &into, rate).await;
            stop.store(true, Relaxed);
            made.map(|made| (made, started.elapsed()))
        };
        let (found, made) = tokio::join!(write(&store, 4, pause, &stop), copying);
        let (made, took) = made?;
        eprintln!("round {round}: {} bytes in {:.1} s", made.bytes(), took.as_secs_f64());
        beside.extend(found?.0);
        if round < 2 {
            std::fs::remove_dir_all(&into)?;
        }
    }
    let (alone, beside) = (Latencies::of(alone), Latencies::of(beside));
    for (name, found) in [("alone", &alone), ("beside a back-up", &beside)] {
        println!("| {name} | {:.0} | {} | {} |", found.mean(), found.at(0.5), found.at(0.99));
    }
    println!("\ncost of a back-up: {:+.1} % of the mean", (beside.mean() / alone.mean() - 1.0) * 100.0);
    store.close().await?;
    let started = Instant::now();
    let target = StoreParams::at(directory.join("restored.db").display().to_string());
    let restored = restore(&directory.join("backup-2"), &target).await?;
    println!(
        "restored and compared {} records in {:.1} s",
        restored.manifest.records(),
        started.elapsed().as_secs_f64()
    );
    Ok(())
}
