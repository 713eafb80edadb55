//! How many places each customer holds.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

use crate::mix;
use crate::sharded::Padded;

/// Counters; two customers that share one are taken for one. 1 KiB.
const SLOTS: usize = 256;

/// Counts by customer in a fixed table, and how many customers there are.
#[derive(Debug)]
pub(super) struct Customers {
    places: [AtomicU32; SLOTS],
    /// Below zero for a moment when threads race.
    present: Padded<AtomicI32>,
}

impl Default for Customers {
    fn default() -> Self {
        Self { places: [const { AtomicU32::new(0) }; SLOTS], present: Padded::default() }
    }
}

impl Customers {
    /// Stands for a customer that is not counted.
    pub(super) const UNCOUNTED: u16 = SLOTS as u16;

    /// Counts one more place; answers where.
    pub(super) fn enter(&self, customer: u64) -> u16 {
        let slot = slot(customer);
        if self.places[slot].fetch_add(1, Relaxed) == 0 {
            self.present.0.fetch_add(1, Relaxed);
        }
        slot as u16
    }

    pub(super) fn leave(&self, slot: u16) {
        if let Some(places) = self.places.get(usize::from(slot))
            && places.fetch_sub(1, Relaxed) == 1
        {
            self.present.0.fetch_sub(1, Relaxed);
        }
    }

    /// Whether one place more is more than the customer's fair share of `places`.
    pub(super) fn exceeds(&self, customer: u64, places: u32) -> bool {
        let own = self.places[slot(customer)].load(Relaxed);
        let present = self.present.0.load(Relaxed).max(1).unsigned_abs();
        own > 0 && u64::from(own + 1) * u64::from(present) > u64::from(places)
    }
}

fn slot(customer: u64) -> usize {
    mix(customer) as usize % SLOTS
}
