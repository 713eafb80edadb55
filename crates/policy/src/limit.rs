//! Adaptive concurrency limit: as many requests as a service can work on, found by watching it.

mod law;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use core::time::Duration;

use model::{Instant, Span};
use serde::{Deserialize, Serialize};

use crate::backoff::nanos;
use crate::sharded::{Padded, Sharded};
use law::{Guards, Law, Window};

/// Between which numbers the limit is sought. They are guards, not settings: the limit finds itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LimitParams {
    /// Requests under way that are always allowed.
    pub min: u32,
    /// Requests under way that are never exceeded.
    pub max: u32,
    /// Requests under way that are allowed at first; absent: 100, or what `min` and `max` leave of it.
    pub initial: Option<u32>,
    /// While a typical answer takes less than this, the limit is not cut for its latency, and grows when it binds: a
    /// delay that nobody notices is no reason to refuse anybody.
    pub slack: Span,
}

impl Default for LimitParams {
    fn default() -> Self {
        Self { min: 2, max: 10_000, initial: None, slack: Span::from_millis(50) }
    }
}

/// As many come at once to a service that is not worth protecting yet.
const INITIAL: u32 = 100;

/// More places than any process has connections.
const LIMIT_MAX: u32 = 1 << 24;

impl LimitParams {
    /// The limit of a service of which nothing is known.
    #[must_use]
    pub fn first(&self) -> u32 {
        let min = self.min.max(1);
        self.initial.unwrap_or(INITIAL).clamp(min, self.max.max(min))
    }

    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.min == 0 {
            wrong.push(("min", "must be at least 1: with 0 the limit could close for good".into()));
        }
        if !(self.min..=LIMIT_MAX).contains(&self.max) {
            wrong
                .push(("max", alloc::format!("must be at least min and at most {LIMIT_MAX}, such as 10000")));
        }
        if self.initial.is_some_and(|initial| !(self.min..=self.max).contains(&initial)) {
            wrong.push(("initial", "must lie between min and max".into()));
        }
        wrong
    }
}

/// What one worker saw since the window began.
#[derive(Debug, Default)]
struct Seen {
    answered: AtomicU32,
    dropped: AtomicU32,
    kept_out: AtomicU32,
    /// Sum of [`law::log`] of the latencies.
    logs: AtomicU64,
    /// Sum of the latencies, in nanoseconds.
    nanos: AtomicU64,
}

/// The same over all workers.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    answered: u64,
    dropped: u64,
    kept_out: u64,
    logs: u64,
    nanos: u64,
}

/// Finds the concurrency at which a service gives what it can without making its callers wait for one another.
///
/// While a typical answer takes less than the slack, the limit is not cut for latency, and grows while it binds until
/// answers take half of the slack. Above the slack, while it binds, it is cut to see what happens: by half, or where calm
/// times have shown what answers take, to one and a half times the places that this rate needs by Little's law, but at most
/// by three quarters at once. If answers come as often as before, those kept out would only have queued inside the
/// service, and it is cut on until answers take less than twice the base latency. If not, the places were needed: what answers
/// then take is the service's *base* latency, and by Little's law the rate that there was needs so many places as this
/// one does, in proportion; the limit becomes one and a half times that. When it binds and answers take no longer than the
/// base, it doubles, and goes on while the rate rises or the latency does not. In between it stays, until the latency changes.
/// So a service that slows down for its own reasons keeps its places, because cutting them would cost answers; and one
/// that is flooded before anything was learned finds its base too.
///
/// While it binds and answers are known to be quick it doubles ten times a second, and while there are none at all once a
/// second: nothing speaks for refusing anybody. While it does not bind, it comes down to four times the most that were lately
/// under way, but not below 100, so that a flood meets it soon and a burst does not.
///
/// Bounds: between `min` and `max`, and one step at most doubles or halves it while it binds. It moves only on evidence:
/// without enough samples nothing changes, and little traffic cuts it no further than said. The latency of what was
/// dropped (time-out, refusal for overload) is never a sample; while more are dropped than answered the limit falls.
/// Typical latency is the mean of logarithms, because a mean of heavy-tailed latencies says little. Fails
/// towards letting requests in: nothing is cut before a window of samples shows why. What was compared is in `docs/adr/0007-adaptive-limit.md`.
///
/// Shared by all workers of the process: a sample costs three additions on the worker's own cache lines.
///
/// Source: Little's law; BBR (Cardwell et al. 2016) for seeking rate and base latency apart; Netflix
/// concurrency-limits (`Gradient2Limit`) for the gradient.
#[derive(Debug)]
pub struct AdaptiveLimit {
    limit: Padded<Current>,
    seen: Sharded<Seen>,
    /// Somebody judges the window; others need not.
    judging: AtomicBool,
    law: law::Cell,
    min: AtomicU32,
    max: AtomicU32,
    /// Nanoseconds.
    slack: AtomicU64,
}

