//! One endpoint of the demo's shop: a small HTTP server with limited capacity, which can be told to misbehave.
//!
//! `POST /-/fault?…` changes how it behaves and is answered whatever the load:
//! `slow_ms` adds to every answer, `fail=1` answers 500 at once, `places` bounds the requests that it works on at a time,
//! `lame_duck=1` asks for no new requests. Without any it behaves again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::cli::Failure;
use crate::parent;

/// What an endpoint of the shop is told.
#[derive(Debug, Args)]
pub struct ShopArgs {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Milliseconds of work per request.
    #[arg(long)]
    work_ms: u64,
    /// Whether it announces that it is a lame duck, and drops work that nobody waits for any more.
    #[arg(long)]
    cooperative: bool,
}

/// Requests that it works on at a time while it is well.
const PLACES: usize = 64;
/// How long it keeps trying to get its port back after a restart.
const BIND_PATIENCE: Duration = Duration::from_secs(5);

struct Shop {
    work: Duration,
    cooperative: bool,
    slow_ms: AtomicU64,
    failing: AtomicBool,
    lame_duck: AtomicBool,
    places: Places,
}

/// A first-come, first-served queue for a number of places that can change.
struct Places {
    free: Semaphore,
    /// How many there should be.
    total: AtomicUsize,
    /// Places to take away as soon as whoever holds them lets go.
    excess: AtomicUsize,
}

impl Places {
    fn new(total: usize) -> Self {
        Self { free: Semaphore::new(total), total: AtomicUsize::new(total), excess: AtomicUsize::new(0) }
    }

    fn set(&self, total: usize) {
        let before = self.total.swap(total, Relaxed);
        if total < before {
            let taken = self.free.forget_permits(before - total);
            self.excess.fetch_add(before - total - taken, Relaxed);
        }
        for _ in before..total {
            if !self.repay() {
                self.free.add_permits(1);
            }
        }
    }

    /// Counts down what is in excess; answers whether there was any.
    fn repay(&self) -> bool {
        self.excess.fetch_update(Relaxed, Relaxed, |excess| excess.checked_sub(1)).is_ok()
    }

    async fn hold(&self, work: impl Future<Output = ()>) {
        let permit = self.free.acquire().await.expect("never closed");
        let _place = Place { places: self, permit: Some(permit) };
        work.await;
    }
}

/// A place that is held; given back or taken away when dropped, so also when the work is broken off.
struct Place<'p> {
    places: &'p Places,
    permit: Option<SemaphorePermit<'p>>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take()
            && self.places.repay()
        {
            permit.forget();
        }
    }
}

/// Runs one endpoint until its parent ends.
///
/// # Errors
/// When it cannot listen.
pub fn run(args: &ShopArgs) -> Result<(), Failure> {
    parent::exit_with_parent();
    let failed = |problem: std::io::Error| Failure::Runtime(format!("shop at {}: {problem}", args.listen));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let listener = bind(args.listen).await.map_err(failed)?;
        println!("listening on {}", listener.local_addr().map_err(failed)?);
        let shop = Arc::new(Shop {
            work: Duration::from_millis(args.work_ms),
            cooperative: args.cooperative,
            slow_ms: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            lame_duck: AtomicBool::new(false),
            places: Places::new(PLACES),
        });
        loop {
            if let Ok((stream, _)) = listener.accept().await {
                let shop = Arc::clone(&shop);
                tokio::spawn(async move { shop.converse(stream).await });
            }
        }
    })
}

/// Ports below those that the system lends to outgoing connections, so that nobody takes an endpoint's port while it is down.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Takes the port, or any when it is 0. A port that was just given up may take a moment to come free.
async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    if address.port() == 0 {
        // Endpoints that start at once begin their search at different places.
        let first = std::process::id() as usize % PORTS.len();
        for port in PORTS.cycle().skip(first).take(PORTS.len()) {
            if let Ok(listener) = TcpListener::bind((address.ip(), port)).await {
                return Ok(listener);
            }
        }
    }
    let give_up = Instant::now() + BIND_PATIENCE;
    loop {
        match TcpListener::bind(address).await {
            Err(problem) if problem.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            outcome => return outcome,
        }
    }
}

/// As much of a request's head as the shop looks at.
#[derive(Debug, Default)]
struct Head {
    target: String,
    body: u64,
    deadline: Option<Duration>,
}

