//! Client-side adaptive throttling: refuses here what an overloaded back end would refuse there.

mod params;

#[cfg(test)]
mod tests;

use core::array;
use core::ops::RangeInclusive;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use model::{Criticality, Instant};

pub use params::ThrottleParams;

use crate::Rng;
use crate::sharded::Padded;
use crate::slots::{LIVE, STEPS, Slots};

/// Refused here on behalf of the back end: it was not sent, and says nothing about any endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Throttled;

const CLASSES: usize = Criticality::ALL.len();

/// What is counted of each class.
const SENT: usize = 0;
const REJECTED: usize = 1;
const ACCEPTED: usize = 2;
const KINDS: usize = 3;

/// The multiplier while everything that is sent is accepted; see [`Throttle`].
const RECOVERING: f64 = 3.0;

/// Slots that say whether it is. The one that has just begun still waits for its answers; fewer make the multiplier
/// follow chance.
const RECENT: RangeInclusive<u64> = 1..=3;

/// Refuses requests locally with a probability that settles where the back end sees little more than it can do.
///
/// The probability is the book's, `max(0, (requests − multiplier × accepts) / (requests + 1))`, by class over a sliding
/// window of starts (so calls that hang are seen), where requests refused here count too. It differs in this:
///
/// - **The multiplier rises from its set value to 3 as the share accepted of what was sent in the last three tenths of
///   the window rises from `1 / multiplier` to 1.** An overloaded back end that gets `multiplier` times its capacity accepts
///   `1 / multiplier`, so the rise changes nothing there; one that has recovered accepts everything, and each accept
///   then makes room for three requests. Without it a multiplier of 1.3 takes 111 s to regain
///   90 % after an outage; a multiplier of 3 throughout would send three times the capacity.
/// - **The probability is capped high, at 0.99.** With 0.9, which would make up for a low multiplier, the tenth
///   of refused classes that gets through adds up (2.1 × seen at 10 × in four classes), and 100 × overload sends 10 ×.
/// - **`requests_per_sec_min` of each class are never refused** for that class's own sake: a quiet service is not shed for a
///   few failures, and a recovery is noticed however few requests there are.
/// - **What was sent within `answer_within` and is not accepted yet counts neither way**, and an accept counts beside the
///   start that it answers. So no shape of traffic is throttled whose answers arrive in that time.
/// - **A class is refused at least as probably as every higher one**, because a back end that refuses a higher class has
///   no room for a lower one.
///
/// Promises, with the defaults, by simulation: traffic that is accepted within `answer_within` is never throttled. After 300 s
/// of total outage 90 % goodput is back within 30 s (22 s when answers take 5 ms, 30 s when they take 0.5 s; it took 60 s
/// and more when they took 1.5 s). At 2 to 100 × overload the back end sees at most 1.5 × its capacity, classes mixed or
/// not, and keeps at least nine tenths of its goodput, once a window has passed; until then, about 3 s pass before anything
/// is refused. Beyond 100 × what is spared by the cap exceeds its capacity.
///
/// Shared by all workers of the process. A request costs one addition on the worker's own cache lines and one load, an
/// accept one addition; each hundredth of the window one request sums the counters. Fails towards sending: what
/// other threads counted within the last hundredth of the window is not judged yet, and what is not counted is not
/// held against anybody.
///
/// Source: SRE book, ch. 21.
#[derive(Debug)]
pub struct Throttle {
    params: ThrottleParams,
    hot: Padded<Hot>,
    slots: Slots<{ CLASSES * KINDS }>,
    /// Time between two judgements.
    tick: core::time::Duration,
    /// Requests in the window that are sent whatever happens.
    floor: f64,
}

/// What every request reads and hardly any writes.
#[derive(Debug)]
struct Hot {
    /// By class: the probability of rejection, as the bits of an `f32`.
    rejection: [AtomicU32; CLASSES],
    judge_at: AtomicU64,
}

impl Throttle {
    /// A throttle that lets everything through, shared by `workers` workers.
    #[must_use]
    pub fn new(params: &ThrottleParams, workers: usize, now: Instant) -> Self {
        let window = params.window.get();
        let step = window / STEPS as u32;
        Self {
            hot: Padded(Hot {
                rejection: array::from_fn(|_| AtomicU32::new(0)),
                judge_at: AtomicU64::new(now.as_nanos()),
            }),
            slots: Slots::new(workers, window, now),
            tick: step / 10,
            floor: params.requests_per_sec_min * (window + step).as_secs_f64(),
            params: params.clone(),
        }
    }

