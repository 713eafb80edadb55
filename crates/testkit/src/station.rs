//! A back end whose capacity is known: so many workers, each busy for a service time with every request, and a queue in
//! front of them, first come first served.
//!
//! As most servers do, it works through a request whose client has gone. Service is waiting, not computing: the
//! machine's cores are not what limits it. `GET /stats` is answered at once, beside the queue, with its counts.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::sys::{self, Epoll, Events, Interest};

/// What a back end can do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// Requests in service at once.
    pub workers: usize,
    /// Mean time that a request occupies a worker.
    pub service: Duration,
    /// How service times vary around their mean.
    pub spread: ServiceSpread,
    /// Requests that may wait; a further one is answered 503 at once. `None`: any number, as behind a long backlog.
    pub queue_max: Option<usize>,
    /// Whether answers report the station's utilisation, in the header that ORCA names.
    pub reports_load: bool,
}

/// How service times vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceSpread {
    /// Not at all.
    Fixed,
    /// Exponentially: many short ones, a few long.
    Exponential,
}

impl FromStr for ServiceSpread {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fixed" => Ok(Self::Fixed),
            "exponential" => Ok(Self::Exponential),
            _ => Err(format!("{text:?} is neither `fixed` nor `exponential`")),
        }
    }
}

impl fmt::Display for ServiceSpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fixed => "fixed",
            Self::Exponential => "exponential",
        })
    }
}

impl Capacity {
    /// Requests per second when every worker is always busy.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.workers as f64 / self.service.as_secs_f64()
    }
}

/// What a back end has seen since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that came.
    pub arrived: u64,
    /// Requests that were served.
    pub served: u64,
    /// Of those served: whose client had gone before.
    pub wasted: u64,
    /// Requests refused because the queue was full.
    pub refused: u64,
    /// Requests that wait now.
    pub waiting: u64,
}

impl Counts {
    /// Reads what [`Counts`] displays.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut counts = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let Ok(value) = value.trim().parse() else { continue };
            match name {
                "arrived" => counts.arrived = value,
                "served" => counts.served = value,
                "wasted" => counts.wasted = value,
                "refused" => counts.refused = value,
                "waiting" => counts.waiting = value,
                _ => {}
            }
        }
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arrived, served, wasted, refused, waiting } = self;
        write!(
            f,
            "arrived {arrived}\nserved {served}\nwasted {wasted}\nrefused {refused}\nwaiting {waiting}\n"
        )
    }
}

/// Service times whose mean is exactly the wanted one over every pass, so that the capacity is known over seconds too,
/// not only in the limit: the distribution's quantiles, shuffled again for each pass.
struct Deck {
    spans: Vec<Duration>,
    next: usize,
    rng: fastrand::Rng,
}

impl Deck {
    const LENGTH: usize = 256;

    fn new(capacity: &Capacity, seed: u64) -> Self {
        let quantile = |index: usize| match capacity.spread {
            ServiceSpread::Fixed => 1.0,
            ServiceSpread::Exponential => -(1.0 - (index as f64 + 0.5) / Self::LENGTH as f64).ln(),
        };
        let factors: Vec<f64> = (0..Self::LENGTH).map(quantile).collect();
        let mean = factors.iter().sum::<f64>() / Self::LENGTH as f64;
        let spans = factors.iter().map(|factor| capacity.service.mul_f64(factor / mean)).collect();
        Self { spans, next: 0, rng: fastrand::Rng::with_seed(seed) }
    }

    fn draw(&mut self) -> Duration {
        if self.next == 0 {
            self.rng.shuffle(&mut self.spans);
        }
        let span = self.spans[self.next];
        self.next = (self.next + 1) % Self::LENGTH;
        span
    }
}

/// The queue and the workers, without clock or sockets. `T` is whatever a request is known by.
struct Station<T> {
    workers: usize,
    queue_max: usize,
    deck: Deck,
    queue: VecDeque<T>,
    /// Those in service, each with its end, in the order in which they began.
    busy: Vec<(Instant, T)>,
}

impl<T> Station<T> {
    fn new(capacity: &Capacity, seed: u64) -> Self {
        Self {
            workers: capacity.workers,
            queue_max: capacity.queue_max.unwrap_or(usize::MAX),
            deck: Deck::new(capacity, seed),
            queue: VecDeque::new(),
            busy: Vec::new(),
        }
    }

    /// Takes a request; gives it back when the queue is full.
    fn arrive(&mut self, now: Instant, job: T) -> Option<T> {
        if self.busy.len() < self.workers {
            self.begin(now, job);
        } else if self.queue.len() < self.queue_max {
            self.queue.push_back(job);
        } else {
            return Some(job);
        }
        None
    }

    /// The next request whose service has ended. Whoever waits begins when that service ended, not when somebody
    /// looked: a late look costs no capacity.
    fn finished(&mut self, now: Instant) -> Option<T> {
        let ended = self.next_end().filter(|ended| *ended <= now)?;
        let at = self.busy.iter().position(|(end, _)| *end == ended)?;
        let (_, job) = self.busy.remove(at);
        if let Some(next) = self.queue.pop_front() {
            self.begin(ended, next);
        }
        Some(job)
    }

