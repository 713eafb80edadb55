//! Small load generators. [`Load`]: many kept connections on one thread.
//!
//! Closed loop (each connection sends again once it is answered) finds the capacity; open loop (Poisson arrivals at a
//! rate, whatever the answers) finds the latency. In open loop a request's latency counts from the moment at which it
//! was *due*, also when it had to wait for a free connection, so a stalled server cannot hide its stall.
//!
//! Beyond a server's capacity clients behave differently, and so does the generator: see [`surge`].

mod answer;
mod histogram;
pub mod surge;

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::sys::{self, Epoll, Events, Interest};
use answer::Answer;

pub use histogram::Histogram;

/// How long a run waits at its end for answers that are still due.
const GRACE: Duration = Duration::from_secs(5);
/// How long after a refused connection the next try comes.
const RECONNECT: Duration = Duration::from_millis(10);
/// An arrival noticed later than this is the generator's own delay.
const LATE: Duration = Duration::from_millis(1);

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Each connection sends its next request once it has its answer.
    Closed,
    /// Requests arrive at random, independent of one another and of the answers.
    Poisson {
        /// Mean arrivals per second.
        per_second: f64,
        /// The same seed gives the same arrivals.
        seed: u64,
    },
}

/// When a run ends: whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// No request is sent after this span.
    pub span: Duration,
    /// At most so many requests are sent.
    pub requests: u64,
}

impl Limit {
    /// Bounded by time alone.
    #[must_use]
    pub fn time(span: Duration) -> Self {
        Self { span, requests: u64::MAX }
    }
}

/// What one run has seen.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Requests sent.
    pub sent: u64,
    /// Answers with a 2xx status.
    pub ok: u64,
    /// Answers with any other status.
    pub other: u64,
    /// Requests whose connection broke before the answer was whole, whose answer was malformed, or that could not be
    /// sent for want of a connection.
    pub errors: u64,
    /// Arrivals noticed more than a millisecond late because the generator itself was busy: when they are many, the
    /// run measures the generator.
    pub late: u64,
    /// From the start to the last answer.
    pub elapsed: Duration,
    /// From when a request was due (closed loop: was sent) to the end of its answer. Answers of any status.
    pub latency: Histogram,
}

impl Report {
    /// Answers of any status.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.ok + self.other
    }
}

#[derive(Debug)]
struct Connection {
    stream: Option<TcpStream>,
    answer: Answer,
    /// When the request under way was due.
    due: Option<Instant>,
    /// Where the request under way is not yet fully written: how much is.
    written: usize,
}

/// Connections to one server, kept from run to run.
#[derive(Debug)]
pub struct Load {
    addr: SocketAddr,
    request: Vec<u8>,
    epoll: Epoll,
    connections: Vec<Connection>,
    free: Vec<usize>,
    broken: Vec<usize>,
    due: VecDeque<Instant>,
    buffer: Box<[u8]>,
    report: Report,
}

impl Load {
    /// Opens `connections` connections to `addr`, over which `request` will be sent again and again. It must be a
    /// request whose answer has a body as its head announces (no `HEAD`).
    pub fn connect(addr: SocketAddr, connections: usize, request: &[u8]) -> io::Result<Self> {
        sys::precise_timers();
        let mut load = Self {
            addr,
            request: request.to_vec(),
            epoll: Epoll::new()?,
            connections: Vec::new(),
            free: Vec::new(),
            broken: Vec::new(),
            due: VecDeque::new(),
            buffer: vec![0; 64 * 1024].into(),
            report: Report::default(),
        };
        for index in 0..connections {
            load.connections.push(Connection {
                stream: None,
                answer: Answer::default(),
                due: None,
                written: 0,
            });
            load.open(index)?;
        }
        Ok(load)
    }

