//! A service behind its admission, in virtual time: open-loop clients, a line, servers that work first in, first out
//! or all at once.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::vec::Vec;

use super::*;
use crate::Rng;
use crate::queue::{Queue, Waiter};

/// How long a request keeps a server busy; the mean in seconds comes first.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    Constant(f64),
    Exponential(f64),
    /// With the deviation of the logarithm.
    LogNormal(f64, f64),
    /// The share of slow requests, and how many times slower they are.
    Bimodal(f64, f64, f64),
}

impl Work {
    pub(crate) fn mean(self) -> f64 {
        match self {
            Self::Constant(mean)
            | Self::Exponential(mean)
            | Self::LogNormal(mean, _)
            | Self::Bimodal(mean, ..) => mean,
        }
    }

    pub(crate) fn draw(self, rng: &mut Rng) -> f64 {
        match self {
            Self::Constant(mean) => mean,
            Self::Exponential(mean) => -(1.0 - rng.f64()).ln() * mean,
            Self::LogNormal(mean, deviation) => {
                let normal =
                    (-2.0 * (1.0 - rng.f64()).ln()).sqrt() * (core::f64::consts::TAU * rng.f64()).cos();
                mean * (deviation * normal - deviation * deviation / 2.0).exp()
            }
            Self::Bimodal(mean, slow, times) => {
                let quick = mean / (1.0 + slow * (times - 1.0));
                if rng.f64() < slow { quick * times } else { quick }
            }
        }
    }
}

/// Who sends, and how often on average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    pub(crate) class: Criticality,
    pub(crate) customer: u64,
    pub(crate) per_sec: f64,
    /// Seconds in which it sends.
    pub(crate) from: f64,
    pub(crate) until: f64,
    /// Seconds after which its callers want no answer any more.
    pub(crate) patience: f64,
    /// So many clients of which each asks again when it has its answer, or a while (`1 / per_sec`) after it was
    /// refused; 0 for clients that ask whatever happens.
    pub(crate) clients: usize,
}

impl Stream {
    pub(crate) fn new(class: Criticality, per_sec: f64) -> Self {
        Self {
            class,
            customer: 0,
            per_sec,
            from: 0.0,
            until: f64::INFINITY,
            patience: f64::INFINITY,
            clients: 0,
        }
    }
}

/// What happens to the service, at which second.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    Servers(usize),
    /// Every answer takes so many seconds longer, without keeping a server busy.
    Delay(f64),
    /// A share of requests is never answered.
    Hang(f64),
}

#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) work: Work,
    pub(crate) servers: usize,
    /// All requests inside share the servers, instead of queueing for them.
    pub(crate) shared: bool,
    pub(crate) streams: Vec<Stream>,
    pub(crate) changes: Vec<(f64, Change)>,
    /// Seconds after which the gateway gives a request up.
    pub(crate) timeout: f64,
    pub(crate) lasts: f64,
}

impl Scenario {
    pub(crate) fn new(seed: u64, work: Work, servers: usize) -> Self {
        Self {
            seed,
            work,
            servers,
            shared: false,
            streams: Vec::new(),
            changes: Vec::new(),
            timeout: f64::INFINITY,
            lasts: 10.0,
        }
    }

    /// What the servers can do, per second.
    pub(crate) fn capacity(&self) -> f64 {
        self.servers as f64 / self.work.mean()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Served,
    TimedOut,
    Shed(Shed),
}

/// One request, in seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Story {
    pub(crate) stream: usize,
    pub(crate) arrived: f64,
    pub(crate) entered: f64,
    pub(crate) ended: f64,
    pub(crate) fate: Fate,
}

#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) stories: Vec<Story>,
    /// The limit over time.
    pub(crate) limits: Vec<(f64, u32)>,
}

impl Log {
    /// Answers per second that ended between two seconds.
    pub(crate) fn goodput(&self, from: f64, until: f64) -> f64 {
        let within = |story: &&Story| (from..until).contains(&story.ended) && story.fate == Fate::Served;
        self.stories.iter().filter(within).count() as f64 / (until - from)
    }