    fn begin(&mut self, now: Instant, job: T) {
        self.busy.push((now + self.deck.draw(), job));
    }

    fn next_end(&self) -> Option<Instant> {
        self.busy.iter().map(|(end, _)| *end).min()
    }
}

const STATS: &[u8] = b"GET /stats";
const BODY: &[u8; 200] = &[b'x'; 200];

/// Which request of which connection: a slot is used again, its number is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Job {
    slot: usize,
    number: u64,
}

struct Connection {
    stream: TcpStream,
    number: u64,
    partial: Vec<u8>,
}

/// Serves `listener` until `stop` is set, which is looked at whenever something happens. The same `seed` gives the same
/// service times.
pub fn serve(listener: &TcpListener, capacity: &Capacity, seed: u64, stop: &AtomicBool) -> io::Result<()> {
    sys::precise_timers();
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new()?;
    epoll.add(listener, LISTENER, Interest::READ)?;
    let mut server = Server {
        capacity: *capacity,
        station: Station::new(capacity, seed),
        connections: Vec::new(),
        free: Vec::new(),
        opened: 0,
        counts: Counts::default(),
        buffer: vec![0; 64 * 1024].into(),
    };
    let mut events = Events::with_room(1024);
    while !stop.load(Relaxed) {
        let now = Instant::now();
        let limit = server.station.next_end().map(|end| end.saturating_duration_since(now));
        epoll.wait(&mut events, limit)?;
        let now = Instant::now();
        // Before new ones: a place that is free goes to whoever waits for it.
        while let Some(job) = server.station.finished(now) {
            server.on_served(job);
        }
        let mut closed = Vec::new();
        for token in events.tokens() {
            if token == LISTENER {
                server.accept(listener, &epoll);
            } else if server.on_readable(token, now).is_err() {
                closed.push(token);
            }
        }
        // Not before the batch is through: it may hold another event for the slot.
        for slot in closed {
            if server.connections[slot].take().is_some() {
                server.free.push(slot);
            }
        }
    }
    Ok(())
}

const LISTENER: usize = usize::MAX;

struct Server {
    capacity: Capacity,
    station: Station<Job>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    opened: u64,
    counts: Counts,
    buffer: Box<[u8]>,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener, epoll: &Epoll) {
        // Ends when nobody is left, and also when a peer has gone or descriptors are short; the next event tries again.
        while let Ok((stream, _)) = listener.accept() {
            let slot = self.free.pop().unwrap_or(self.connections.len());
            let ready = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
            if ready.and_then(|()| epoll.add(&stream, slot, Interest::READ)).is_err() {
                if slot < self.connections.len() {
                    self.free.push(slot);
                }
                continue;
            }
            self.opened += 1;
            let connection = Some(Connection { stream, number: self.opened, partial: Vec::new() });
            if slot == self.connections.len() {
                self.connections.push(connection);
            } else {
                self.connections[slot] = connection;
            }
        }
    }

    fn on_readable(&mut self, slot: usize, now: Instant) -> io::Result<()> {
        let Some(Some(connection)) = self.connections.get_mut(slot) else { return Ok(()) };
        let count = match connection.stream.read(&mut self.buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            answer => answer?,
        };
        let job = Job { slot, number: connection.number };
        connection.partial.extend_from_slice(&self.buffer[..count]);
        while let Some(end) = memchr::memmem::find(&connection.partial, b"\r\n\r\n") {
            let asks_for_counts = connection.partial.starts_with(STATS);
            connection.partial.drain(..end + 4);
            if asks_for_counts {
                self.counts.waiting = self.station.queue.len() as u64;
                connection.answer(200, "", self.counts.to_string().as_bytes());
                continue;
            }
            self.counts.arrived += 1;
            if self.station.arrive(now, job).is_some() {
                self.counts.refused += 1;
                connection.answer(503, "", b"");
            }
        }
        Ok(())
    }

    fn on_served(&mut self, job: Job) {
        self.counts.served += 1;
        let utilization = self.station.busy.len() as f64 / self.capacity.workers as f64;
        let connection = self.connections[job.slot].as_mut();
        let Some(connection) = connection.filter(|connection| connection.number == job.number) else {
            self.counts.wasted += 1;
            return;
        };
        let header = if self.capacity.reports_load {
            format!("endpoint-load-metrics: TEXT application_utilization={utilization:.3}\r\n")
        } else {
            String::new()
        };
        connection.answer(200, &header, BODY);
    }
}

