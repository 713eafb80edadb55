//! How many places each class holds, and each customer of it.

use core::sync::atomic::{AtomicI32, AtomicU32, Ordering::Relaxed};

use super::CLASSES;
use crate::mix;
use crate::sharded::Padded;

/// Counters of each class; two customers that share one are taken for one. 1 KiB.
const SLOTS: usize = 256;

/// After a cut, whoever has no more than this share of what customers have on average still gets more: all customers
/// alike come down, and one alone does when it is the only one to have much.
const MODEST: f64 = 0.9;

/// Counts by class and customer in a fixed table, and how many customers each class has.
#[derive(Debug)]
pub(super) struct Customers {
    places: [[AtomicU32; SLOTS]; CLASSES],
    classes: [Padded<Class>; CLASSES],
}

/// Both numbers are below zero for a moment when threads race.
#[derive(Debug, Default)]
struct Class {
    places: AtomicI32,
    customers: AtomicI32,
}

impl Default for Customers {
    fn default() -> Self {
        Self {
            places: [const { [const { AtomicU32::new(0) }; SLOTS] }; CLASSES],
            classes: Default::default(),
        }
    }
}

impl Customers {
    /// Stands for a customer that is not counted.
    pub(super) const UNCOUNTED: u16 = u16::MAX;

    /// Counts one more place, for its class alone when the customer is 0; answers where.
    pub(super) fn enter(&self, class: usize, customer: u64) -> u16 {
        let slot = if customer == 0 { SLOTS } else { slot(customer) };
        let counts = &self.classes[class].0;
        counts.places.fetch_add(1, Relaxed);
        if let Some(places) = self.places[class].get(slot)
            && places.fetch_add(1, Relaxed) == 0
        {
            counts.customers.fetch_add(1, Relaxed);
        }
        (class * (SLOTS + 1) + slot) as u16
    }

    pub(super) fn leave(&self, index: u16) {
        let (class, slot) = (usize::from(index) / (SLOTS + 1), usize::from(index) % (SLOTS + 1));
        if let Some(places) = self.places.get(class) {
            let counts = &self.classes[class].0;
            counts.places.fetch_sub(1, Relaxed);
            if let Some(places) = places.get(slot)
                && places.fetch_sub(1, Relaxed) == 1
            {
                counts.customers.fetch_sub(1, Relaxed);
            }
        }
    }

    /// Counted places of one class.
    pub(super) fn held(&self, class: usize) -> u32 {
        self.classes[class].0.places.load(Relaxed).max(0).unsigned_abs()
    }

    /// What one place more would be, of the `places` that the higher classes leave, while the class holds `held`. A share
    /// `free` of them is free: a customer may have up to twice its fair share, in proportion, as those who use less leave
    /// them to it.
    pub(super) fn holds(&self, class: usize, customer: u64, places: u32, held: u32, free: f64) -> Holds {
        let own = self.places[class][slot(customer)].load(Relaxed);
        let present = f64::from(self.classes[class].0.customers.load(Relaxed).max(1));
        let share = f64::from(places).max(MODEST * f64::from(held)) / present;
        let with = f64::from(own + 1);
        if with <= share {
            Holds::FairShare
        } else if own > 1 && with > share * (1.0 + free) {
            Holds::TooMuch
        } else {
            // One place is nobody's greed, and may be that of another customer with the same counter.
            Holds::Between
        }
    }
}

/// What a customer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    TooMuch,
    /// No more than its part: all who hold that together fit in, or will when those leave who are inside.
    FairShare,
    /// Neither, or there are too many customers for a place of each.
    Between,
}

fn slot(customer: u64) -> usize {
    mix(customer) as usize % SLOTS
}