    /// The share of a stream's requests that arrived between two seconds and were answered.
    pub(crate) fn success(&self, stream: usize, from: f64, until: f64) -> f64 {
        let arrived = |story: &&Story| story.stream == stream && (from..until).contains(&story.arrived);
        let (mut all, mut served) = (0.0, 0.0);
        for story in self.stories.iter().filter(arrived) {
            all += 1.0;
            served += f64::from(u8::from(story.fate == Fate::Served));
        }
        served / all
    }

    /// Latencies of what was served between two seconds, waiting included: the mean and a quantile.
    pub(crate) fn latency(&self, quantile: f64, from: f64, until: f64) -> (f64, f64) {
        let served = |story: &&Story| story.fate == Fate::Served && (from..until).contains(&story.ended);
        let mut latencies: Vec<f64> =
            self.stories.iter().filter(served).map(|story| story.ended - story.arrived).collect();
        latencies.sort_by(f64::total_cmp);
        if latencies.is_empty() {
            return (f64::NAN, f64::NAN);
        }
        let mean = latencies.iter().sum::<f64>() / latencies.len() as f64;
        (mean, latencies[(quantile * (latencies.len().max(1) - 1) as f64) as usize])
    }

    pub(crate) fn limit_at(&self, second: f64) -> u32 {
        self.limits.iter().rev().find(|(at, _)| *at <= second).map_or(0, |(_, limit)| *limit)
    }
}

/// Decides about requests by number.
pub(crate) trait Door {
    /// Whether it goes in; `None` when it waits.
    fn arrive(&mut self, now: Instant, request: u32, who: Who) -> Option<Result<(), Shed>>;
    fn end(&mut self, now: Instant, request: u32, end: End);
    /// Those who waited and do so no more.
    fn decided(&mut self, now: Instant, decided: &mut Vec<(u32, Result<(), Shed>)>);
    fn poll_timeout(&self) -> Option<Instant>;
    fn limit(&self) -> u32;
}

/// An [`Admission`] and its line.
pub(crate) struct Gate {
    pub(crate) admission: Admission,
    queue: Queue<u32>,
    tickets: HashMap<u32, Ticket>,
    evicted: Vec<(u32, Shed)>,
    wake: bool,
}

impl Gate {
    pub(crate) fn new(params: &AdmissionParams) -> Self {
        Self {
            admission: Admission::new(params, 2, Instant::ORIGIN),
            queue: Queue::new(&params.queue),
            tickets: HashMap::new(),
            evicted: Vec::new(),
            wake: false,
        }
    }
}

impl Door for Gate {
    fn arrive(&mut self, now: Instant, request: u32, who: Who) -> Option<Result<(), Shed>> {
        match self.admission.try_enter(request as usize, &who, now) {
            Entry::Enter(ticket) => {
                self.tickets.insert(request, ticket);
                Some(Ok(()))
            }
            Entry::Refuse(shed) => Some(Err(shed)),
            Entry::Wait => {
                self.wake = true;
                match self.queue.push(
                    now,
                    self.admission.limit(),
                    self.admission.base_latency(),
                    Waiter { who, value: request },
                ) {
                    Ok((_, None)) => None,
                    Ok((_, Some(evicted))) => {
                        self.admission.give_up(&evicted.0.who);
                        self.evicted.push((evicted.0.value, Shed::QueueFull));
                        None
                    }
                    Err(full) => {
                        self.admission.give_up(&full.0.who);
                        Some(Err(Shed::QueueFull))
                    }
                }
            }
        }
    }

    fn end(&mut self, now: Instant, request: u32, end: End) {
        let ticket = self.tickets.remove(&request).expect("it was let in");
        self.wake |= self.admission.leave(request as usize, ticket, now, end);
    }

