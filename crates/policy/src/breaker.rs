//! Circuit breaker: fails at once while trying is useless.

mod params;
mod word;

#[cfg(test)]
mod tests;

use core::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
};
use core::time::Duration;

use model::{Instant, Verdict};
use serde::{Deserialize, Serialize};

pub use params::BreakerParams;

use crate::Rng;
use crate::backoff::{doubled, jittered};
use crate::sharded::Padded;
use crate::window::{CallWindow, Counts, Ended};
use word::Word;

/// Whether traffic flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Traffic flows and is counted.
    Closed,
    /// Calls are refused at once.
    Open,
    /// A few calls are let through to see whether it is over.
    HalfOpen,
}

impl State {
    /// The name used in metrics and on pages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What an operator says about a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Force {
    /// It decides by itself.
    #[default]
    Auto,
    /// It refuses every call.
    Open,
    /// It lets every call through and counts none.
    Closed,
}

/// How a call ended, as its breaker is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// It was answered as it should.
    Success,
    /// It failed.
    Failure,
    /// It says nothing about whether calling is useless: our own refusal, the caller went away, overload.
    Ignored,
}

impl From<Verdict> for CallEnd {
    /// That a callee is overloaded says that it works and can do no more: opening would take away what it still
    /// does. Throttling answers overload; here it counts only when it is slow.
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Success => Self::Success,
            Verdict::Failure => Self::Failure,
            Verdict::Overloaded | Verdict::Unknown => Self::Ignored,
        }
    }
}

/// Leave to make one call. Handed back to [`Breaker::on_end`] exactly once, from `Drop` where the call may be
/// cancelled.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub struct Permit {
    kind: Kind,
    /// The breaker's generation when it was given: a later one takes no notice of how the call ended.
    generation: u32,
    shard: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Counted in the window of a closed breaker.
    Counted,
    /// Lets a half-open breaker see whether it is over.
    Probe,
    /// Nobody counts it: the breaker is off or forced closed.
    Uncounted,
}

impl Permit {
    /// Whether the call decides if a half-open breaker closes.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.kind == Kind::Probe
    }
}

/// The breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// When it may be worth asking again; not a promise that the call is let through then.
    pub retry_after: Duration,
}

/// A breaker as operators see it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Snapshot {
    /// Its state; `force` may override it.
    pub state: State,
    /// What an operator said.
    pub force: Force,
    /// When it got into `state`.
    pub since: Instant,
    /// Calls in the window, those that hang included.
    pub calls: u64,
    /// Share of failed calls in the window; 0 without calls.
    pub failure_rate: f64,
    /// Share of slow and hanging calls in the window; 0 without calls.
    pub slow_rate: f64,
    /// Times that it opened by itself.
    pub opens: u64,
}

/// Stops calls to a callee that fails anyway, and finds out gently when that is over.
///
/// **Closed**, it counts calls over a sliding window and opens when at least `calls_min` were counted and the share
/// of failed, or of slow, calls reaches its threshold. With `slow_after`, a call unanswered for that long counts as
/// slow before it ends (so a callee that hangs is noticed), and so does one whose caller went away after waiting that
/// long. Without it nobody has said how long is too long: then the attempt's time-out says it, by ending the call as
/// a failure. **Open**, it refuses everything for a jittered time that doubles with every time it opens again.
/// **Half-open**, it lets at most `probes_max` calls through at once; `probes_to_close` successes close it, one
/// failed or slow probe opens it again. The doubling is taken back only once it has stayed closed for a whole window
/// with at least `calls_min` calls: a callee that answers three probes and breaks under the traffic that follows has
/// proved nothing.
///
/// Every change of state begins a new generation; how calls of an older one end is ignored. A probe whose permit is
/// never handed back cannot wedge it: for each window that passes with all probes out, one more is let through.
///
/// Shared by all workers of the process. While closed, a call costs two additions on the worker's own cache lines.
/// It opens at most `calls_min` bad calls or a hundredth of the window later than an exact count would, whichever
/// comes first. The number of probes at once is exact, whatever threads race. Fails towards letting calls through.
#[derive(Debug)]
pub struct Breaker {
    params: BreakerParams,
    hot: Padded<Hot>,
    /// The open time doubles this often.
    level: AtomicU32,
    since: AtomicU64,
    opens: AtomicU64,
    /// Somebody judges the window; others need not.
    judging: AtomicBool,
    /// The generation that the window counts for.
    counted_generation: AtomicU32,
    calls: CallWindow,
    /// Every so many bad calls of one worker the window is judged at once.
    stride: u64,
    tick: Duration,
}

/// What every call reads and hardly any writes.
#[derive(Debug)]
struct Hot {
    word: AtomicU64,
    force: AtomicU8,
    /// Open: when probing begins. Half-open: the last time that a probe was let through for lack of answers, or
    /// when probing began.
    until: AtomicU64,
    judge_at: AtomicU64,
}

