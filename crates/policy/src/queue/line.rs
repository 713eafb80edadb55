//! One line for each class, in memory taken once.

use alloc::boxed::Box;

use model::{Criticality, Instant};

use super::{Id, Waiter};
use crate::admission::Who;

/// No slot.
const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Slot<T> {
    waiter: Option<Waiter<T>>,
    since: Instant,
    generation: u32,
    older: u32,
    /// Of a free slot: the next free one.
    newer: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    oldest: u32,
    newest: u32,
}

/// Doubly linked lists through one array: whoever leaves from the middle costs no more than the one at an end.
#[derive(Debug)]
pub(super) struct Lines<T> {
    slots: Box<[Slot<T>]>,
    free: u32,
    ends: [Ends; Criticality::ALL.len()],
    len: usize,
}

impl<T> Lines<T> {
    pub(super) fn new(capacity: u32) -> Self {
        let slot = |index: u32| Slot {
            waiter: None,
            since: Instant::ORIGIN,
            generation: 0,
            older: NONE,
            newer: if index + 1 < capacity { index + 1 } else { NONE },
        };
        Self {
            slots: (0..capacity).map(slot).collect(),
            free: if capacity > 0 { 0 } else { NONE },
            ends: [Ends { oldest: NONE, newest: NONE }; Criticality::ALL.len()],
            len: 0,
        }
    }

    pub(super) fn capacity(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Joins the end of its class. There must be room.
    pub(super) fn push(&mut self, now: Instant, waiter: Waiter<T>) -> Id {
        let index = self.free;
        let ends = &mut self.ends[waiter.who.class.index()];
        let slot = &mut self.slots[index as usize];
        self.free = slot.newer;
        *slot = Slot {
            waiter: Some(waiter),
            since: now,
            generation: slot.generation,
            older: ends.newest,
            newer: NONE,
        };
        let id = Id { slot: index, generation: slot.generation };
        match core::mem::replace(&mut ends.newest, index) {
            NONE => ends.oldest = index,
            newest => self.slots[newest as usize].newer = index,
        }
        self.len += 1;
        id
    }

    /// Takes somebody out of the line, who must be in it.
    pub(super) fn take(&mut self, index: u32) -> Waiter<T> {
        let slot = &mut self.slots[index as usize];
        let waiter = slot.waiter.take().expect("a slot in the line holds a waiter");
        slot.generation = slot.generation.wrapping_add(1);
        let (older, newer) = (slot.older, core::mem::replace(&mut slot.newer, self.free));
        self.free = index;
        self.len -= 1;
        let ends = &mut self.ends[waiter.who.class.index()];
        match older {
            NONE => ends.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NONE => ends.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        waiter
    }

    /// The slot of a waiter that is still in the line.
    pub(super) fn find(&self, id: Id) -> Option<u32> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.generation == id.generation && slot.waiter.is_some()).then_some(id.slot)
    }

    pub(super) fn oldest(&self, class: Criticality) -> Option<u32> {
        some(self.ends[class.index()].oldest)
    }

    pub(super) fn newest(&self, class: Criticality) -> Option<u32> {
        some(self.ends[class.index()].newest)
    }

    pub(super) fn older(&self, index: u32) -> Option<u32> {
        some(self.slots[index as usize].older)
    }

    pub(super) fn newer(&self, index: u32) -> Option<u32> {
        some(self.slots[index as usize].newer)
    }

    pub(super) fn since(&self, index: u32) -> Instant {
        self.slots[index as usize].since
    }

    pub(super) fn who(&self, index: u32) -> &Who {
        &self.slots[index as usize].waiter.as_ref().expect("a slot in the line holds a waiter").who
    }
}

fn some(index: u32) -> Option<u32> {
    (index != NONE).then_some(index)
}