/// What every request reads and hardly any writes.
#[derive(Debug, Default)]
struct Current {
    limit: AtomicU32,
    spared: AtomicU32,
    /// Most requests seen under way since the window began.
    peak: AtomicU32,
    /// Samples count from here on: what ends before was sent under another limit.
    begin: AtomicU64,
    judge_at: AtomicU64,
    /// It does not open up before.
    open_at: AtomicU64,
    /// When somebody was first kept out while nothing was answered; 0 when there are answers.
    blind_since: AtomicU64,
    latency: AtomicU64,
    base: AtomicU64,
}

impl AdaptiveLimit {
    /// A limit shared by `workers` workers that has seen nothing at `now`.
    #[must_use]
    pub fn new(params: &LimitParams, workers: usize, now: Instant) -> Self {
        let initial = params.first();
        let limit = Self {
            limit: Padded::default(),
            seen: Sharded::new(workers),
            judging: AtomicBool::new(false),
            law: law::Cell::new(&Law::new(initial)),
            min: AtomicU32::new(params.min),
            max: AtomicU32::new(params.max),
            slack: AtomicU64::new(0),
        };
        limit.reconfigure(params);
        let current = &limit.limit.0;
        current.limit.store(initial, Relaxed);
        current.begin.store(now.as_nanos(), Relaxed);
        current.judge_at.store(now.as_nanos(), Relaxed);
        limit
    }

    /// Requests that may be under way.
    #[must_use]
    pub fn get(&self) -> u32 {
        self.limit.0.limit.load(Relaxed)
    }

    /// Requests that may be under way of those who are not the reason why the limit binds. More than [`get`](Self::get)
    /// while a cut is being tried: what is tried on the crowd need not hurt the others.
    pub(crate) fn spared(&self) -> u32 {
        self.limit.0.spared.load(Relaxed).clamp(self.get(), self.max.load(Relaxed).max(self.get()))
    }

    /// What an answer typically takes at present; zero while unknown.
    #[must_use]
    pub fn latency(&self) -> Duration {
        Duration::from_nanos(self.limit.0.latency.load(Relaxed))
    }

    /// What an answer typically takes when nobody queues; zero while unknown.
    #[must_use]
    pub fn base_latency(&self) -> Duration {
        Duration::from_nanos(self.limit.0.base.load(Relaxed))
    }

    /// Other guards; what was learned stays.
    pub fn reconfigure(&self, params: &LimitParams) {
        let (min, max) = (params.min.max(1), params.max.max(params.min).max(1));
        self.min.store(min, Relaxed);
        self.max.store(max, Relaxed);
        self.slack.store(nanos(params.slack.get()), Relaxed);
        let limit = self.get();
        self.limit.0.limit.store(limit.clamp(min, max), Relaxed);
    }

    fn guards(&self) -> Guards {
        Guards {
            min: f64::from(self.min.load(Relaxed)),
            max: f64::from(self.max.load(Relaxed)),
            slack: self.slack.load(Relaxed) as f64,
        }
    }

    /// A request had to wait, or was refused, because of the limit: without this, the limit does not grow. Answers
    /// whether the limit changed.
    pub fn on_kept_out(&self, shard: usize, now: Instant) -> bool {
        self.seen.get(shard).kept_out.fetch_add(1, Relaxed);
        let (current, now) = (&self.limit.0, now.as_nanos());
        if now < current.open_at.load(Relaxed) || self.judging.swap(true, Acquire) {
            return false;
        }
        current.open_at.store(now.saturating_add(law::OPENS_EVERY), Relaxed);
        let Sums { answered, dropped, logs, .. } = self.sums();
        let latency = if answered == 0 { 0.0 } else { law::exp(logs as f64 / answered as f64) };
        let mut law = self.law.load();
        // Many at once make the first answer late: that is waited for, but not for ever.
        let blind = answered == 0;
        let since = current.blind_since.load(Relaxed);
        let waits = blind && (since == 0 || now.saturating_sub(since) < law::BLIND_FOR);
        if !(waits && since > 0) {
            current.blind_since.store(if blind { now } else { 0 }, Relaxed);
        }
        // Of those who began together the quickest end first: a few answers say nothing.
        let few = !blind && answered < law::SAMPLES_UP as u64;
        let opened =
            dropped == 0 && !waits && !few && law.open_up(latency, &self.guards()) && self.publish(&law);
        self.judging.store(false, Release);
        opened
    }