impl Breaker {
    /// A closed breaker shared by `workers` workers.
    #[must_use]
    pub fn new(params: &BreakerParams, workers: usize, now: Instant) -> Self {
        let window = params.window.get();
        let calls = CallWindow::new(workers, window, now);
        Self {
            hot: Padded(Hot {
                word: AtomicU64::new(Word::closed(0).pack()),
                force: AtomicU8::new(params.force as u8),
                until: AtomicU64::new(0),
                judge_at: AtomicU64::new(0),
            }),
            level: AtomicU32::new(0),
            since: AtomicU64::new(now.as_nanos()),
            opens: AtomicU64::new(0),
            judging: AtomicBool::new(false),
            counted_generation: AtomicU32::new(0),
            stride: (u64::from(params.calls_min) / calls.shards() as u64).max(1),
            tick: window / 100,
            calls,
            params: params.clone(),
        }
    }

    /// Asks for leave to make a call. `shard` is the number of the calling worker.
    ///
    /// # Errors
    /// [`Refused`] while open, and while half-open with all probes out.
    pub fn try_enter(&self, shard: usize, now: Instant, rng: &mut Rng) -> Result<Permit, Refused> {
        let permit = |kind, generation| Permit { kind, generation, shard: shard as u32 };
        match self.forced() {
            Force::Open => return Err(Refused { retry_after: self.params.open_base.get() }),
            Force::Auto if self.params.enabled => {}
            Force::Auto | Force::Closed => return Ok(permit(Kind::Uncounted, 0)),
        }
        self.judge_if_due(now, rng);
        loop {
            let packed = self.hot.0.word.load(Acquire);
            let word = Word::unpack(packed);
            let until = Instant::from_nanos(self.hot.0.until.load(Acquire));
            let next = match word.state {
                State::Closed => {
                    self.calls.on_start(shard);
                    return Ok(permit(Kind::Counted, word.generation));
                }
                State::Open if now < until => return Err(Refused { retry_after: until.since(now) }),
                State::Open => {
                    // From here on `until` says when probing began.
                    self.hot.0.until.fetch_max(now.as_nanos(), AcqRel);
                    Word::half_open(word.generation.wrapping_add(1)).with_probe()
                }
                State::HalfOpen if u32::from(word.probes) < self.params.probes_max => word.with_probe(),
                State::HalfOpen => {
                    // An unanswered probe's place is given to another one.
                    let overdue = until.after(self.params.window.get());
                    let claim = |until: &AtomicU64, seen: Instant| {
                        until.compare_exchange(seen.as_nanos(), now.as_nanos(), AcqRel, Relaxed).is_ok()
                    };
                    if now >= overdue && claim(&self.hot.0.until, until) {
                        return Ok(permit(Kind::Probe, word.generation));
                    }
                    return Err(Refused { retry_after: overdue.since(now).min(self.params.open_base.get()) });
                }
            };
            if self.hot.0.word.compare_exchange(packed, next.pack(), AcqRel, Relaxed).is_ok() {
                if word.state == State::Open {
                    self.since.store(now.as_nanos(), Relaxed);
                }
                return Ok(permit(Kind::Probe, next.generation));
            }
        }
    }

    /// The call that `permit` was given for ended after `latency`.
    pub fn on_end(&self, permit: Permit, now: Instant, end: CallEnd, latency: Duration, rng: &mut Rng) {
        let slow = self.params.slow_after.is_some_and(|slow_after| latency >= slow_after.get());
        let ended =
            Ended { failed: end == CallEnd::Failure, slow, ignored: end == CallEnd::Ignored && !slow };
        match permit.kind {
            Kind::Counted => self.on_call_end(permit, now, ended, rng),
            Kind::Probe => self.on_probe_end(permit, now, ended, rng),
            Kind::Uncounted => {}
        }
    }

    fn on_call_end(&self, permit: Permit, now: Instant, ended: Ended, rng: &mut Rng) {
        self.judge_if_due(now, rng);
        if Word::unpack(self.hot.0.word.load(Relaxed)) != Word::closed(permit.generation) {
            return;
        }
        let bad = self.calls.on_end(permit.shard as usize, ended);
        if bad.is_some_and(|bad| bad % self.stride == 0) {
            self.judge(now, rng);
        }
    }

    fn on_probe_end(&self, permit: Permit, now: Instant, ended: Ended, rng: &mut Rng) {
        loop {
            let packed = self.hot.0.word.load(Acquire);
            let word = Word::unpack(packed);
            if word.state != State::HalfOpen || word.generation != permit.generation {
                return;
            }
            if ended.failed || ended.slow {
                if self.open(packed, now, rng) {
                    return;
                }
                continue;
            }
            let word = if ended.ignored { word.without_probe() } else { word.with_success() };
            let closes = u32::from(word.successes) >= self.params.probes_to_close;
            let next = if closes { Word::closed(word.generation.wrapping_add(1)) } else { word };
            if self.hot.0.word.compare_exchange(packed, next.pack(), AcqRel, Relaxed).is_ok() {
                if closes {
                    self.since.store(now.as_nanos(), Relaxed);
                    self.hot.0.judge_at.store(0, Relaxed);
                }
                return;
            }
        }
    }

