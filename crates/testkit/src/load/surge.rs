//! Many independent clients: what arrives does not depend on what is answered, nobody waits for a free connection, and
//! nobody waits for ever.
//!
//! Requests of several classes arrive at random (Poisson). Each takes a kept connection that is idle, or opens one. A
//! client that runs out of patience closes its connection; one that was refused, broken off or kept waiting may try
//! again. Every request is on record, so that what happened can be judged afterwards over any span.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::Arrivals;
use super::answer::Answer;
use crate::sys::{self, Epoll, Events, Interest};

/// Source addresses in turn: a closed connection keeps its port for a while, and one address has too few of them.
const SOURCES: u64 = 16;

/// How the clients behave.
#[derive(Clone, Debug)]
pub struct Manners {
    /// What a client of each class sends: a request without a body whose answer has a frame (no `HEAD`).
    pub requests: Vec<Vec<u8>>,
    /// How long an attempt waits for its answer.
    pub patience: Duration,
    /// Attempts that a request may have, the first included.
    pub attempts_max: u32,
    /// From a failed attempt to the next one.
    pub backoff: Duration,
}

/// How the last attempt of a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It has not yet.
    Pending,
    /// A 2xx answer.
    Ok,
    /// Any other answer.
    Refused,
    /// No whole answer within the client's patience.
    TimedOut,
    /// The connection could not be opened, or ended before the answer was whole.
    Broken,
    /// The generator itself had no descriptor or port left for it: says nothing about the server.
    Unsent,
}

/// One request on record. Times count from the start of the load.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// Its class: the index into [`Manners::requests`].
    pub class: usize,
    /// When it was due.
    pub due: Duration,
    /// How late the generator noticed that.
    pub late: Duration,
    /// Attempts so far.
    pub attempts: u32,
    /// When its last attempt ended.
    pub ended: Duration,
    /// How.
    pub verdict: Verdict,
}

impl Request {
    /// From when it was due to the end of its 2xx answer; `None` when there was none.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        (self.verdict == Verdict::Ok).then(|| self.ended.saturating_sub(self.due))
    }
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Slots are used again, numbers are not.
    number: u64,
    answer: Answer,
    attempt: Option<Attempt>,
}

#[derive(Debug)]
struct Attempt {
    request: usize,
    serial: u64,
    written: usize,
    /// Whether the connection is new: an idle one may have been closed by the server just before.
    is_fresh: bool,
    /// Whether any byte of the answer has come.
    is_heard: bool,
}

/// A load under way on one thread.
#[derive(Debug)]
pub struct Surge {
    addr: SocketAddr,
    manners: Manners,
    epoll: Epoll,
    start: Instant,
    /// The end of the last phase, where the next one begins.
    now: Instant,
    rng: fastrand::Rng,
    requests: Vec<Request>,
    pending: usize,
    connections: Vec<Option<Connection>>,
    /// Slots to use again; and those which the events at hand may still name.
    spare: Vec<usize>,
    closed: Vec<usize>,
    /// Slot and number, the last one used on top. Those that have ended since are skipped.
    idle: Vec<(usize, u64)>,
    /// Patience and back-off are the same for all, so these are in order. Slot and serial; request.
    timeouts: VecDeque<(Instant, usize, u64)>,
    retries: VecDeque<(Instant, usize)>,
    serial: u64,
    buffer: Box<[u8]>,
}

impl Surge {
    /// Clients of the server at `addr`. The same `seed` gives the same arrivals.
    pub fn new(addr: SocketAddr, manners: Manners, seed: u64) -> io::Result<Self> {
        sys::precise_timers();
        let now = Instant::now();
        Ok(Self {
            addr,
            manners,
            epoll: Epoll::new()?,
            start: now,
            now,
            rng: fastrand::Rng::with_seed(seed),
            requests: Vec::new(),
            pending: 0,
            connections: Vec::new(),
            spare: Vec::new(),
            closed: Vec::new(),
            idle: Vec::new(),
            timeouts: VecDeque::new(),
            retries: VecDeque::new(),
            serial: 0,
            buffer: vec![0; 64 * 1024].into(),
        })
    }