    /// A request was answered `latency` after it was sent. `active` says how many are under way when asked. Answers
    /// whether the limit changed.
    pub fn on_answer(
        &self,
        shard: usize,
        now: Instant,
        latency: Duration,
        active: impl FnOnce() -> u32,
    ) -> bool {
        self.on_end(shard, now, Some(nanos(latency)), active)
    }

    /// A request timed out or was refused by the service for overload. Answers whether the limit changed.
    pub fn on_dropped(&self, shard: usize, now: Instant, active: impl FnOnce() -> u32) -> bool {
        self.on_end(shard, now, None, active)
    }

    fn on_end(&self, shard: usize, now: Instant, latency: Option<u64>, active: impl FnOnce() -> u32) -> bool {
        let current = &self.limit.0;
        let now = now.as_nanos();
        if now < current.begin.load(Relaxed) {
            return false;
        }
        let seen = self.seen.get(shard);
        match latency {
            Some(latency) => {
                seen.logs.fetch_add(law::log(latency), Relaxed);
                seen.nanos.fetch_add(latency, Relaxed);
                seen.answered.fetch_add(1, Relaxed);
            }
            None => {
                seen.dropped.fetch_add(1, Relaxed);
            }
        }
        now >= current.judge_at.load(Relaxed) && !self.judging.swap(true, Acquire) && {
            let changed = self.judge(now, active());
            self.judging.store(false, Release);
            changed
        }
    }

    /// What all workers saw since the window began.
    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for seen in self.seen.iter() {
            sums.answered += u64::from(seen.answered.load(Relaxed));
            sums.dropped += u64::from(seen.dropped.load(Relaxed));
            sums.kept_out += u64::from(seen.kept_out.load(Relaxed));
            sums.logs += seen.logs.load(Relaxed);
            sums.nanos = sums.nanos.saturating_add(seen.nanos.load(Relaxed));
        }
        sums
    }

    /// Answers whether a limit changed.
    fn publish(&self, law: &Law) -> bool {
        let current = &self.limit.0;
        self.law.store(law);
        current.latency.store(law.latency() as u64, Relaxed);
        current.base.store(law.base() as u64, Relaxed);
        let (limit, spared) = (law.limit(), law.spared());
        let spares = current.spared.swap(spared, Relaxed) != spared;
        current.limit.swap(limit, Relaxed) != limit || spares
    }

    /// Ends the window when it holds enough.
    fn judge(&self, now: u64, active: u32) -> bool {
        let current = &self.limit.0;
        let Sums { answered, dropped, kept_out, logs, nanos } = self.sums();
        let lasted = now.saturating_sub(current.begin.load(Relaxed));
        let peak = current.peak.fetch_max(active, Relaxed).max(active);
        let window = Window { answered, dropped, logs, nanos, kept_out, active, peak, lasted };
        let mut law = self.law.load();
        let (next, changed) = match law.verdict(&window) {
            law::Verdict::Early(wait) => {
                current.judge_at.store(now.saturating_add(wait), Relaxed);
                return false;
            }
            law::Verdict::Stale => (now, false),
            law::Verdict::Draining => {
                let wait = law.drain();
                (now.saturating_add(wait), self.publish(&law))
            }
            law::Verdict::Enough => {
                let settle = law.step(&window, &self.guards());
                (now.saturating_add(settle), self.publish(&law))
            }
        };
        for seen in self.seen.iter() {
            seen.answered.store(0, Relaxed);
            seen.dropped.store(0, Relaxed);
            seen.kept_out.store(0, Relaxed);
            seen.logs.store(0, Relaxed);
            seen.nanos.store(0, Relaxed);
        }
        current.peak.store(active, Relaxed);
        current.begin.store(next, Relaxed);
        current.judge_at.store(next, Relaxed);
        changed
    }
}