    fn decided(&mut self, now: Instant, decided: &mut Vec<(u32, Result<(), Shed>)>) {
        let (admission, tickets) = (&self.admission, &mut self.tickets);
        let base = admission.base_latency();
        decided.extend(self.evicted.drain(..).map(|(request, why)| (request, Err(why))));
        let mut shed = |waiter: Waiter<u32>, why| {
            admission.give_up(&waiter.who);
            decided.push((waiter.value, Err(why)));
        };
        self.queue.expire(now, base, &mut shed);
        let mut entered = Vec::new();
        while let Some((waiter, ticket)) =
            self.queue.pop(now, base, |who| admission.try_enter_waiting(0, who, now), &mut shed)
        {
            tickets.insert(waiter.value, ticket);
            entered.push(waiter.value);
        }
        decided.extend(entered.into_iter().map(|request| (request, Ok(()))));
        self.wake = false;
    }

    fn poll_timeout(&self) -> Option<Instant> {
        if self.wake || !self.evicted.is_empty() {
            return Some(Instant::ORIGIN);
        }
        self.queue.poll_timeout(self.admission.base_latency())
    }

    fn limit(&self) -> u32 {
        self.admission.limit()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    /// A server, or the one that shares are computed for, may be done.
    Done(u32),
    Shared(u64),
    Answer(u32),
    TimeOut(u32),
    Change(usize),
    Wake,
}

/// The servers and what they work on.
struct Servers {
    count: usize,
    shared: bool,
    /// In turn: those who queue, and how many are served.
    line: VecDeque<(u32, f64)>,
    busy: usize,
    /// Shared: work done for each since the beginning, when that was, and those inside by the work that ends theirs.
    done: f64,
    at: f64,
    inside: BinaryHeap<Reverse<(u64, u32)>>,
    version: u64,
}

impl Servers {
    fn rate(&self) -> f64 {
        (self.count as f64 / self.inside.len().max(1) as f64).min(1.0)
    }

