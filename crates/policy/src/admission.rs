//! Admission: who gets one of a service's places when there are fewer places than requests.

mod customers;
#[cfg(all(test, feature = "measure"))]
mod measured;
#[cfg(test)]
pub(crate) mod simulation;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use core::time::Duration;

use model::{Criticality, Deadline, Instant, Ratio};
use serde::{Deserialize, Serialize};

use crate::limit::{AdaptiveLimit, LimitParams};
use crate::queue::QueueParams;
use crate::sharded::{Padded, Sharded};
use customers::{Customers, Holds};

/// Who is let in to a service under load.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AdmissionParams {
    /// When false every request is let in, and nothing is learned.
    pub enabled: bool,
    /// The adaptive concurrency limit.
    pub limit: LimitParams,
    /// How much of the limit each class may use.
    pub shares: Shares,
    /// Those who wait for a place.
    pub queue: QueueParams,
    /// Whether a customer with more than its fair share is refused first when places run short.
    pub fair: bool,
    /// Utilisation of host, process or endpoints above which lower classes are cut, one after the other.
    pub utilisation_target: Ratio,
}

impl Default for AdmissionParams {
    fn default() -> Self {
        Self {
            enabled: true,
            limit: LimitParams::default(),
            shares: Shares::default(),
            queue: QueueParams::default(),
            fair: true,
            utilisation_target: Ratio::percent(90),
        }
    }
}

impl AdmissionParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = self.limit.check();
        wrong.extend(self.queue.check());
        let shares = self.shares.by_class();
        if shares.contains(&Ratio::ZERO) || shares.windows(2).any(|pair| pair[0] < pair[1]) {
            wrong.push(("shares", "must be above 0, and no class may have more than a higher one".into()));
        }
        if self.utilisation_target == Ratio::ZERO {
            wrong.push(("utilisation_target", "must be above 0, such as 0.9".into()));
        }
        wrong
    }
}

/// The share of the limit that each class may fill. What a class may not fill is kept for the ones above it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Shares {
    /// CRITICAL_PLUS.
    pub critical_plus: Ratio,
    /// CRITICAL.
    pub critical: Ratio,
    /// SHEDDABLE_PLUS.
    pub sheddable_plus: Ratio,
    /// SHEDDABLE.
    pub sheddable: Ratio,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            critical_plus: Ratio::ONE,
            critical: Ratio::percent(95),
            sheddable_plus: Ratio::percent(85),
            sheddable: Ratio::percent(75),
        }
    }
}

impl Shares {
    fn by_class(&self) -> [Ratio; CLASSES] {
        [self.critical_plus, self.critical, self.sheddable_plus, self.sheddable]
    }
}

const CLASSES: usize = Criticality::ALL.len();

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// How much the request matters.
    pub class: Criticality,
    /// A hash of the customer's name; 0 when unknown. Unknown customers are not told apart and never count as greedy.
    pub customer: u64,
    /// After it nobody wants the answer.
    pub deadline: Deadline,
}

/// A place. Handed back to [`Admission::leave`] exactly once, from `Drop` where the request may be cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Ticket {
    /// Where its customer is counted; beyond the table when it is not.
    customer: u16,
}

/// What a request is told that asks for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Entry {
    /// It has a place.
    Enter(Ticket),
    /// It is counted as waiting, until [`Admission::try_enter_waiting`] lets it in or [`Admission::give_up`].
    Wait,
    /// It is refused.
    Refuse(Shed),
}

/// Why a request was not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shed {
    /// The limit is reached, and nobody may wait.
    Limit,
    /// Its class has used up its share, and nobody may wait.
    Class,
    /// Its customer has more than its fair share while places are short.
    Customer,
    /// It could not be answered in time.
    Deadline,
    /// Too many wait who matter as much or more.
    QueueFull,
    /// It waited too long.
    QueueTimeout,
    /// The host or the endpoints are too busy for its class.
    Pressure,
}

impl Shed {
    /// Every reason.
    pub const ALL: [Shed; 7] = [
        Self::Limit,
        Self::Class,
        Self::Customer,
        Self::Deadline,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::Pressure,
    ];