    /// Sends requests at `pace` until `limit`, then waits for the answers that are still due.
    pub fn run(&mut self, pace: Pace, limit: Limit) -> io::Result<Report> {
        let start = Instant::now();
        let end = start + limit.span;
        self.report = Report::default();
        let mut arrivals = match pace {
            Pace::Closed => None,
            Pace::Poisson { per_second, seed } => Some(Arrivals::new(start, per_second, seed)),
        };
        let mut events = Events::with_room(self.connections.len().clamp(1, 1024));
        let mut reopen = start;
        loop {
            let now = Instant::now();
            let open = now < end && self.report.sent + (self.due.len() as u64) < limit.requests;
            let mut wake = if now < end { end } else { end + GRACE };
            if !self.broken.is_empty() {
                if now >= reopen {
                    self.reopen();
                    reopen = now + RECONNECT;
                }
                wake = wake.min(reopen);
            }
            match &mut arrivals {
                Some(arrivals) => {
                    let left = limit.requests.saturating_sub(self.report.sent + self.due.len() as u64);
                    let until = now.min(end);
                    for _ in 0..left {
                        let Some(due) = arrivals.until(until) else { break };
                        self.report.late += u64::from(now - due > LATE);
                        self.due.push_back(due);
                    }
                    self.send_due();
                    if open {
                        wake = wake.min(arrivals.next);
                    }
                }
                None => {
                    while open && self.report.sent < limit.requests {
                        let Some(index) = self.free.pop() else { break };
                        self.send(index, Instant::now());
                    }
                }
            }
            let busy = self.connections.len() - self.free.len() - self.broken.len();
            let drained = busy == 0 && self.due.is_empty();
            let exhausted = now >= end || self.report.sent >= limit.requests;
            if (drained && exhausted) || now >= end + GRACE {
                break;
            }
            self.epoll.wait(&mut events, Some(wake.saturating_duration_since(now)))?;
            for index in events.tokens() {
                self.on_ready(index, pace, end, limit.requests);
            }
        }
        self.abandon();
        self.report.elapsed = start.elapsed();
        Ok(std::mem::take(&mut self.report))
    }

    fn open(&mut self, index: usize) -> io::Result<()> {
        let stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        self.epoll.add(&stream, index, Interest::READ)?;
        let connection = &mut self.connections[index];
        connection.stream = Some(stream);
        connection.answer = Answer::default();
        self.free.push(index);
        Ok(())
    }

    fn reopen(&mut self) {
        for index in std::mem::take(&mut self.broken) {
            if self.open(index).is_err() {
                self.broken.push(index);
            }
        }
    }

    fn send_due(&mut self) {
        while !self.due.is_empty()
            && let Some(index) = self.free.pop()
        {
            if let Some(due) = self.due.pop_front() {
                self.send(index, due);
            }
        }
    }

    fn send(&mut self, index: usize, due: Instant) {
        let connection = &mut self.connections[index];
        (connection.due, connection.written) = (Some(due), 0);
        self.report.sent += 1;
        self.write(index);
    }