    /// Opens it unless its state is no longer `packed`; answers whether it did.
    fn open(&self, packed: u64, now: Instant, rng: &mut Rng) -> bool {
        let level = self.level.load(Relaxed);
        let nominal = doubled(self.params.open_base.get(), level, self.params.open_max.get());
        // Set before the state is, so that whoever sees it open also sees until when.
        self.hot.0.until.store(now.after(jittered(nominal, 0.5, rng)).as_nanos(), Release);
        let next = Word::open(Word::unpack(packed).generation.wrapping_add(1)).pack();
        let opened = self.hot.0.word.compare_exchange(packed, next, AcqRel, Relaxed).is_ok();
        if opened {
            self.level.store(level.saturating_add(1), Relaxed);
            self.since.store(now.as_nanos(), Relaxed);
            self.opens.fetch_add(1, Relaxed);
        }
        opened
    }

    fn judge_if_due(&self, now: Instant, rng: &mut Rng) {
        if now.as_nanos() >= self.hot.0.judge_at.load(Relaxed) {
            self.judge(now, rng);
        }
    }

    /// Opens a closed breaker if its window says so. Whoever finds another thread at it goes on.
    fn judge(&self, now: Instant, rng: &mut Rng) {
        if self.judging.swap(true, Acquire) {
            return;
        }
        let packed = self.hot.0.word.load(Acquire);
        let word = Word::unpack(packed);
        if word.state == State::Closed {
            if self.counted_generation.swap(word.generation, Relaxed) != word.generation {
                self.calls.restart(now);
            }
            self.calls.advance(now, self.tick);
            let counts = self.counts(now);
            if counts.calls >= u64::from(self.params.calls_min) {
                if self.too_bad(counts) {
                    self.open(packed, now, rng);
                } else if now.since(self.since()) >= self.params.window.get() {
                    self.level.store(0, Relaxed);
                }
            }
        }
        self.hot.0.judge_at.store(now.after(self.tick).as_nanos(), Relaxed);
        self.judging.store(false, Release);
    }

    fn too_bad(&self, counts: Counts) -> bool {
        let (failure_rate, slow_rate) = rates(counts);
        failure_rate >= self.params.failure_rate.get() || slow_rate >= self.params.slow_rate.get()
    }

    fn counts(&self, now: Instant) -> Counts {
        self.calls.counts(now, self.params.slow_after.map(|slow_after| slow_after.get()))
    }

    /// Overrides it, or with [`Force::Auto`] lets it decide by itself again, beginning closed and without a memory.
    pub fn force(&self, force: Force, now: Instant) {
        let before = self.hot.0.force.swap(force as u8, Relaxed);
        if force == Force::Auto && before != Force::Auto as u8 {
            self.reset(now);
        }
    }

    /// Closes it and forgets what was counted. How calls end that are under way is ignored.
    pub fn reset(&self, now: Instant) {
        let close = |packed: u64| Some(Word::closed(Word::unpack(packed).generation.wrapping_add(1)).pack());
        // An update that is always wanted always succeeds.
        let _ = self.hot.0.word.fetch_update(AcqRel, Relaxed, close);
        self.level.store(0, Relaxed);
        self.since.store(now.as_nanos(), Relaxed);
        self.hot.0.judge_at.store(0, Relaxed);
    }

    /// What an operator said.
    #[must_use]
    pub fn forced(&self) -> Force {
        match self.hot.0.force.load(Relaxed) {
            force if force == Force::Open as u8 => Force::Open,
            force if force == Force::Closed as u8 => Force::Closed,
            _ => Force::Auto,
        }
    }

    /// Its state as callers meet it: what an operator said, otherwise its own. An open breaker whose time is over
    /// stays open until somebody asks to call.
    #[must_use]
    pub fn state(&self) -> State {
        match self.forced() {
            Force::Open => State::Open,
            Force::Closed => State::Closed,
            Force::Auto => Word::unpack(self.hot.0.word.load(Relaxed)).state,
        }
    }

    /// How it stands, for operators; approximate while threads race.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let word = Word::unpack(self.hot.0.word.load(Acquire));
        let counted = word == Word::closed(self.counted_generation.load(Relaxed));
        let counts = if counted { self.counts(now) } else { Counts::default() };
        let (failure_rate, slow_rate) = rates(counts);
        Snapshot {
            state: word.state,
            force: self.forced(),
            since: self.since(),
            calls: counts.calls,
            failure_rate,
            slow_rate,
            opens: self.opens.load(Relaxed),
        }
    }

    fn since(&self) -> Instant {
        Instant::from_nanos(self.since.load(Relaxed))
    }
}

/// The shares of failed and of slow calls.
fn rates(counts: Counts) -> (f64, f64) {
    let calls = counts.calls.max(1) as f64;
    ((counts.failures as f64 / calls).min(1.0), (counts.slow as f64 / calls).min(1.0))
}