    /// The name used in metrics, logs and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Class => "class",
            Self::Customer => "customer",
            Self::Deadline => "deadline",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::Pressure => "pressure",
        }
    }
}

/// How a request ended that had a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its answer's head came this long after it was sent upstream.
    Success(Duration),
    /// It timed out, or the service refused it for overload.
    Dropped,
    /// It says nothing about the service: the client left, or we refused it ourselves.
    Ignored,
}

/// From this share of what its class may use on, places are short: a customer above its fair share is refused.
const SHORT: f64 = 0.7;

/// A class is the reason why the limit binds when one in so many of the limit's places was refused to it.
const MANY: u32 = 8;

/// Places that are not worth counting by class and customer: below this share of the limit nobody can be in another's way.
const UNCOUNTED: f64 = 0.5;

/// How far utilisation must fall below its target before a class gets back what was cut.
const HYSTERESIS: f64 = 0.05;

/// Hands out the places of one service: an [`AdaptiveLimit`], divided by class and fairly among customers.
///
/// A class may fill the limit up to its share of it, so when places run short the lowest class is refused first, then
/// the next one. At most as many requests of the process as the limit says are let in, exactly, whatever threads race;
/// when the limit falls, those inside stay. Every worker keeps a few of the places that it was given
/// (at most a sixteenth of the limit together), so that far from the bound workers seldom meet on a cache line. A
/// place that another worker keeps is found when nothing else is left.
///
/// When a class and those above it hold seven tenths of its share, and all is taken that the class below may fill, a
/// customer that holds more of the class than the places divided by the number of its customers is refused, up to twice that
/// while places are free; but never one that holds a single place. Customers are hashed to a fixed table of counters; two
/// that share one are taken for one customer.
///
/// While a cut of the limit is tried on the class that fills it, higher classes and modest customers come in although
/// those inside are still too many, as long as they would fit into what is left of it by themselves.
///
/// Whoever was told to wait must get in or [give up](Self::give_up). Newcomers do not overtake those who wait in their
/// class or a higher one. Who is next is said by [`crate::queue::Queue`].
#[derive(Debug)]
pub struct Admission {
    /// Read by every request, written when the limit or the pressure changes.
    bars: Padded<Bars>,
    /// Places given out: in use, or kept by a worker.
    given: Padded<AtomicU32>,
    kept: Sharded<AtomicU32>,
    /// Those who wait: 16 bits for each class.
    waiting: Padded<AtomicU64>,
    customers: Customers,
    limit: AdaptiveLimit,
    /// Those kept out since the limit last changed, by class.
    kept_out: Sharded<[AtomicU32; CLASSES]>,
    settings: Settings,
}

#[derive(Debug, Default)]
struct Bars {
    /// Places that may be given out before each class is refused.
    bars: [AtomicU32; CLASSES],
    /// The same for higher classes and modest customers, while a cut is being tried on the others.
    spared: [AtomicU32; CLASSES],
    /// The highest class of which many are kept out. Higher ones are spared a cut that is only being tried.
    crowd: AtomicU32,
    /// Above so many places given out, classes and customers are counted.
    uncounted: AtomicU32,
    /// Places moved at a time between `given` and a worker; 0 near a small limit.
    batch: AtomicU32,
}

/// What [`Admission::reconfigure`] may change.
#[derive(Debug, Default)]
struct Settings {
    enabled: AtomicBool,
    fair: AtomicBool,
    queues: AtomicBool,
    /// `f64` bits.
    shares: [AtomicU64; CLASSES],
    /// `f64` bits.
    utilisation_target: AtomicU64,
    /// How much is cut, `f64` bits: 1 is all of SHEDDABLE, 2 all of SHEDDABLE_PLUS too, 3 all of CRITICAL too.
    cut: AtomicU64,
}

impl Admission {
    /// An admission shared by `workers` workers.
    #[must_use]
    pub fn new(params: &AdmissionParams, workers: usize, now: Instant) -> Self {
        let admission = Self {
            bars: Padded::default(),
            given: Padded::default(),
            kept: Sharded::new(workers),
            waiting: Padded::default(),
            customers: Customers::default(),
            limit: AdaptiveLimit::new(&params.limit, workers, now),
            kept_out: Sharded::new(workers),
            settings: Settings::default(),
        };
        admission.reconfigure(params);
        admission
    }