    fn write(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        let resumed = connection.written > 0;
        let outcome = match stream.write(&self.request[connection.written..]) {
            Ok(count) => {
                connection.written += count;
                match (connection.written < self.request.len(), resumed) {
                    (true, _) => self.epoll.change(stream, index, Interest { read: true, write: true }),
                    (false, true) => self.epoll.change(stream, index, Interest::READ),
                    (false, false) => Ok(()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.epoll.change(stream, index, Interest { read: true, write: true })
            }
            Err(error) => Err(error),
        };
        if outcome.is_err() {
            self.lose(index);
        }
    }

    fn on_ready(&mut self, index: usize, pace: Pace, end: Instant, requests: u64) {
        let connection = &mut self.connections[index];
        if connection.due.is_some() && connection.written < self.request.len() {
            self.write(index);
        }
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        let count = match stream.read(&mut self.buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(0) | Err(_) => return self.lose(index),
            Ok(count) => count,
        };
        let Some(due) = connection.due else { return self.lose(index) };
        match connection.answer.feed(&self.buffer[..count]) {
            Ok(None) => {}
            Ok(Some((status, used))) if used == count => {
                let now = Instant::now();
                self.report.latency.record(now - due);
                if (200..300).contains(&status) {
                    self.report.ok += 1;
                } else {
                    self.report.other += 1;
                }
                connection.due = None;
                match (pace, self.due.pop_front()) {
                    (Pace::Poisson { .. }, Some(due)) => self.send(index, due),
                    (Pace::Closed, _) if now < end && self.report.sent < requests => self.send(index, now),
                    _ => self.free.push(index),
                }
            }
            // More than was asked for, or no HTTP.
            Ok(Some(_)) | Err(_) => self.lose(index),
        }
    }

    /// Gives a connection up; a server may close an idle one, but not one that owes an answer.
    fn lose(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if connection.due.take().is_some() {
            self.report.errors += 1;
        }
        connection.stream = None;
        self.free.retain(|free| *free != index);
        self.broken.push(index);
    }

    /// Counts what is still due as failed.
    fn abandon(&mut self) {
        self.report.errors += self.due.len() as u64;
        self.report.sent += self.due.len() as u64;
        self.due.clear();
        for index in 0..self.connections.len() {
            if self.connections[index].due.is_some() {
                self.lose(index);
            }
        }
    }
}

/// The moments of a Poisson process.
struct Arrivals {
    next: Instant,
    mean_gap: f64,
    rng: fastrand::Rng,
}

impl Arrivals {
    fn new(start: Instant, per_second: f64, seed: u64) -> Self {
        let mut arrivals =
            Self { next: start, mean_gap: 1.0 / per_second, rng: fastrand::Rng::with_seed(seed) };
        arrivals.advance();
        arrivals
    }

    /// The next arrival when it is not after `now`.
    fn until(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next;
        (due <= now).then(|| {
            self.advance();
            due
        })
    }

    fn advance(&mut self) {
        let gap = -(1.0 - self.rng.f64()).ln() * self.mean_gap;
        self.next += Duration::from_secs_f64(gap);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Gate, Reply, Upstream};

    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn counts_every_request_and_answer() {
        let upstream = Upstream::start(|request| match (request.connection + request.serial) % 4 {
            0 => Reply::status(503),
            1 => Reply::ok("x").chunked(),
            _ => Reply::ok("hello"),
        });
        let mut load = Load::connect(upstream.addr(), 4, GET).unwrap();
        let report = load.run(Pace::Closed, Limit { span: LONG, requests: 400 }).unwrap();
        assert_eq!((report.sent, report.answered(), report.errors), (400, 400, 0));
        assert_eq!(upstream.request_count(), 400);
        let refused = upstream
            .requests()
            .iter()
            .scan([0u64; 4], |serials, request| {
                let serial = serials[request.connection as usize];
                serials[request.connection as usize] += 1;
                Some((request.connection + serial) % 4 == 0)
            })
            .filter(|refused| *refused)
            .count() as u64;
        assert_eq!((report.other, report.latency.count()), (refused, 400));
        assert_eq!(upstream.connections(), 4, "connections are kept");
    }

    #[test]
    fn a_broken_connection_is_one_error_and_is_replaced() {
        let upstream = Upstream::start(|request| match request.serial {
            0..9 => Reply::ok("x"),
            _ => Reply::close(),
        });
        let mut load = Load::connect(upstream.addr(), 1, GET).unwrap();
        let report = load.run(Pace::Closed, Limit { span: LONG, requests: 100 }).unwrap();
        assert_eq!((report.sent, report.ok, report.errors), (100, 90, 10));
    }

    #[test]
    fn an_idle_connection_closed_by_the_server_is_no_error() {
        let upstream = Upstream::start(|_| Reply::ok("x").then_close());
        let mut load = Load::connect(upstream.addr(), 1, GET).unwrap();
        let report = load.run(Pace::Closed, Limit { span: LONG, requests: 1 }).unwrap();
        crate::wait_until("it is closed", LONG, || upstream.open_connections() == 0);
        let again =
            load.run(Pace::Poisson { per_second: 1e6, seed: 1 }, Limit { span: LONG, requests: 1 }).unwrap();
        assert_eq!((report.ok, report.errors), (1, 0));
        assert_eq!(again.sent, 1);
    }

    #[test]
    fn arrivals_come_at_the_wanted_rate_and_at_random() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(start, 5000.0, 7);
        let gaps: Vec<f64> = (0..50_000)
            .scan(start, |last, _| {
                let due = arrivals.until(start + LONG)?;
                let gap = (due - *last).as_secs_f64();
                *last = due;
                Some(gap)
            })
            .collect();
        assert_eq!(gaps.len(), 50_000);
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
        assert!((mean * 5000.0 - 1.0).abs() < 0.02, "mean gap {mean}");
        assert!((deviation / mean - 1.0).abs() < 0.03, "an exponential's deviation is its mean: {deviation}");
    }

    /// Coordinated omission: one connection, answered only after a stall; all requests that were due during the stall
    /// must show it, although only one was on the wire.
    #[test]
    fn a_stall_is_not_hidden_from_the_requests_that_were_due() {
        let stall = Duration::from_millis(200);
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |_| Reply::ok("x").hold(&held));
        let opener = std::thread::spawn({
            let (gate, addr) = (gate.clone(), upstream.addr());
            let mut load = Load::connect(addr, 1, GET).unwrap();
            move || {
                let limit = Limit { span: LONG, requests: 100 };
                let report = load.run(Pace::Poisson { per_second: 2000.0, seed: 3 }, limit).unwrap();
                drop(gate);
                report
            }
        });
        upstream.wait_for_requests(1);
        let asked = Instant::now();
        crate::wait_until("the stall is over", LONG, || asked.elapsed() >= stall);
        gate.open();
        let report = opener.join().unwrap();
        assert_eq!(report.ok, 100);
        // 100 arrivals at 2 000/s are due within some 50 ms, so nearly all waited for most of the stall.
        assert!(report.latency.quantile(0.5) >= stall / 2, "{:?}", report.latency.quantile(0.5));
    }
}
