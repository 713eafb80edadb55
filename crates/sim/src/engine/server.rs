//! One endpoint of a service as it really is: what it works on, and what ails it.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use model::{Deadline, Instant};
use policy::Rng;

use super::arrivals::exponential;
use super::slab::Id;
use super::{Call, Way};
use crate::scenario::{Backend, Cache, Discipline, Distribution};

/// A request at a server.
pub(crate) struct Job {
    /// Whose attempt it is, and which.
    pub(crate) call: Id<Call>,
    pub(crate) number: u8,
    pub(crate) server: u32,
    pub(crate) way: Way,
    /// What the caller said is left.
    pub(crate) deadline: Deadline,
    /// Which attempt this is, counted from where the request came from.
    pub(crate) attempt: u32,
    pub(crate) arrived: Instant,
    pub(crate) stage: Stage,
    /// Nobody waits for the answer any more.
    pub(crate) abandoned: bool,
    /// The server's cache did not know the answer.
    pub(crate) missed: bool,
    /// What it has called so far, and how many of the last calls are not answered yet.
    pub(crate) called: u32,
    pub(crate) unanswered: u32,
}

/// How far a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It waits for a worker.
    Waiting,
    /// It is worked on.
    Working,
    /// It waits for what it calls.
    Calling,
}

/// A job being worked on; the one that is done first is the greatest.
struct Working {
    /// On the server's own clock, which stands still and slows down with it.
    done_at: f64,
    number: u64,
    job: Id<Job>,
}

impl Ord for Working {
    fn cmp(&self, other: &Self) -> Ordering {
        other.done_at.total_cmp(&self.done_at).then(other.number.cmp(&self.number))
    }
}

impl PartialOrd for Working {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Working {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Working {}

/// One endpoint as it really is.
///
/// Work is measured on a clock of its own: it runs at full speed when nothing ails the server, slower under a fault or
/// when more requests share its workers, and stands still in a pause. So no job has to be touched when that changes.
pub(crate) struct Server {
    pub(crate) service: u32,
    /// Faults that hold at the moment, by position.
    pub(crate) faults: Vec<u32>,
    /// Reasons to be down; it is up with 0.
    pub(crate) down: u32,
    /// Stands still because of its own regular pauses.
    pub(crate) pausing: bool,
    pub(crate) lame_duck: bool,
    /// It is being looked after: its queue is for later.
    pub(crate) in_hand: bool,
    /// Speed and workers under the faults that hold.
    pub(crate) speed: f64,
    pub(crate) workers: u32,
    discipline: Discipline,
    clock: f64,
    clock_at: Instant,
    agenda: BinaryHeap<Working>,
    begun: u64,
    queue: VecDeque<Id<Job>>,
    /// Jobs in the queue; it may hold names of others that are gone.
    pub(crate) queued: u32,
    /// Jobs being worked on.
    pub(crate) working: u32,
    /// Jobs that hold a worker: those, and those that wait for what they call if they block.
    pub(crate) busy: u32,
    /// Jobs on it, whatever their stage.
    pub(crate) jobs: u32,
    /// The planned end of the first job, and the version of that plan.
    planned: Instant,
    pub(crate) version: u32,
    /// Requests served since it started, for its cache.
    pub(crate) served: u64,
    pub(crate) latency: Option<Duration>,
    /// Requests and errors answered in the present second and the last one.
    seconds: [Second; 2],
}

#[derive(Clone, Copy, Default)]
struct Second {
    number: u64,
    answers: u32,
    errors: u32,
}

impl Server {
    pub(crate) fn new(service: u32, backend: &Backend) -> Self {
        let warm = backend.cache.as_ref().filter(|cache| cache.warm);
        Self {
            service,
            faults: Vec::new(),
            down: 0,
            pausing: false,
            lame_duck: false,
            in_hand: false,
            speed: 1.0,
            workers: backend.workers,
            discipline: backend.discipline,
            clock: 0.0,
            clock_at: Instant::ORIGIN,
            agenda: BinaryHeap::new(),
            begun: 0,
            queue: VecDeque::new(),
            queued: 0,
            working: 0,
            busy: 0,
            jobs: 0,
            planned: Instant::NEVER,
            version: 0,
            served: warm.map_or(0, |cache| u64::from(cache.warm_after) * 20),
            latency: None,
            seconds: [Second::default(); 2],
        }
    }

    /// How fast its clock runs.
    fn rate(&self) -> f64 {
        let shared = match self.discipline {
            Discipline::Sharing if self.working > self.workers => {
                f64::from(self.workers) / f64::from(self.working)
            }
            Discipline::Fifo | Discipline::Sharing => 1.0,
        };
        if self.pausing { 0.0 } else { self.speed * shared }
    }

    /// Moves its clock to `now`. To be called before anything changes that its rate depends on.
    pub(crate) fn advance(&mut self, now: Instant) {
        self.clock += now.since(self.clock_at).as_nanos() as f64 * self.rate();
        self.clock_at = now;
    }

    /// Whether another job can be worked on.
    pub(crate) fn has_worker(&self) -> bool {
        self.discipline == Discipline::Sharing || self.busy < self.workers
    }