    /// Lets requests of each class arrive at `rates` (per second) for `span`, from where the last phase ended. What is
    /// still under way then stays so.
    pub fn run(&mut self, rates: &[f64], span: Duration) -> io::Result<()> {
        let total: f64 = rates.iter().sum();
        let mut arrivals = (total > 0.0).then(|| Arrivals::new(self.now, total, self.rng.u64(..)));
        let end = self.now + span;
        self.turn(end, |surge, now| {
            let arrivals = arrivals.as_mut()?;
            while let Some(due) = arrivals.until(now.min(end)) {
                let class = surge.class(rates, total);
                surge.arrive(class, due, now);
            }
            Some(arrivals.next)
        })
    }

    /// Waits until no request is pending any more.
    pub fn drain(&mut self) -> io::Result<()> {
        while self.pending > 0 {
            let step = self.manners.patience.min(Duration::from_millis(20));
            self.run(&[], step)?;
        }
        Ok(())
    }

    /// How long it has been under way.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// Every request so far, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Handles what happens until `end`. `arrive` takes what is due and says when something will be due again.
    fn turn(
        &mut self,
        end: Instant,
        mut arrive: impl FnMut(&mut Self, Instant) -> Option<Instant>,
    ) -> io::Result<()> {
        // Few at a time, so that a burst of answers does not make arrivals late.
        let mut events = Events::with_room(128);
        loop {
            let now = Instant::now();
            let next = arrive(self, now);
            while let Some((at, request)) = self.retries.front().copied()
                && at <= now
            {
                self.retries.pop_front();
                self.attempt(request, now);
            }
            while let Some((at, slot, serial)) = self.timeouts.front().copied()
                && at <= now
            {
                self.timeouts.pop_front();
                self.expire(slot, serial, now);
            }
            self.spare.append(&mut self.closed);
            if now >= end {
                self.now = end;
                return Ok(());
            }
            let timeout = self.timeouts.front().map(|(at, ..)| *at);
            let retry = self.retries.front().map(|(at, _)| *at);
            let wake = [next, timeout, retry].into_iter().flatten().fold(end, Instant::min);
            self.epoll.wait(&mut events, Some(wake.saturating_duration_since(now)))?;
            for slot in events.tokens() {
                self.on_ready(slot);
            }
            self.spare.append(&mut self.closed);
        }
    }

    fn class(&mut self, rates: &[f64], total: f64) -> usize {
        let mut left = self.rng.f64() * total;
        let class = rates.iter().position(|rate| {
            left -= rate;
            left < 0.0
        });
        // Nothing is found only where rounding leaves a trace of the sum over.
        class.unwrap_or(rates.len() - 1)
    }

    fn arrive(&mut self, class: usize, due: Instant, now: Instant) {
        self.requests.push(Request {
            class,
            due: due - self.start,
            late: now - due,
            attempts: 0,
            ended: Duration::ZERO,
            verdict: Verdict::Pending,
        });
        self.pending += 1;
        self.attempt(self.requests.len() - 1, now);
    }

    fn attempt(&mut self, request: usize, now: Instant) {
        self.requests[request].attempts += 1;
        while let Some((slot, number)) = self.idle.pop() {
            if self.connections[slot].as_ref().is_some_and(|connection| connection.number == number) {
                return self.send(slot, request, false, now);
            }
        }
        self.attempt_anew(request, now);
    }