impl Connection {
    /// Small enough for any socket's buffer: a client that does not take it has gone, and the next read says so.
    fn answer(&mut self, status: u16, header: &str, body: &[u8]) {
        let mut answer = format!(
            "HTTP/1.1 {status} {}\r\nServer: station\r\nContent-Type: text/plain\r\n{header}Content-Length: {}\r\n\r\n",
            if status == 200 { "OK" } else { "Service Unavailable" },
            body.len()
        )
        .into_bytes();
        answer.extend_from_slice(body);
        let _ = self.stream.write(&answer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Client;
    use crate::wait::{PATIENCE, wait_until};
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::thread::JoinHandle;

    fn capacity(workers: usize, service_ms: u64) -> Capacity {
        Capacity {
            workers,
            service: Duration::from_millis(service_ms),
            spread: ServiceSpread::Exponential,
            queue_max: None,
            reports_load: false,
        }
    }

    struct Running {
        addr: SocketAddr,
        stop: Arc<AtomicBool>,
        thread: Option<JoinHandle<io::Result<()>>>,
    }

    impl Running {
        fn start(capacity: Capacity) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let (addr, stop) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
            let stopped = Arc::clone(&stop);
            let thread = Some(std::thread::spawn(move || serve(&listener, &capacity, 1, &stopped)));
            Self { addr, stop, thread }
        }

        fn counts(&self) -> Counts {
            Counts::parse(&Client::connect(self.addr).get("/stats").text())
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.stop.store(true, Relaxed);
            drop(TcpStream::connect(self.addr));
            self.thread.take().unwrap().join().unwrap().unwrap();
        }
    }

    #[test]
    fn works_through_the_requests_of_clients_that_have_gone() {
        let station = Running::start(capacity(1, 1));
        for _ in 0..5 {
            Client::connect(station.addr).send("GET / HTTP/1.1\r\n\r\n");
        }
        wait_until("all five are served", PATIENCE, || station.counts().served == 5);
        let counts = station.counts();
        assert_eq!((counts.arrived, counts.refused, counts.waiting), (5, 0, 0));
        assert_eq!(Client::connect(station.addr).get("/").body, BODY);
    }

    #[test]
    fn refuses_only_what_its_queue_cannot_hold() {
        let station = Running::start(Capacity { queue_max: Some(2), ..capacity(1, 3_600_000) });
        let mut clients: Vec<_> = (0..4).map(|_| Client::connect(station.addr)).collect();
        for (sent, client) in (1..).zip(&mut clients) {
            client.send("GET / HTTP/1.1\r\n\r\n");
            wait_until("it has arrived", PATIENCE, || station.counts().arrived == sent);
        }
        assert_eq!(clients[3].response().status, 503);
        let counts = station.counts();
        assert_eq!((counts.waiting, counts.refused, counts.served), (2, 1, 0));
    }

    #[test]
    fn reports_its_load_only_when_told() {
        for reports_load in [false, true] {
            let station = Running::start(Capacity { reports_load, ..capacity(4, 1) });
            let answer = Client::connect(station.addr).get("/");
            let wanted = reports_load.then_some("TEXT application_utilization=0.000");
            assert_eq!(answer.header("endpoint-load-metrics"), wanted);
        }
    }

    #[test]
    fn counts_survive_the_journey() {
        let counts = Counts { arrived: 5, served: 4, wasted: 3, refused: 2, waiting: 1 };
        assert_eq!(Counts::parse(&counts.to_string()), counts);
    }

    proptest! {
        #[test]
        fn never_serves_faster_than_its_workers_and_never_idles_while_somebody_waits(
            gaps in proptest::collection::vec(0u64..30, 1..200),
            workers in 1usize..6,
            late in 0u64..50,
        ) {
            let capacity = Capacity { spread: ServiceSpread::Fixed, ..capacity(workers, 10) };
            let start = Instant::now();
            let ms = |count: u64| start + Duration::from_millis(count);
            let mut station = Station::new(&capacity, 7);
            // The same by the textbook: a request begins when it comes and a worker is free.
            let mut free = vec![0u64; workers];
            let (mut now, mut wanted, mut served) = (0, Vec::new(), Vec::new());
            for (job, gap) in gaps.iter().enumerate() {
                now += gap;
                while let Some(job) = station.finished(ms(now)) {
                    served.push(job);
                }
                prop_assert_eq!(station.arrive(ms(now), job), None);
                prop_assert!(station.busy.len() <= workers);
                prop_assert!(station.queue.is_empty() || station.busy.len() == workers);
                free.sort_unstable();
                free[0] = free[0].max(now) + 10;
                wanted.push((free[0], job));
            }
            wanted.sort_unstable();
            let last = wanted.last().map_or(0, |(end, _)| *end);
            // Whoever looks late still finds all that was done by then, in one go.
            while let Some(job) = station.finished(ms(last + late)) {
                served.push(job);
            }
            prop_assert_eq!(served, wanted.into_iter().map(|(_, job)| job).collect::<Vec<_>>());
        }

        #[test]
        fn the_mean_of_a_deck_is_the_wanted_one(service_ms in 1u64..1000, seed in any::<u64>()) {
            let capacity = capacity(1, service_ms);
            let mut deck = Deck::new(&capacity, seed);
            for _ in 0..3 {
                let sum: Duration = (0..Deck::LENGTH).map(|_| deck.draw()).sum();
                let mean = sum.as_secs_f64() / Deck::LENGTH as f64;
                prop_assert!((mean / capacity.service.as_secs_f64() - 1.0).abs() < 1e-4, "{mean}");
            }
        }
    }
}
