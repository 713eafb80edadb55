//! The line of those who wait for a place.

mod line;
#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use model::{Criticality, Instant, Ratio, Span};
use serde::{Deserialize, Serialize};

use crate::admission::{Shed, Who};
use crate::mix;
use line::Lines;

/// How many may wait for a place, and for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct QueueParams {
    /// Requests that may wait at once; 0 means that nobody waits.
    pub waiting_max: u32,
    /// Requests that may wait at once, as a share of the limit; but always a few, and as many as do not wait long.
    pub waiting_share: Ratio,
    /// A wait that is acceptable for longer than a burst, and the longest one under pressure. When absent, a quarter
    /// of what an answer takes when nobody queues, but not below 5ms.
    pub target: Option<Span>,
    /// The longest wait when there is no pressure.
    pub wait_max: Span,
}

impl Default for QueueParams {
    fn default() -> Self {
        Self {
            waiting_max: 1_000,
            waiting_share: Ratio::percent(50),
            target: None,
            wait_max: Span::from_millis(100),
        }
    }
}

/// The queue's memory is taken at once; this many take some megabytes.
const WAITING_MAX: u32 = 60_000;

impl QueueParams {
    /// What is senseless, field by field.
    #[must_use]
    pub fn check(&self) -> Vec<(&'static str, String)> {
        let mut wrong = Vec::new();
        if self.waiting_max > WAITING_MAX {
            wrong.push(("waiting_max", alloc::format!("must be at most {WAITING_MAX}, such as 1000")));
        }
        if self.target.is_some_and(Span::is_zero) {
            wrong.push(("target", "must be longer than 0, or absent".into()));
        }
        if self.wait_max.is_zero() {
            wrong.push(("wait_max", "must be longer than 0; waiting_max: 0 lets nobody wait".into()));
        }
        wrong
    }
}

/// Somebody who waits, and what to do when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter<T> {
    /// Who waits.
    pub who: Who,
    /// The caller's.
    pub value: T,
}

/// Names a waiter in its queue, never again used for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id {
    slot: u32,
    generation: u32,
}

/// A waiter that lost its place in the line to a more important or less greedy one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Evicted<T>(pub Waiter<T>);

/// The line is full of requests that matter as much or more: the waiter is handed back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full<T>(pub Waiter<T>);

/// Samples of the line that are looked at for somebody to evict.
const CANDIDATES: usize = 16;

/// Places to wait that a small limit has too.
const WAITING_MIN: u32 = 4;

/// A wait that is not worth a refusal: no target is shorter, and as many may wait as are served meanwhile.
const SHORT: Duration = Duration::from_millis(5);

/// An interval is this many targets: long enough for a burst to drain.
const INTERVAL_TARGETS: u32 = 5;

const CLASSES: usize = Criticality::ALL.len();

/// Counters of waiters by customer.
const CUSTOMERS: usize = 256;

/// Who waits for a place of one service, and who is next.
///
/// The highest class is served first, always. Within a class the longest wait is served first while waits are short.
/// Once somebody of a class has been waiting for longer than the target throughout an interval (five targets), the class
/// is *under pressure*: its line will not drain by itself. From then on its newest is served first and nobody of it waits
/// longer than the target: some are answered at once and the others told at once, where a fair line would make all of
/// them late. Pressure ends when nobody of the class waits.
///
/// When the line is full, a waiter of the lowest class makes room for one of a higher class; within a class, one of
/// a customer that has more waiting makes room. Everybody pushed comes out exactly once. Nobody is served who could
/// not be answered before its deadline given the latency that the caller expects; fails towards refusing them at once.
///
/// All memory is taken by [`Queue::new`].
///
/// Source: Nichols and Jacobson, "Controlling Queue Delay" (2012); Maurer, "Fail at Scale" (2015).
#[derive(Debug)]
pub struct Queue<T> {
    lines: Lines<T>,
    /// Waiters by hash of customer.
    customers: [u16; CUSTOMERS],
    params: QueueParams,
    /// No later than the first deadline of those who wait.
    deadline: Instant,
    /// By class: a higher one does not pay for those below it.
    pressure: [bool; CLASSES],
    /// When a class was last seen with nobody waiting, or nobody longer than the target.
    calm: [Instant; CLASSES],
}