    /// Other parameters; what was learned stays, and so does everybody inside.
    pub fn reconfigure(&self, params: &AdmissionParams) {
        let settings = &self.settings;
        settings.enabled.store(params.enabled, Relaxed);
        settings.fair.store(params.fair, Relaxed);
        settings.queues.store(params.queue.waiting_max > 0, Relaxed);
        for (cell, share) in settings.shares.iter().zip(params.shares.by_class()) {
            cell.store(share.get().to_bits(), Relaxed);
        }
        settings.utilisation_target.store(params.utilisation_target.get().to_bits(), Relaxed);
        self.limit.reconfigure(&params.limit);
        self.raise_bars();
    }

    /// Asks for a place. `shard` is the number of the calling worker.
    pub fn try_enter(&self, shard: usize, who: &Who, now: Instant) -> Entry {
        let class = who.class.index();
        if !waits_up_to(self.waiting.0.load(SeqCst), class) {
            match self.take(shard, who, now) {
                Ok(ticket) => return Entry::Enter(ticket),
                Err(Shed::Limit | Shed::Class) if self.settings.queues.load(Relaxed) => {}
                Err(shed) => return Entry::Refuse(shed),
            }
        } else if self.bar(class) == 0 {
            return Entry::Refuse(Shed::Pressure);
        } else {
            self.keep_out(shard, class, now);
        }
        // Only those who would have to wait are asked: the base latency is a mean over all that the service does, and
        // a quick request with a short deadline may well be answered in time when it goes in at once.
        if who.deadline.left(now) <= self.limit.base_latency() && who.deadline != Deadline::NONE {
            return Entry::Refuse(Shed::Deadline);
        }
        let Ok(before) = self.waiting.0.fetch_update(SeqCst, Relaxed, |waiting| wait(waiting, class)) else {
            return Entry::Refuse(Shed::QueueFull);
        };
        // Whoever left before we were counted has woken nobody on our behalf: look once more.
        if !waits_up_to(before, class)
            && let Some(ticket) = self.try_enter_waiting(shard, who, now)
        {
            return Entry::Enter(ticket);
        }
        Entry::Wait
    }

    /// Asks again on behalf of a request that was told to wait; when it gets in, it no longer waits. Whoever got in
    /// wakes the next one, in case that more than one place is free.
    #[must_use]
    pub fn try_enter_waiting(&self, shard: usize, who: &Who, now: Instant) -> Option<Ticket> {
        let ticket = self.take(shard, who, now).ok()?;
        self.give_up(who);
        Some(ticket)
    }

    /// A request that was told to wait goes away without a place.
    pub fn give_up(&self, who: &Who) {
        self.waiting.0.fetch_sub(one(who.class.index()), SeqCst);
    }

    /// A request gives its place back. Answers whether somebody waits and should be woken.
    #[must_use = "somebody may be waiting for the place"]
    pub fn leave(&self, shard: usize, ticket: Ticket, now: Instant, end: End) -> bool {
        self.customers.leave(ticket.customer);
        let waits = self.waiting.0.load(SeqCst) > 0;
        let batch = self.bars.0.batch.load(Relaxed);
        let kept = self.kept.get(shard);
        if batch == 0 || waits {
            let rest = kept.swap(0, SeqCst);
            self.given.0.fetch_sub(rest + 1, SeqCst);
        } else if kept.fetch_add(1, SeqCst) + 1 > 2 * batch
            && kept.fetch_update(SeqCst, Relaxed, |kept| kept.checked_sub(batch)).is_ok()
        {
            self.given.0.fetch_sub(batch, SeqCst);
        }
        let changed = self.settings.enabled.load(Relaxed)
            && match end {
                End::Success(latency) => self.limit.on_answer(shard, now, latency, || self.active()),
                End::Dropped => self.limit.on_dropped(shard, now, || self.active()),
                End::Ignored => false,
            };
        if changed {
            self.find_crowd();
            self.raise_bars();
        }
        self.waiting.0.load(SeqCst) > 0
    }

