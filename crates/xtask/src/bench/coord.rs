//! Leases and watches: how many a second, how late.

use std::time::{Duration, Instant};

use coord::engine::etcd::Etcd as Engine;
use coord::{Claim, Command, Coord, CoordParams, Reply, SessionId, Update};
use model::Span;
use store::{Store, StoreParams};
use testkit::{Etcd, TempDir};
use tokio::task::JoinSet;

use super::machine;
use crate::args::Args;

const TTL: Duration = Duration::from_secs(600);

pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let seconds: u64 = args.option("seconds")?.unwrap_or(3);
    let rounds: usize = args.option("rounds")?.unwrap_or(5);
    args.finish()?;
    let span = Duration::from_secs(seconds);
    machine::print_header("coord");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(async {
        on_sqlite(span).await?;
        on_etcd(span, rounds).await
    })
}

async fn on_sqlite(span: Duration) -> Result<(), String> {
    let dir = TempDir::new("bench-coord");
    let params = StoreParams::at(dir.path().join("records.db").display().to_string());
    let store = Store::open(&params, &[coord::engine::ROOM]).await.map_err(text)?;
    let coord = Coord::on_store(store).await.map_err(text)?;
    for clients in [1, 8, 64] {
        let rate = pairs(&coord, clients, span).await?;
        println!("sqlite  acquire + release, {clients:2} clients: {rate:9.0} pairs/s");
    }
    let late = lateness(&coord, &coord, span).await?;
    println!("sqlite  watch delivery: {late}");
    Ok(())
}

async fn on_etcd(span: Duration, rounds: usize) -> Result<(), String> {
    let etcd = Etcd::start(1);
    let params = CoordParams { etcd: etcd.urls(), ..CoordParams::default() };
    // The member itself, not the relay that tests cut.
    let params = CoordParams { etcd: vec![format!("http://{}", etcd.addr(0))], ..params };
    let coord = Coord::etcd(&params)?;
    let raw = std::sync::Arc::new(Engine::new(&params)?);
    for clients in [1, 16] {
        let mut ratios = Vec::new();
        let (mut ours, mut bare) = (Vec::new(), Vec::new());
        // In turns, so that both see the same disk.
        for _ in 0..rounds {
            bare.push(bare_pairs(&raw, clients, span).await?);
            ours.push(pairs(&coord, clients, span).await?);
            ratios.push(ours[ours.len() - 1] / bare[bare.len() - 1]);
        }
        println!(
            "etcd    acquire + release, {clients:2} clients: {:9.0} pairs/s, bare client {:9.0}, ratio {:.2}",
            median(&mut ours),
            median(&mut bare),
            median(&mut ratios)
        );
    }
    let watching = Coord::etcd(&params)?;
    let late = lateness(&coord, &watching, span).await?;
    println!("etcd    watch delivery: {late}");
    Ok(())
}

/// Leases taken and given back each second by `clients`, each its own lease.
async fn pairs(coord: &Coord, clients: usize, span: Duration) -> Result<f64, String> {
    let session = SessionId::random();
    coord.engine().call(Command::OpenSession { session, ttl: Span::from(TTL) }).await.map_err(text)?;
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let coord = coord.clone();
        tasks.spawn(async move {
            let mut count = 0u64;
            let name = format!("bench{client}");
            while begun.elapsed() < span {
                let claim = Claim::random();
                let acquire = Command::Acquire { name: name.clone(), session, claim, value: String::new() };
                match coord.engine().call(acquire).await {
                    Ok(Reply::Acquired { .. }) => {}
                    other => return Err(format!("not acquired: {other:?}")),
                }
                coord.engine().call(Command::Release { name: name.clone(), claim }).await.map_err(text)?;
                count += 1;
            }
            Ok(count)
        });
    }
    rate(tasks, begun).await
}

async fn bare_pairs(raw: &std::sync::Arc<Engine>, clients: usize, span: Duration) -> Result<f64, String> {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let raw = std::sync::Arc::clone(raw);
        tasks.spawn(async move {
            let mut count = 0u64;
            let name = format!("bare{client}");
            while begun.elapsed() < span {
                raw.bare_pair(&name).await.map_err(text)?;
                count += 1;
            }
            Ok(count)
        });
    }
    rate(tasks, begun).await
}

async fn rate(mut tasks: JoinSet<Result<u64, String>>, begun: Instant) -> Result<f64, String> {
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done.map_err(text)??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// How long after a write was asked for its watcher was told, at 200 writes a second.
async fn lateness(writing: &Coord, watching: &Coord, span: Duration) -> Result<String, String> {
    let mut watch = watching.watch("bench/");
    if !matches!(watch.next().await, Update::All { .. }) {
        return Err("the watch does not begin".to_owned());
    }
    let begun = Instant::now();
    let writer = {
        let coord = writing.clone();
        tokio::spawn(async move {
            let mut next = tokio::time::interval(Duration::from_millis(5));
            let mut count = 0u64;
            while begun.elapsed() < span {
                next.tick().await;
                let asked = begun.elapsed().as_nanos().to_string();
                coord.put("bench/key", &asked, None).await.map_err(text)?;
                count += 1;
            }
            coord.put("bench/end", "", None).await.map_err(text)?;
            Ok::<u64, String>(count)
        })
    };
    let mut late = Vec::new();
    'all: loop {
        let Update::Changed(events) = watch.next().await else { return Err("the watch broke".to_owned()) };
        let now = begun.elapsed();
        for event in events {
            let coord::Event::Put { entry } = event else { continue };
            if entry.key == "bench/end" {
                break 'all;
            }
            let asked = Duration::from_nanos(entry.value.parse().map_err(text)?);
            late.push(now.saturating_sub(asked).as_secs_f64() * 1e3);
        }
    }
    let written = writer.await.map_err(text)??;
    if written != late.len() as u64 {
        return Err(format!("{written} writes but {} events", late.len()));
    }
    late.sort_by(f64::total_cmp);
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    Ok(format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms, of {written} writes", at(0.5), at(0.99), at(1.0)))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn text(problem: impl std::fmt::Display) -> String {
    problem.to_string()
}