impl Shop {
    async fn converse(&self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let mut stream = BufReader::new(stream);
        // Whatever goes wrong with a connection ends that connection.
        while let Ok(Some(head)) = read_head(&mut stream).await {
            let answer = tokio::select! {
                answer = self.answer(&head) => answer,
                () = gone(&mut stream), if self.cooperative => return,
            };
            if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, head: &Head) -> String {
        if let Some(query) = head.target.strip_prefix("/-/fault") {
            self.misbehave(query);
            return self.text(200, "ok\n");
        }
        if head.target == "/-/health" {
            let lame_duck = self.lame_duck.load(Relaxed);
            return self.text(if lame_duck { 503 } else { 200 }, "health\n");
        }
        if self.failing.load(Relaxed) {
            return self.text(500, "broken\n");
        }
        let arrived = Instant::now();
        let deadline = head.deadline.filter(|_| self.cooperative).map(|left| arrived + left);
        let mut dropped = false;
        self.places
            .hold(async {
                let work = self.work + Duration::from_millis(self.slow_ms.load(Relaxed));
                // Work that would come too late is not begun.
                dropped = deadline.is_some_and(|deadline| Instant::now() + work > deadline);
                if !dropped {
                    tokio::time::sleep(work).await;
                }
            })
            .await;
        if dropped {
            self.text(504, "too late\n")
        } else {
            self.text(200, "{\"goods\": [\"rope\", \"lamp\"]}\n")
        }
    }

    fn misbehave(&self, query: &str) {
        let value = |key: &str| {
            let pairs = query.trim_start_matches('?').split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == key).find_map(|(_, value)| value.parse::<u64>().ok())
        };
        self.slow_ms.store(value("slow_ms").unwrap_or(0), Relaxed);
        self.failing.store(value("fail") == Some(1), Relaxed);
        self.lame_duck.store(self.cooperative && value("lame_duck") == Some(1), Relaxed);
        self.places.set(value("places").map_or(PLACES, |places| places as usize));
    }

    fn text(&self, status: u16, body: &str) -> String {
        let reason = match status {
            200 => "OK",
            503 => "Service Unavailable",
            504 => "Gateway Timeout",
            _ => "Internal Server Error",
        };
        let lame_duck = if self.lame_duck.load(Relaxed) { "seawall-lame-duck: 1\r\n" } else { "" };
        let length = body.len();
        format!("HTTP/1.1 {status} {reason}\r\ncontent-length: {length}\r\n{lame_duck}\r\n{body}")
    }
}

/// Waits until the client is gone. A client that sends the next request already is not.
async fn gone(stream: &mut BufReader<TcpStream>) {
    match stream.fill_buf().await {
        Ok([]) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// The next request's head, its body read and dropped; `None` at the end of the connection.
async fn read_head(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Head>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let mut head = Head { target: line.split(' ').nth(1).unwrap_or_default().to_owned(), ..Head::default() };
    loop {
        line.clear();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        let number = value.trim().parse::<u64>().ok();
        if name.eq_ignore_ascii_case("content-length") {
            head.body = number.unwrap_or(0);
        } else if name.eq_ignore_ascii_case("seawall-deadline-ms") {
            head.deadline = number.map(Duration::from_millis);
        }
    }
    let mut body = stream.take(head.body);
    tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
    Ok(Some(head))
}

#[cfg(test)]
mod tests {
    use super::Places;
    use std::sync::atomic::Ordering::Relaxed;

    #[test]
    fn the_number_of_places_follows_even_while_they_are_held() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let places = Places::new(4);
            places
                .hold(async {
                    places.hold(async { places.set(1) }).await;
                    assert_eq!(places.free.available_permits(), 0, "one is still held");
                })
                .await;
            assert_eq!((places.free.available_permits(), places.excess.load(Relaxed)), (1, 0));
            places.hold(async { places.set(0) }).await;
            assert_eq!(places.free.available_permits(), 0);
            places.set(3);
            assert_eq!(places.free.available_permits(), 3);

            tokio::select! {
                biased;
                () = places.hold(std::future::pending()) => unreachable!("it never ends"),
                () = async { places.set(0) } => {}
            }
            assert_eq!((places.free.available_permits(), places.excess.load(Relaxed)), (0, 0), "broken off");
        });
    }
}