    /// How utilised host, process and endpoints are, 1 = all there is: `soft` by what only those who may wait should
    /// be cut for, such as CPU time, and `hard` by what CRITICAL must be cut for as well, such as memory. To be called at
    /// regular times, some ten times a second: each call moves the bar by what the utilisation exceeds its target, and
    /// takes back a tenth of a class once it is well below. Lower classes are cut first; CRITICAL_PLUS never is.
    pub fn set_pressure(&self, soft: f64, hard: f64) {
        let target = f64::from_bits(self.settings.utilisation_target.load(Relaxed));
        let cut = f64::from_bits(self.settings.cut.load(Relaxed));
        let most = (CLASSES - if hard > target - HYSTERESIS { 1 } else { 2 }) as f64;
        let step = match soft.max(hard) - target {
            // What only `hard` may cut is given back while it is well below.
            _ if cut > most => -0.1,
            above if above > 0.0 => (above / target).min(0.5).min(most - cut),
            above if above < -HYSTERESIS => -0.1,
            _ => 0.0,
        };
        let cut = (cut + step).clamp(0.0, (CLASSES - 1) as f64);
        if self.settings.cut.swap(cut.to_bits(), Relaxed) != cut.to_bits() {
            self.raise_bars();
        }
    }

    /// Requests that may be under way.
    #[must_use]
    pub fn limit(&self) -> u32 {
        self.limit.get()
    }

    /// Requests under way. Approximate while threads race.
    #[must_use]
    pub fn active(&self) -> u32 {
        let kept: u32 = self.kept.iter().map(|kept| kept.load(SeqCst)).sum();
        self.given.0.load(SeqCst).saturating_sub(kept)
    }

    /// Requests waiting for a place.
    #[must_use]
    pub fn waiting(&self) -> u32 {
        let waiting = self.waiting.0.load(Relaxed);
        (0..CLASSES).map(|class| (waiting >> (16 * class)) as u32 & 0xffff).sum()
    }

    /// What an answer typically takes at present; zero while unknown.
    #[must_use]
    pub fn expected_latency(&self) -> Duration {
        self.limit.latency()
    }

    /// What an answer typically takes when nobody queues; zero while unknown.
    #[must_use]
    pub fn base_latency(&self) -> Duration {
        self.limit.base_latency()
    }

    fn bar(&self, class: usize) -> u32 {
        self.bars.0.bars[class].load(Relaxed)
    }

    fn keep_out(&self, shard: usize, class: usize, now: Instant) {
        self.kept_out.get(shard)[class].fetch_add(1, Relaxed);
        if self.limit.on_kept_out(shard, now) {
            self.raise_bars();
        }
    }

    /// Who is the reason why the limit binds. A few who are kept out by chance are none.
    fn find_crowd(&self) {
        let many = self.limit.get() / MANY + 1;
        let crowd = (0..CLASSES).find(|class| {
            self.kept_out.iter().map(|kept_out| kept_out[*class].swap(0, Relaxed)).sum::<u32>() >= many
        });
        for kept_out in self.kept_out.iter().flatten() {
            kept_out.store(0, Relaxed);
        }
        self.bars.0.crowd.store(crowd.unwrap_or(0) as u32, Relaxed);
    }

    /// Computes the bars anew. Threads that do so at once end with the same bars, or with those of a moment ago.
    fn raise_bars(&self) {
        let (limit, spared) = match self.settings.enabled.load(Relaxed) {
            true => (self.limit.get(), self.limit.spared()),
            false => (u32::MAX / 2, u32::MAX / 2),
        };
        let cut = f64::from_bits(self.settings.cut.load(Relaxed));
        let bars = &self.bars.0;
        for (class, share) in self.settings.shares.iter().enumerate() {
            let left = match CLASSES - 1 - class {
                _ if class == 0 => 1.0,
                below => 1.0 - (cut - below as f64).clamp(0.0, 1.0),
            };
            let part = f64::from_bits(share.load(Relaxed)) * left;
            let places = |limit: u32| if left > 0.0 { ((f64::from(limit) * part) as u32).max(1) } else { 0 };
            bars.bars[class].store(places(limit), Relaxed);
            bars.spared[class].store(places(spared), Relaxed);
        }
        bars.uncounted.store((f64::from(limit) * UNCOUNTED) as u32, Relaxed);
        bars.batch.store((limit / (32 * self.kept.len() as u32)).min(64), Relaxed);
    }

