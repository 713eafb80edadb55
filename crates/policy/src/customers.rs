//! A bounded table of customers: whoever makes up names cannot make it grow.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

/// Most customers that a table is made for.
pub(crate) const CUSTOMERS_LIMIT: u32 = 1 << 20;

/// Slots that a customer can be in; with 16 bytes each they share a pair of cache lines.
const WAYS: usize = 8;

/// A customer's number in the table, in which 0 is nobody.
const fn somebody(customer: u64) -> u64 {
    if customer == 0 { u64::MAX } else { customer }
}

#[derive(Debug, Default)]
struct Slot<T> {
    /// Whose it is; 0 is nobody's.
    customer: AtomicU64,
    state: T,
}

#[derive(Debug, Default)]
#[repr(align(128))]
struct Set<T>([Slot<T>; WAYS]);

/// What is known of each customer, in memory that is taken once.
///
/// Customers are hashed to sets of eight slots, with at least twice as many slots as customers. A newcomer to a
/// full set takes over the slot that is worth least, and inherits what stands there as it stands, in one exchange: whatever
/// the states of a table add up to, forgetting adds nothing. With as many customers active as the table
/// is made for, two in a hundred share a slot in turns; with half as many, two in ten thousand. (Threads that meet
/// the same new customer in the same instant, while its neighbours fill up, may give it two slots once.)
///
/// Shared by all workers of the process, without a lock.
#[derive(Debug)]
pub(crate) struct Customers<T> {
    sets: Box<[Set<T>]>,
    seed: u64,
}

impl<T: Default> Customers<T> {
    /// A table that knows nobody. `seed` keeps customers from choosing whom they share a set with.
    pub(crate) fn new(customers_max: u32, seed: u64) -> Self {
        let slots = 2 * customers_max.clamp(1, CUSTOMERS_LIMIT) as usize;
        let sets = slots.div_ceil(WAYS).next_power_of_two();
        Self { sets: (0..sets).map(|_| Set::default()).collect(), seed }
    }

    /// How many sets there are.
    pub(crate) fn sets(&self) -> usize {
        self.sets.len()
    }

    /// The set in which a customer is.
    pub(crate) fn set_of(&self, customer: u64) -> usize {
        (crate::mix(somebody(customer) ^ self.seed) >> 32) as usize & (self.sets.len() - 1)
    }

    /// The state of `customer`, if it is known.
    pub(crate) fn find(&self, customer: u64) -> Option<&T> {
        self.in_set(self.set_of(customer))
            .find(|(known, _)| *known == somebody(customer))
            .map(|(_, state)| state)
    }

    /// The state of `customer`: its own, else nobody's, else the one of its set that is least by `worth`, taken over.
    pub(crate) fn find_or_take_over<K: Ord>(&self, customer: u64, worth: impl Fn(&T) -> K) -> &T {
        let Set(set) = &self.sets[self.set_of(customer)];
        let customer = somebody(customer);
        loop {
            if let Some(slot) = set.iter().find(|slot| slot.customer.load(Acquire) == customer) {
                return &slot.state;
            }
            let victim = set.iter().min_by_key(|slot| (slot.customer.load(Relaxed) != 0, worth(&slot.state)));
            let Some(victim) = victim else { unreachable!("a set has slots") };
            let owner = victim.customer.load(Relaxed);
            if owner == customer || victim.customer.compare_exchange(owner, customer, AcqRel, Relaxed).is_ok()
            {
                return &victim.state;
            }
        }
    }

    /// Everybody in a set.
    pub(crate) fn in_set(&self, set: usize) -> impl Iterator<Item = (u64, &T)> {
        let slots = self.sets[set].0.iter().map(|slot| (slot.customer.load(Acquire), &slot.state));
        slots.filter(|(customer, _)| *customer != 0)
    }

    /// Slots in the whole table.
    #[cfg(test)]
    pub(crate) fn slots(&self) -> usize {
        self.sets.len() * WAYS
    }
}
