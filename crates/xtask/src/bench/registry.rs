//! The registry and ids: how late a change reaches a balancer, how many ids a second.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use coord::Coord;
use coord::ids::Ids;
use coord::registry::{Directory, HoldParams, Record, key};
use gateway::Gateway;
use gateway::config::{Config, Route, Service};
use tokio_util::sync::CancellationToken;

use super::machine;
use crate::args::Args;

/// How long the measured system may take to get ready.
const PATIENCE: Duration = Duration::from_secs(60);
/// Sessions and leases of a measurement do not run out while it lasts.
const TTL: Duration = Duration::from_secs(600);

pub(crate) fn run(mut args: Args) -> Result<(), String> {
    let seconds: u64 = args.option("seconds")?.unwrap_or(3);
    let endpoints: usize = args.option("endpoints")?.unwrap_or(10_000);
    let changes: usize = args.option("changes")?.unwrap_or(500);
    args.finish()?;
    machine::print_header("coord-registry");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?;
    runtime.block_on(ids(Duration::from_secs(seconds)))?;
    runtime.block_on(async { registry(&Coord::in_memory(), endpoints, changes).await })
}

/// Ids a second from one generator of four worker numbers, one by one and in batches, by one thread and by two.
pub(super) async fn ids(span: Duration) -> Result<(), String> {
    let (coord, ids, stop) = (Coord::in_memory(), Ids::new(), CancellationToken::new());
    let keeper = tokio::spawn(ids.clone().run(coord, 4, stop.clone()));
    let begun = Instant::now();
    while ids.generator().is_none() {
        if begun.elapsed() > PATIENCE {
            return Err("no worker numbers".to_owned());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for threads in [1, 2] {
        for batch in [1, 64] {
            let ids = ids.clone();
            let rate = tokio::task::spawn_blocking(move || rate(&ids, threads, batch, span)).await;
            let rate = rate.map_err(|error| error.to_string())?;
            println!("ids     {threads} threads, {batch:2} at a time: {:6.1} M/s", rate / 1e6);
        }
    }
    stop.cancel();
    keeper.await.map_err(|error| error.to_string())
}

fn rate(ids: &Ids, threads: usize, batch: u32, span: Duration) -> f64 {
    let begun = Instant::now();
    let count = || {
        let mut count = 0u64;
        while begun.elapsed() < span {
            // The clock of the measurement is read seldom.
            for _ in 0..1_000 {
                if batch == 1 {
                    count += u64::from(ids.try_next().is_ok());
                } else if let Ok(taken) = ids.try_batch(batch) {
                    count += taken.map(std::hint::black_box).count() as u64;
                }
            }
        }
        count
    };
    let total: u64 = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(count)).collect();
        all.into_iter().map(|one| one.join().expect("no panic")).sum()
    });
    total as f64 / begun.elapsed().as_secs_f64()
}

/// From the moment that a registration or departure is asked for to the view that balancers pick from.
pub(super) async fn registry(coord: &Coord, endpoints: usize, changes: usize) -> Result<(), String> {
    let text = |problem: &dyn std::fmt::Display| problem.to_string();
    let address = |number: usize| {
        let [.., b, c, d] = (number as u32 + 1).to_be_bytes();
        SocketAddr::from(([10, b, c, d], 80))
    };
    let session = coord.session(TTL).await.map_err(|error| text(&error))?;
    let put = async |number: usize| {
        let record = serde_json::to_string(&Record::at(address(number))).expect("plain text");
        session.put(&key("cart", &format!("i{number:06}")), &record, None).await
    };
    for number in 0..endpoints {
        put(number).await.map_err(|error| text(&error))?;
    }
    let (directory, stop) = (Directory::new(&HoldParams::default()), CancellationToken::new());
    tokio::spawn(directory.clone().run(coord.clone(), stop.clone()));
    let service = Service { registry: Some("cart".to_owned()), ..Service::default() };
    let config = Config {
        services: [("web".to_owned(), service)].into(),
        routes: vec![Route { service: Some("web".to_owned()), ..Route::default() }],
        workers: 1,
        ..Config::default()
    };
    let gateway = Gateway::build_with(config, Some(Arc::new(move |name| directory.follow(name))))
        .map_err(|error| text(&error))?;
    let control = gateway.control("web").ok_or("the service is not there")?;
    let reached = async |wanted: usize| {
        let begun = Instant::now();
        while control.service().view().targets.len() != wanted {
            if begun.elapsed() > PATIENCE {
                return Err(format!("{wanted} endpoints are not reached"));
            }
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        Ok(())
    };
    reached(endpoints).await?;
    let mut late = Vec::new();
    for change in 0..changes {
        let number = endpoints + change;
        for joins in [true, false] {
            // At any phase of the interval at which views are published.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(20..120))).await;
            let asked = Instant::now();
            if joins {
                put(number).await.map_err(|error| text(&error))?;
            } else {
                let gone = key("cart", &format!("i{number:06}"));
                coord.delete(&gone, None).await.map_err(|error| text(&error))?;
            }
            reached(endpoints + usize::from(joins)).await?;
            late.push(asked.elapsed().as_secs_f64() * 1e3);
        }
    }
    stop.cancel();
    late.sort_by(f64::total_cmp);
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize];
    println!(
        "registry change to balancer, {endpoints} endpoints: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms, of {} changes",
        at(0.5),
        at(0.99),
        at(1.0),
        late.len()
    );
    Ok(())
}
