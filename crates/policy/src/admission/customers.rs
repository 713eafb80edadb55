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

    /// What one place more would be, of `places` of which `given` are taken. While some are free a customer may have
    /// up to twice its fair share, in proportion: those who use less leave them to it.
    pub(super) fn holds(&self, customer: u64, places: u32, given: u32) -> Holds {
        let own = self.places[slot(customer)].load(Relaxed);
        let present = self.present.0.load(Relaxed).max(1).unsigned_abs();
        let (places, fair) = (f64::from(places), f64::from(places) / f64::from(present));
        let free = (1.0 - f64::from(given) / places) / (1.0 - super::SHORT);
        // One place is nobody's greed, and may be that of another customer with the same counter.
        if own > 1 && f64::from(own + 1) > fair * (1.0 + free.clamp(0.0, 1.0)) {
            Holds::TooMuch
        } else if fair >= 1.0 {
            Holds::FairShare
        } else {
            Holds::Unknown
        }
    }
}

/// What a customer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    TooMuch,
    FairShare,
    /// There are too many customers for a share of each.
    Unknown,
}

fn slot(customer: u64) -> usize {
    mix(customer) as usize % SLOTS
}