    fn take(&self, shard: usize, who: &Who, now: Instant) -> Result<Ticket, Shed> {
        let class = who.class.index();
        let mut bar = self.bar(class);
        let given = self.given.0.load(SeqCst);
        let counted = given > self.bars.0.uncounted.load(Relaxed);
        if counted {
            let crowd = self.bars.0.crowd.load(Relaxed) as usize;
            let spared = self.bars.0.spared[class].load(Relaxed);
            let held = |classes: Range<usize>| classes.map(|class| self.customers.held(class)).sum::<u32>();
            let (above, own, lower) = (held(0..class), held(class..class + 1), held(class + 1..CLASSES));
            let full = bar;
            let short = |held| f64::from(held) >= SHORT * f64::from(full);
            // Fair within a class, not between classes: while a lower one may come in, or holds the places, nobody above it
            // has too much. Where the class itself is the reason why the limit binds, those below are kept out already.
            let below = match self.bars.0.bars.get(class + 1) {
                Some(bar) if class == 0 || class != crowd => bar.load(Relaxed),
                _ => 0,
            };
            let asks = who.customer != 0 && given >= below && short(given.saturating_sub(lower));
            if class < crowd {
                // While a cut is tried on the crowd, those below drain; no more of the higher classes than the cut leaves.
                bar = if above + own < full { spared } else { full };
            }
            if asks && self.settings.fair.load(Relaxed) {
                let free = (1.0 - f64::from(given) / f64::from(full)) / (1.0 - SHORT);
                let places = full.saturating_sub(above);
                match self.customers.holds(class, who.customer, places, own, free.clamp(0.0, 1.0)) {
                    Holds::TooMuch => {
                        self.keep_out(shard, class, now);
                        return Err(Shed::Customer);
                    }
                    Holds::FairShare if class == crowd => bar = spared,
                    Holds::FairShare | Holds::Between => {}
                }
            }
        }
        if self.take_own(shard, given, bar) || self.take_any(bar) {
            let customer =
                if counted { self.customers.enter(class, who.customer) } else { Customers::UNCOUNTED };
            return Ok(Ticket { customer });
        }
        if bar == 0 {
            return Err(Shed::Pressure);
        }
        self.keep_out(shard, class, now);
        Err(if given < self.bar(0) { Shed::Class } else { Shed::Limit })
    }

    /// One of the worker's own places, after fetching a batch of them if need be.
    fn take_own(&self, shard: usize, given: u32, bar: u32) -> bool {
        let own = self.kept.get(shard);
        if given <= bar && take_from(own) {
            return true;
        }
        for batch in [self.bars.0.batch.load(Relaxed), 1] {
            let give = |given: u32| given.checked_add(batch).filter(|given| batch > 0 && *given <= bar);
            if self.given.0.fetch_update(SeqCst, Relaxed, give).is_ok() {
                own.fetch_add(batch - 1, SeqCst);
                return true;
            }
        }
        false
    }

    /// A place that some worker keeps, if fewer than `bar` are in use.
    fn take_any(&self, bar: u32) -> bool {
        // Also where workers keep none any more: a limit that has just come down finds what they kept before.
        self.active() < bar && self.kept.iter().any(take_from)
    }
}

/// Whether somebody waits in `class` or a higher one.
fn waits_up_to(waiting: u64, class: usize) -> bool {
    waiting << (16 * (CLASSES - 1 - class)) > 0
}

fn one(class: usize) -> u64 {
    1 << (16 * class)
}

/// One more who waits in `class`.
fn wait(waiting: u64, class: usize) -> Option<u64> {
    ((waiting >> (16 * class)) & 0xffff < 0xffff).then(|| waiting + one(class))
}

fn take_from(places: &AtomicU32) -> bool {
    places.load(SeqCst) > 0 && places.fetch_update(SeqCst, Relaxed, |free| free.checked_sub(1)).is_ok()
}