    /// Over a new connection.
    fn attempt_anew(&mut self, request: usize, now: Instant) {
        match self.open() {
            Ok(slot) => self.send(slot, request, true, now),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                self.settle(request, Verdict::Broken, now);
            }
            Err(_) => self.settle(request, Verdict::Unsent, now),
        }
    }

    fn open(&mut self) -> io::Result<usize> {
        self.serial += 1;
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        if self.addr.ip().is_loopback() {
            sys::choose_port_at_connect(&socket)?;
            let source = Ipv4Addr::new(127, 0, 0, 2 + (self.serial % SOURCES) as u8);
            socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        }
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&self.addr.into()) {
            // Under way: the first write waits for it.
            Err(error) if error.raw_os_error() != Some(sys::IN_PROGRESS) => return Err(error),
            _ => {}
        }
        let stream = TcpStream::from(socket);
        let slot = self.spare.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        if let Err(error) = self.epoll.add(&stream, slot, Interest::READ) {
            self.spare.push(slot);
            return Err(error);
        }
        let answer = Answer::default();
        self.connections[slot] = Some(Connection { stream, number: self.serial, answer, attempt: None });
        Ok(slot)
    }

    fn send(&mut self, slot: usize, request: usize, is_fresh: bool, now: Instant) {
        self.serial += 1;
        let serial = self.serial;
        if let Some(connection) = &mut self.connections[slot] {
            connection.attempt = Some(Attempt { request, serial, written: 0, is_fresh, is_heard: false });
            self.timeouts.push_back((now + self.manners.patience, slot, serial));
            self.write(slot, now);
        }
    }

    fn write(&mut self, slot: usize, now: Instant) {
        let Some(connection) = &mut self.connections[slot] else { return };
        let Some(attempt) = &mut connection.attempt else { return };
        let bytes = &self.manners.requests[self.requests[attempt.request].class];
        let before = attempt.written;
        let outcome = match connection.stream.write(&bytes[before..]) {
            Ok(count) => {
                attempt.written += count;
                Ok(attempt.written == bytes.len())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        };
        let outcome = outcome.and_then(|is_written| match (is_written, before == 0) {
            // The common case, in one go.
            (true, true) => Ok(()),
            (true, false) => self.epoll.change(&connection.stream, slot, Interest::READ),
            (false, _) => self.epoll.change(&connection.stream, slot, Interest { read: true, write: true }),
        });
        if outcome.is_err() {
            self.lose(slot, now);
        }
    }

    fn on_ready(&mut self, slot: usize) {
        let now = Instant::now();
        if let Some(Connection { attempt: Some(attempt), .. }) = &self.connections[slot]
            && attempt.written < self.manners.requests[self.requests[attempt.request].class].len()
        {
            self.write(slot, now);
        }
        let Some(connection) = &mut self.connections[slot] else { return };
        let count = match connection.stream.read(&mut self.buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => return,
            Ok(0) | Err(_) => return self.lose(slot, now),
            Ok(count) => count,
        };
        let Some(attempt) = &mut connection.attempt else { return self.lose(slot, now) };
        attempt.is_heard = true;
        match connection.answer.feed(&self.buffer[..count]) {
            Ok(None) => {}
            Ok(Some((status, used))) if used == count => {
                let request = attempt.request;
                connection.attempt = None;
                if connection.answer.closes() {
                    self.close(slot);
                } else {
                    self.idle.push((slot, connection.number));
                }
                let is_ok = (200..300).contains(&status);
                self.settle(request, if is_ok { Verdict::Ok } else { Verdict::Refused }, now);
            }
            // More than was asked for, or no HTTP.
            Ok(Some(_)) | Err(_) => self.lose(slot, now),
        }
    }

    fn expire(&mut self, slot: usize, serial: u64, now: Instant) {
        let Some(Connection { attempt: Some(attempt), .. }) = &self.connections[slot] else { return };
        if attempt.serial == serial {
            let request = attempt.request;
            self.close(slot);
            self.settle(request, Verdict::TimedOut, now);
        }
    }

    /// The connection has ended by itself.
    fn lose(&mut self, slot: usize, now: Instant) {
        let attempt = self.connections[slot].as_mut().and_then(|connection| connection.attempt.take());
        self.close(slot);
        match attempt {
            None => {}
            // An idle connection that the server was about to close: as every client does, send again elsewhere.
            Some(attempt) if !attempt.is_fresh && !attempt.is_heard => {
                self.attempt_anew(attempt.request, now);
            }
            Some(attempt) => self.settle(attempt.request, Verdict::Broken, now),
        }
    }

    fn close(&mut self, slot: usize) {
        if self.connections[slot].take().is_some() {
            self.closed.push(slot);
        }
    }

    fn settle(&mut self, request: usize, verdict: Verdict, now: Instant) {
        let record = &mut self.requests[request];
        let may_retry = !matches!(verdict, Verdict::Ok | Verdict::Unsent);
        if may_retry && record.attempts < self.manners.attempts_max {
            self.retries.push_back((now + self.manners.backoff, request));
            return;
        }
        (record.verdict, record.ended) = (verdict, now - self.start);
        self.pending -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Gate, Reply, Upstream};
    use crate::wait::{PATIENCE, free_port, wait_until};

    fn manners(attempts_max: u32) -> Manners {
        let request = |class: &str| format!("GET /{class} HTTP/1.1\r\nHost: test\r\n\r\n").into_bytes();
        Manners {
            requests: vec![request("a"), request("b")],
            patience: Duration::from_secs(20),
            attempts_max,
            backoff: Duration::from_millis(1),
        }
    }

    fn drained(upstream: &Upstream, manners: Manners, rates: &[f64]) -> Vec<Request> {
        let mut surge = Surge::new(upstream.addr(), manners, 1).unwrap();
        surge.run(rates, Duration::from_millis(50)).unwrap();
        surge.drain().unwrap();
        assert!(surge.requests().len() > 10);
        surge.requests().to_vec()
    }

    #[test]
    fn every_request_is_on_record_with_its_class() {
        let upstream = Upstream::start(|request| match request.target {
            "/a" => Reply::ok("x"),
            _ => Reply::status(503),
        });
        let requests = drained(&upstream, manners(1), &[1000.0, 1000.0]);
        for request in &requests {
            let wanted = if request.class == 0 { Verdict::Ok } else { Verdict::Refused };
            assert_eq!((request.verdict, request.attempts), (wanted, 1));
            assert_eq!(request.latency().is_some(), request.class == 0);
            assert!(request.ended >= request.due + request.late);
        }
        let of_class = |class| requests.iter().filter(|request| request.class == class).count() as u64;
        let arrived =
            |path: &str| upstream.requests().iter().filter(|request| request.target == path).count() as u64;
        assert_eq!((of_class(0), of_class(1)), (arrived("/a"), arrived("/b")));
        assert!(upstream.connections() < upstream.request_count() as u64, "connections are used again");
    }

    #[test]
    fn failures_are_tried_again_as_often_as_allowed() {
        for (reply, verdict) in [
            (Reply::status(503), Verdict::Refused),
            (Reply::ok("x").cut_after(20), Verdict::Broken),
            (Reply::status(503).header("Connection", "close").then_close(), Verdict::Refused),
        ] {
            let upstream = Upstream::start(move |_| reply.clone());
            let requests = drained(&upstream, manners(3), &[1000.0]);
            assert!(requests.iter().all(|request| (request.verdict, request.attempts) == (verdict, 3)));
            assert_eq!(upstream.request_count(), 3 * requests.len());
        }
    }

    #[test]
    fn impatient_clients_go_and_nobody_waits_for_them() {
        let gate = Gate::new();
        let held = gate.clone();
        let upstream = Upstream::start(move |_| Reply::ok("x").hold(&held));
        let impatient = Manners { patience: Duration::from_millis(30), ..manners(2) };
        let requests = drained(&upstream, impatient, &[1000.0]);
        assert!(requests.iter().all(|request| request.verdict == Verdict::TimedOut && request.attempts == 2));
        // Clients that have gone may still wait to be accepted.
        wait_until("each attempt had a connection of its own", PATIENCE, || {
            upstream.connections() as usize == 2 * requests.len()
        });
        gate.open();
    }

    #[test]
    fn a_kept_connection_that_the_server_closes_costs_no_request() {
        // Every second request on a connection finds it closed.
        let upstream = Upstream::start(|request| match request.serial {
            0 => Reply::ok("x"),
            _ => Reply::close(),
        });
        let requests = drained(&upstream, manners(1), &[1000.0]);
        assert!(requests.iter().all(|request| (request.verdict, request.attempts) == (Verdict::Ok, 1)));
    }

    #[test]
    fn nobody_listening_is_broken_not_unsent() {
        let mut surge = Surge::new(free_port(), manners(1), 1).unwrap();
        surge.run(&[1000.0], Duration::from_millis(20)).unwrap();
        surge.drain().unwrap();
        assert!(!surge.requests().is_empty());
        assert!(surge.requests().iter().all(|request| request.verdict == Verdict::Broken));
    }

    #[test]
    fn phases_follow_one_another_and_the_same_seed_arrives_the_same() {
        let upstream = Upstream::constant("x");
        let run = || {
            let mut surge = Surge::new(upstream.addr(), manners(1), 7).unwrap();
            surge.run(&[900.0, 100.0], Duration::from_millis(100)).unwrap();
            surge.run(&[100.0, 900.0], Duration::from_millis(100)).unwrap();
            assert_eq!(surge.elapsed(), Duration::from_millis(200));
            surge.drain().unwrap();
            let arrivals: Vec<_> =
                surge.requests().iter().map(|request| (request.class, request.due)).collect();
            arrivals
        };
        let (first, second) = (run(), run());
        assert_eq!(first, second);
        let share = |arrivals: &[(usize, Duration)]| {
            arrivals.iter().filter(|(class, _)| *class == 0).count() as f64 / arrivals.len() as f64
        };
        let half = first.partition_point(|(_, due)| *due < Duration::from_millis(100));
        assert!(share(&first[..half]) > 0.7 && share(&first[half..]) < 0.3);
    }
}