    /// Counts a request, and says whether it may be sent. `shard` is the number of the calling worker.
    ///
    /// # Errors
    /// [`Throttled`] when the back end would most likely refuse it too.
    pub fn try_send(
        &self,
        shard: usize,
        class: Criticality,
        now: Instant,
        rng: &mut Rng,
    ) -> Result<(), Throttled> {
        if !self.params.enabled {
            return Ok(());
        }
        self.judge_if_due(now);
        let rejection = self.published(class);
        let rejected = rejection > 0.0 && rng.f32() < rejection;
        self.slots.count(shard, kind(class, if rejected { REJECTED } else { SENT }), now);
        if rejected { Err(Throttled) } else { Ok(()) }
    }

    /// The back end accepted a request that was sent at `started`, the `now` of its [`Throttle::try_send`]: it did the
    /// work, even if the answer is an application's error. Not called when it refused for overload, did not answer in
    /// time, or could not be reached.
    pub fn on_accept(&self, shard: usize, class: Criticality, started: Instant) {
        if self.params.enabled {
            self.slots.count(shard, kind(class, ACCEPTED), started);
        }
    }

    /// The present probability that a request of `class` is rejected.
    #[must_use]
    pub fn rejection(&self, class: Criticality, now: Instant) -> f64 {
        if self.params.enabled {
            self.judge_if_due(now);
        }
        f64::from(self.published(class))
    }

    fn published(&self, class: Criticality) -> f32 {
        f32::from_bits(self.hot.0.rejection[class.index()].load(Relaxed))
    }

    fn judge_if_due(&self, now: Instant) {
        if now.as_nanos() < self.hot.0.judge_at.load(Relaxed) {
            return;
        }
        // Whoever finds another thread at it goes on with the probability that stands.
        self.slots.slide(now, |_| {
            // A lower class is rejected at least as probably as every higher one.
            let mut rejection = 0.0f64;
            for (class, counts) in self.counts(now).iter().enumerate() {
                rejection = rejection.max(self.rejection_for(counts));
                self.hot.0.rejection[class].store((rejection as f32).to_bits(), Relaxed);
            }
            self.hot.0.judge_at.store(now.after(self.tick).as_nanos(), Relaxed);
        });
    }

    fn counts(&self, now: Instant) -> [Counts; CLASSES] {
        let patience = now.before(self.params.answer_within.get());
        let mut counts = [Counts::default(); CLASSES];
        for back in LIVE {
            let young = self.slots.end(back) > patience;
            for (counts, slot) in counts.iter_mut().zip(self.slots.slot(back).as_chunks::<KINDS>().0) {
                let [sent, rejected, accepted] = slot.map(f64::from);
                counts.requests += sent + rejected;
                counts.accepts += accepted;
                if young {
                    counts.pending += (sent - accepted).max(0.0);
                }
                if RECENT.contains(&back) {
                    counts.recent_sent += sent;
                    counts.recent_accepts += accepted;
                }
            }
        }
        counts
    }

    fn rejection_for(&self, counts: &Counts) -> f64 {
        // No more than leaves the floor alone.
        let spared = 1.0 - self.floor / counts.requests.max(self.floor).max(1.0);
        let requests = counts.requests - counts.pending;
        let k = self.multiplier(counts);
        let rejection = (requests - k * counts.accepts) / (requests + 1.0);
        rejection.min(self.params.rejection_max.get()).min(spared).max(0.0)
    }

    fn multiplier(&self, counts: &Counts) -> f64 {
        let k = self.params.multiplier.max(1.01);
        let accepted = counts.recent_accepts / counts.recent_sent.max(1.0);
        let beyond = ((accepted * k - 1.0) / (k - 1.0)).clamp(0.0, 1.0);
        k + (RECOVERING - k).max(0.0) * beyond
    }
}

/// What the window says of one class.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: f64,
    accepts: f64,
    /// Sent, not accepted, and too young to say that they never will be.
    pending: f64,
    recent_sent: f64,
    recent_accepts: f64,
}

fn kind(class: Criticality, what: usize) -> usize {
    class.index() * KINDS + what
}