    fn advance(&mut self, now: f64) {
        self.done += self.rate() * (now - self.at);
        self.at = now;
    }
}

/// Runs a scenario from its seed.
pub(crate) fn run(scenario: &Scenario, door: &mut (impl Door + ?Sized)) -> Log {
    let mut rng = Rng::with_seed(scenario.seed);
    let mut events: BinaryHeap<Reverse<(u64, u64, Event)>> = BinaryHeap::new();
    let mut number = 0;
    let mut schedule = |events: &mut BinaryHeap<Reverse<(u64, u64, Event)>>, at: f64, event| {
        number += 1;
        if at.is_finite() {
            events.push(Reverse(((at * 1e9).round() as u64, number, event)));
        }
    };
    let gap = |rng: &mut Rng, stream: &Stream| -(1.0 - rng.f64()).ln() / stream.per_sec;
    for (index, stream) in scenario.streams.iter().enumerate() {
        for _ in 0..stream.clients {
            schedule(&mut events, stream.from, Event::Arrive(index));
        }
        if stream.clients > 0 {
            continue;
        }
        let first = stream.from + gap(&mut rng, stream);
        schedule(&mut events, first, Event::Arrive(index));
    }
    for (index, (at, _)) in scenario.changes.iter().enumerate() {
        schedule(&mut events, *at, Event::Change(index));
    }
    let mut servers = Servers {
        count: scenario.servers,
        shared: scenario.shared,
        line: VecDeque::new(),
        busy: 0,
        done: 0.0,
        at: 0.0,
        inside: BinaryHeap::new(),
        version: 0,
    };
    let (mut delay, mut hang) = (0.0, 0.0);
    let mut log = Log::default();
    let mut waking = u64::MAX;
    let mut decided = Vec::new();
    while let Some(Reverse((nanos, _, event))) = events.pop() {
        let (now, at) = (Instant::from_nanos(nanos), nanos as f64 / 1e9);
        if at >= scenario.lasts {
            break;
        }
        match event {
            Event::Arrive(index) => {
                let stream = &scenario.streams[index];
                let closed = stream.clients > 0;
                let next = if closed { f64::INFINITY } else { at + gap(&mut rng, stream) };
                if next < stream.until {
                    schedule(&mut events, next, Event::Arrive(index));
                }
                let deadline = match stream.patience {
                    f64::INFINITY => Deadline::NONE,
                    patience => Deadline::within(now, Duration::from_secs_f64(patience)),
                };
                let request = log.stories.len() as u32;
                // Whoever neither ends nor is refused before the end counts as refused for the limit.
                let fate = Fate::Shed(Shed::Limit);
                log.stories.push(Story {
                    stream: index,
                    arrived: at,
                    entered: f64::NAN,
                    ended: f64::NAN,
                    fate,
                });
                let who = Who { class: stream.class, customer: stream.customer, deadline };
                if let Some(answer) = door.arrive(now, request, who) {
                    decided.push((request, answer));
                }
            }
            Event::Done(request) => {
                servers.busy -= 1;
                schedule(&mut events, at + delay, Event::Answer(request));
            }
            Event::Shared(version) if version == servers.version => {
                servers.advance(at);
                if let Some(Reverse((_, request))) = servers.inside.pop() {
                    schedule(&mut events, at + delay, Event::Answer(request));
                }
            }
            Event::Shared(_) => continue,
            Event::Answer(request) => {
                let story = &mut log.stories[request as usize];
                if story.ended.is_nan() {
                    (story.ended, story.fate) = (at, Fate::Served);
                    let stream = story.stream;
                    door.end(now, request, End::Success(Duration::from_secs_f64(at - story.entered)));
                    if scenario.streams[stream].clients > 0 {
                        schedule(&mut events, at, Event::Arrive(stream));
                    }
                }
            }
            Event::TimeOut(request) => {
                let story = &mut log.stories[request as usize];
                if story.ended.is_nan() {
                    (story.ended, story.fate) = (at, Fate::TimedOut);
                    door.end(now, request, End::Dropped);
                }
            }
            Event::Change(index) => match scenario.changes[index].1 {
                Change::Servers(count) => {
                    servers.advance(at);
                    servers.count = count;
                }
                Change::Delay(seconds) => delay = seconds,
                Change::Hang(share) => hang = share,
            },
            Event::Wake => waking = u64::MAX,
        }
        if door.poll_timeout().is_some_and(|timeout| timeout <= now) {
            door.decided(now, &mut decided);
        }
        for (request, answer) in decided.drain(..) {
            let story = &mut log.stories[request as usize];
            match answer {
                Err(shed) => {
                    (story.ended, story.fate) = (at, Fate::Shed(shed));
                    let stream = &scenario.streams[story.stream];
                    if stream.clients > 0 {
                        schedule(&mut events, at + 1.0 / stream.per_sec, Event::Arrive(story.stream));
                    }
                }
                Ok(()) => {
                    story.entered = at;
                    schedule(&mut events, at + scenario.timeout, Event::TimeOut(request));
                    if hang > 0.0 && rng.f64() < hang {
                        continue;
                    }
                    let work = scenario.work.draw(&mut rng);
                    if servers.shared {
                        servers.advance(at);
                        servers.inside.push(Reverse((((servers.done + work) * 1e9) as u64, request)));
                    } else {
                        servers.line.push_back((request, work));
                    }
                }
            }
        }
        while servers.busy < servers.count
            && let Some((request, work)) = servers.line.pop_front()
        {
            servers.busy += 1;
            schedule(&mut events, at + work, Event::Done(request));
        }
        if servers.shared {
            servers.advance(at);
            servers.version += 1;
            if let Some(Reverse((until, _))) = servers.inside.peek() {
                let left = (*until as f64 / 1e9 - servers.done).max(0.0) / servers.rate();
                if servers.count > 0 {
                    schedule(&mut events, at + left, Event::Shared(servers.version));
                }
            }
        }
        if log.limits.last().is_none_or(|(_, limit)| *limit != door.limit()) {
            log.limits.push((at, door.limit()));
        }
        if let Some(timeout) = door.poll_timeout()
            && timeout.as_nanos() < waking
        {
            waking = timeout.as_nanos().max(nanos + 1);
            schedule(&mut events, waking as f64 / 1e9, Event::Wake);
        }
    }
    log
}
