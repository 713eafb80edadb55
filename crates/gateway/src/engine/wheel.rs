//! Coarse timers for tens of thousands of connections: one [`Alarm`] a connection, one wheel a worker.
//!
//! Setting an alarm later than it stands costs two stores; the wheel finds out when it comes by. So the time-outs that
//! nearly never expire (idle, head, attempt, progress) cost next to nothing. An alarm rings up to 8.4 ms late.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Waker;

use model::Instant;
use tokio::sync::Notify;

use crate::service::Clock;

/// log2 of the tick's nanoseconds: how much later than asked an alarm may ring.
const TICK_SHIFT: u32 = 23;
/// Slots; alarms further ahead wait in the last one and are entered anew.
const SLOTS: u64 = 1024;
const NOWHERE: u64 = u64::MAX;

fn tick_at_or_after(point: Instant) -> u64 {
    (point.as_nanos() >> TICK_SHIFT) + 1
}

/// The one timer of a connection's task.
#[derive(Debug)]
pub(crate) struct Alarm {
    /// The tick at which it rings; `NOWHERE` when it is off.
    due: Cell<u64>,
    /// The tick of the slot that holds its live entry. Entries in other slots are left-overs.
    entered: Cell<u64>,
    rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Alarm {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            due: Cell::new(NOWHERE),
            entered: Cell::new(NOWHERE),
            rung: Cell::new(false),
            waker: RefCell::new(None),
        })
    }

    /// Whether it has rung since it was last set.
    pub(crate) fn rung(&self) -> bool {
        self.rung.get()
    }

    /// Says whom to wake. Called by the task that waits, whenever it is about to.
    pub(crate) fn wake_me(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        match &*slot {
            Some(known) if known.will_wake(waker) => {}
            _ => *slot = Some(waker.clone()),
        }
    }

    pub(crate) fn off(&self) {
        self.due.set(NOWHERE);
        self.rung.set(false);
    }

    /// Whether it is going to ring.
    pub(crate) fn is_set(&self) -> bool {
        self.due.get() != NOWHERE
    }

    fn ring(&self) {
        self.rung.set(true);
        self.wake();
    }

    /// Wakes the task without ringing, so that it looks at what changed.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

pub(crate) struct Wheel {
    slots: RefCell<Vec<Vec<Rc<Alarm>>>>,
    /// Every tick up to this one has been served.
    served: Cell<u64>,
    /// The tick at which the driver wakes next.
    wakes_at: Cell<u64>,
    nudge: Notify,
}

impl Wheel {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            slots: RefCell::new((0..SLOTS).map(|_| Vec::new()).collect()),
            served: Cell::new(now.as_nanos() >> TICK_SHIFT),
            wakes_at: Cell::new(NOWHERE),
            nudge: Notify::new(),
        }
    }

    /// `alarm` rings at `point`, up to one tick late, unless it is set anew before.
    pub(crate) fn set(&self, alarm: &Rc<Alarm>, point: Instant) {
        let due = tick_at_or_after(point);
        alarm.due.set(due);
        alarm.rung.set(false);
        if due < alarm.entered.get() {
            self.enter(alarm, due);
        }
    }

    fn enter(&self, alarm: &Rc<Alarm>, due: u64) {
        let served = self.served.get();
        let at = due.clamp(served + 1, served + SLOTS - 1);
        alarm.entered.set(at);
        self.slots.borrow_mut()[(at % SLOTS) as usize].push(Rc::clone(alarm));
        if at < self.wakes_at.get() {
            self.wakes_at.set(at);
            self.nudge.notify_one();
        }
    }

    /// Rings whatever is due at `now`.
    fn serve(&self, now: Instant) {
        let until = now.as_nanos() >> TICK_SHIFT;
        while self.served.get() < until {
            let tick = self.served.get() + 1;
            self.served.set(tick);
            let mut entries = std::mem::take(&mut self.slots.borrow_mut()[(tick % SLOTS) as usize]);
            for alarm in entries.drain(..) {
                if alarm.entered.get() != tick {
                    continue;
                }
                alarm.entered.set(NOWHERE);
                match alarm.due.get() {
                    NOWHERE => {}
                    due if due <= tick => alarm.ring(),
                    due => self.enter(&alarm, due),
                }
            }
            // Gives the slot its room back unless alarms were entered there meanwhile.
            let slot = &mut self.slots.borrow_mut()[(tick % SLOTS) as usize];
            if slot.is_empty() && entries.capacity() <= 1024 {
                *slot = entries;
            }
        }
    }

    /// The next tick that has entries.
    fn next(&self) -> u64 {
        let slots = self.slots.borrow();
        let served = self.served.get();
        (served + 1..served + SLOTS)
            .find(|tick| !slots[(tick % SLOTS) as usize].is_empty())
            .unwrap_or(NOWHERE)
    }

    /// Drives the wheel until the worker ends. Sleeps for as long as no alarm is set.
    pub(crate) async fn drive(&self, clock: Clock) {
        loop {
            self.serve(clock.now());
            let next = self.next();
            self.wakes_at.set(next);
            if next == NOWHERE {
                self.nudge.notified().await;
                // The wheel stood still: the ticks that passed hold nothing but the new entry.
                continue;
            }
            let point = clock.timer(Instant::from_nanos(next << TICK_SHIFT));
            tokio::select! {
                () = tokio::time::sleep_until(point) => {}
                () = self.nudge.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(tick: u64) -> Instant {
        Instant::from_nanos(tick << TICK_SHIFT)
    }

    #[test]
    fn an_alarm_put_off_rings_once_at_its_new_time() {
        let wheel = Wheel::new(at(100));
        let alarm = Alarm::new();
        wheel.set(&alarm, at(110));
        wheel.set(&alarm, at(5000));
        wheel.serve(at(4999));
        assert!(!alarm.rung());
        wheel.serve(at(5001));
        assert!(alarm.rung());
        wheel.set(&alarm, at(9000));
        assert!(!alarm.rung());
    }

    #[test]
    fn an_alarm_drawn_nearer_rings_then_and_not_again() {
        let wheel = Wheel::new(at(0));
        let alarm = Alarm::new();
        wheel.set(&alarm, at(900));
        wheel.set(&alarm, at(10));
        wheel.serve(at(11));
        assert!(alarm.rung());
        alarm.off();
        wheel.serve(at(2000));
        assert!(!alarm.rung());
    }

    proptest! {
        #[test]
        fn never_rings_early_and_at_most_a_tick_late(
            start in 0u64..5_000,
            sets in prop::collection::vec((0u64..3_000, 0u64..3_000), 1..20),
        ) {
            let wheel = Wheel::new(at(start));
            let alarm = Alarm::new();
            let mut now = start;
            let mut due = None;
            for (pause, delay) in sets {
                for _ in 0..pause {
                    now += 1;
                    wheel.serve(at(now));
                    if let Some(due) = due {
                        prop_assert_eq!(alarm.rung(), now > due, "now {} due {}", now, due);
                    }
                }
                wheel.set(&alarm, at(now + delay));
                due = Some(now + delay);
            }
        }
    }
}