impl<T> Queue<T> {
    /// An empty line.
    #[must_use]
    pub fn new(params: &QueueParams) -> Self {
        Self {
            lines: Lines::new(params.waiting_max.min(WAITING_MAX)),
            customers: [0; CUSTOMERS],
            params: params.clone(),
            deadline: Instant::NEVER,
            pressure: [false; CLASSES],
            calm: [Instant::ORIGIN; CLASSES],
        }
    }

    /// Those who wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.len() == 0
    }

    /// Whether the newest is served first in some class.
    #[must_use]
    pub fn under_pressure(&self) -> bool {
        self.pressure.contains(&true)
    }

    /// Somebody joins the line, which may hold at most a share of `limit`, or as many as are served within
    /// 5 ms when an answer takes `latency` and `limit` are under way. Somebody less important or more greedy
    /// may have to leave it.
    ///
    /// # Errors
    /// [`Full`] when there is nobody to make room.
    pub fn push(
        &mut self,
        now: Instant,
        limit: u32,
        latency: Duration,
        waiter: Waiter<T>,
    ) -> Result<(Id, Option<Evicted<T>>), Full<T>> {
        let quick = SHORT.as_secs_f64() / latency.as_secs_f64().max(1e-9);
        let share = (f64::from(limit) * self.params.waiting_share.get().max(quick)) as u32;
        let capacity = share.max(WAITING_MIN).min(self.lines.capacity());
        let evicted = if self.lines.len() < capacity as usize {
            None
        } else {
            match self.victim(&waiter.who) {
                Some(slot) => Some(Evicted(self.take(slot))),
                None => return Err(Full(waiter)),
            }
        };
        let class = waiter.who.class;
        if self.lines.oldest(class).is_none() {
            (self.calm[class.index()], self.pressure[class.index()]) = (now, false);
        }
        self.deadline = self.deadline.min(waiter.who.deadline.instant());
        self.customers[counter(&waiter.who)] += 1;
        Ok((self.lines.push(now, waiter), evicted))
    }

    /// Who is served next, if `enter` finds it a place. Those on the way who cannot be answered before their deadline
    /// when an answer takes `latency`, or waited too long, are handed to `shed`. When `enter` finds none, the one
    /// asked for stays where it is.
    pub fn pop<E>(
        &mut self,
        now: Instant,
        latency: Duration,
        enter: impl FnOnce(&Who) -> Option<E>,
        shed: &mut impl FnMut(Waiter<T>, Shed),
    ) -> Option<(Waiter<T>, E)> {
        self.expire(now, latency, shed);
        let slot = self.next()?;
        let entered = enter(self.lines.who(slot))?;
        Some((self.take(slot), entered))
    }

    /// Somebody goes away by itself; `None` when it is no longer in the line.
    pub fn remove(&mut self, id: Id) -> Option<Waiter<T>> {
        let slot = self.lines.find(id)?;
        Some(self.take(slot))
    }

    /// Hands everybody to `shed` who waited too long or cannot be answered in time any more.
    pub fn expire(&mut self, now: Instant, latency: Duration, shed: &mut impl FnMut(Waiter<T>, Shed)) {
        self.watch(now, latency);
        for class in Criticality::ALL {
            let wait_max = self.wait_max(class, latency);
            while let Some(oldest) = self.lines.oldest(class)
                && now.since(self.lines.since(oldest)) >= wait_max
            {
                shed(self.take(oldest), Shed::QueueTimeout);
            }
        }
        if self.deadline <= now.after(latency) {
            let mut earliest = Instant::NEVER;
            for class in Criticality::ALL {
                let mut slot = self.lines.oldest(class);
                while let Some(this) = slot {
                    slot = self.lines.newer(this);
                    let deadline = self.lines.who(this).deadline.instant();
                    if deadline != Instant::NEVER && deadline <= now.after(latency) {
                        shed(self.take(this), Shed::Deadline);
                    } else {
                        earliest = earliest.min(deadline);
                    }
                }
            }
            self.deadline = earliest;
        }
    }

    /// When to call [`Queue::expire`] next, if nothing else happens.
    #[must_use]
    pub fn poll_timeout(&self, latency: Duration) -> Option<Instant> {
        let next = |class: Criticality| {
            let since = self.lines.since(self.lines.oldest(class)?);
            let pressed = match self.pressure[class.index()] {
                true => Instant::NEVER,
                false => self.calm[class.index()].after(self.target(latency) * INTERVAL_TARGETS + SHORT),
            };
            Some(since.after(self.wait_max(class, latency)).min(pressed))
        };
        let until = Criticality::ALL.into_iter().filter_map(next).min()?;
        let deadline =
            if self.deadline == Instant::NEVER { self.deadline } else { self.deadline.before(latency) };
        Some(until.min(deadline))
    }

    /// The highest class, and in it the oldest; under pressure the newest.
    fn next(&self) -> Option<u32> {
        Criticality::ALL.into_iter().find_map(|class| match self.pressure[class.index()] {
            true => self.lines.newest(class),
            false => self.lines.oldest(class),
        })
    }

    fn target(&self, latency: Duration) -> Duration {
        self.params.target.map_or((latency / 4).max(SHORT), Span::get)
    }

    fn wait_max(&self, class: Criticality, latency: Duration) -> Duration {
        let wait_max = self.params.wait_max.get();
        if self.pressure[class.index()] { self.target(latency).min(wait_max) } else { wait_max }
    }

    /// Notices pressure. Under it only an empty line shows that it is over, because nobody waits long any more.
    fn watch(&mut self, now: Instant, latency: Duration) {
        let target = self.target(latency);
        for class in Criticality::ALL {
            let waited = self.lines.oldest(class).map(|oldest| now.since(self.lines.since(oldest)));
            let (pressure, calm) = (&mut self.pressure[class.index()], &mut self.calm[class.index()]);
            if waited.is_none_or(|waited| !*pressure && waited <= target) {
                *calm = now;
            }
            *pressure = now.since(*calm) > target * INTERVAL_TARGETS;
        }
    }

    /// Who makes room for `who`: the lowest class below it, or else its own class; there the customer with most
    /// waiters, the newest first.
    fn victim(&self, who: &Who) -> Option<u32> {
        let lowest = Criticality::ALL.into_iter().rev().find(|class| self.lines.newest(*class).is_some())?;
        if lowest < who.class {
            return None;
        }
        let greed = |who: &Who| if who.customer == 0 { 0 } else { self.customers[counter(who)] };
        let mut candidates =
            core::iter::successors(self.lines.newest(lowest), |slot| self.lines.older(*slot));
        let first = candidates.next()?;
        let greediest = candidates.take(CANDIDATES - 1).fold(first, |best, slot| {
            if greed(self.lines.who(slot)) > greed(self.lines.who(best)) { slot } else { best }
        });
        let fair = lowest > who.class || greed(self.lines.who(greediest)) > greed(who) + 1;
        // Under pressure the oldest would not be served any more.
        let stale = if self.pressure[lowest.index()] { self.lines.oldest(lowest) } else { None };
        if fair { Some(greediest) } else { stale }
    }

    fn take(&mut self, slot: u32) -> Waiter<T> {
        let waiter = self.lines.take(slot);
        self.customers[counter(&waiter.who)] -= 1;
        waiter
    }
}

fn counter(who: &Who) -> usize {
    mix(who.customer) as usize % CUSTOMERS
}