    /// Whether it takes another job at all.
    pub(crate) fn has_place(&self, backend: &Backend) -> bool {
        match self.discipline {
            Discipline::Fifo => self.has_worker() || self.queued < backend.queue_max,
            Discipline::Sharing => self.busy < self.workers.saturating_add(backend.queue_max),
        }
    }

    /// Puts a job at the end of the queue.
    pub(crate) fn enqueue(&mut self, job: Id<Job>) {
        self.jobs += 1;
        self.queued += 1;
        self.queue.push_back(job);
    }

    /// The next name in the queue, if a worker is free.
    pub(crate) fn next_waiting(&mut self) -> Option<Id<Job>> {
        if self.has_worker() { self.queue.pop_front() } else { None }
    }

    /// Begins to work on a job that takes `work`. Its clock is at the present.
    pub(crate) fn begin(&mut self, job: Id<Job>, work: Duration) {
        self.busy += 1;
        self.working += 1;
        self.begun += 1;
        let done_at = self.clock + work.as_nanos() as f64;
        self.agenda.push(Working { done_at, number: self.begun, job });
    }

    /// The next job whose work is done by now, on its clock.
    pub(crate) fn done(&mut self) -> Option<Id<Job>> {
        // Half a nanosecond is what rounding to whole ones costs.
        let due = self.agenda.peek()?.done_at <= self.clock + 0.5;
        if due { self.agenda.pop().map(|working| working.job) } else { None }
    }

    /// When the first job will be done as things stand, if that is not what was planned already. Its clock is at the
    /// present.
    pub(crate) fn replan(&mut self) -> Option<Instant> {
        let rate = self.rate();
        let next = match self.agenda.peek() {
            Some(first) if rate > 0.0 => {
                let nanos = ((first.done_at - self.clock) / rate).max(0.0).ceil();
                self.clock_at.after(Duration::from_nanos(nanos as u64))
            }
            _ => Instant::NEVER,
        };
        if next == self.planned {
            return None;
        }
        self.planned = next;
        self.version = self.version.wrapping_add(1);
        (next != Instant::NEVER).then_some(next)
    }

    /// The planned end has come: another one is to be planned.
    pub(crate) fn on_planned(&mut self) {
        self.planned = Instant::NEVER;
    }

    /// Loses everything.
    pub(crate) fn die(&mut self) {
        self.version = self.version.wrapping_add(1);
        self.planned = Instant::NEVER;
        self.agenda.clear();
        self.queue.clear();
        (self.queued, self.working, self.busy, self.jobs) = (0, 0, 0, 0);
        (self.served, self.latency) = (0, None);
    }

    /// An answer has gone out, `latency` after its request came.
    pub(crate) fn on_answer(&mut self, now: Instant, latency: Duration, good: bool) {
        let second = now.as_nanos() / 1_000_000_000;
        if self.seconds[0].number != second {
            self.seconds = [Second { number: second, ..Second::default() }, self.seconds[0]];
        }
        self.seconds[0].answers += 1;
        if good {
            self.served += 1;
            self.latency = Some(self.latency.map_or(latency, |mean| (mean * 7 + latency) / 8));
        } else {
            self.seconds[0].errors += 1;
        }
    }

    /// What it tells of its load.
    pub(crate) fn report(&self, now: Instant) -> policy::Report {
        let second = now.as_nanos() / 1_000_000_000;
        let last = self.seconds.iter().find(|last| last.number + 1 == second).copied().unwrap_or_default();
        policy::Report {
            application_utilization: Some(f64::from(self.busy) / f64::from(self.workers.max(1))),
            rps_fractional: Some(f64::from(last.answers)),
            eps: Some(f64::from(last.errors)),
            requests_in_flight: Some(self.jobs),
            latency: Some(self.latency.unwrap_or_default()),
            ..policy::Report::default()
        }
    }
}

/// Whether a cache that served so many requests misses.
pub(crate) fn misses(cache: &Cache, served: u64, rng: &mut Rng) -> bool {
    let warmth = 1.0 - (-(served as f64) / f64::from(cache.warm_after.max(1))).exp();
    rng.f64() >= cache.hit_ratio_max.get() * warmth
}

/// How long a request takes when nothing slows it down.
pub(crate) fn draw(distribution: &Distribution, rng: &mut Rng) -> Duration {
    match distribution {
        Distribution::Constant(time) => time.get(),
        Distribution::Exponential { mean } => scaled(mean.get(), exponential(rng)),
        Distribution::LogNormal { median, p99 } => {
            // The 99th percentile lies 2.326 standard deviations above the median of the logarithms.
            let sigma = (p99.get().as_secs_f64() / median.get().as_secs_f64()).ln() / 2.326;
            scaled(median.get(), (sigma * normal(rng)).exp())
        }
        Distribution::Bimodal { fast, slow, slow_share } => {
            if rng.f64() < slow_share.get() {
                slow.get()
            } else {
                fast.get()
            }
        }
    }
}

/// `span × factor`, however large.
pub(crate) fn scaled(span: Duration, factor: f64) -> Duration {
    Duration::from_nanos((span.as_nanos() as f64 * factor) as u64)
}

/// A normally distributed number (Box and Muller).
fn normal(rng: &mut Rng) -> f64 {
    let radius = (2.0 * exponential(rng)).sqrt();
    radius * (rng.f64() * std::f64::consts::TAU).cos()
}
