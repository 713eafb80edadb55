//! Buffers that outlive a moment: partial heads, stalled writes, bodies kept for another attempt.
//!
//! A worker lends them and takes them back, so that a steady load allocates nothing. What is lent is counted against the
//! worker's share of the process's limit.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Larger ones are given back to the allocator, not kept.
const KEPT_CAPACITY_MAX: usize = 64 * 1024;
/// Most that a worker keeps.
const KEPT_MAX: usize = 1024;

/// A worker's lending desk.
pub(crate) struct Buffers {
    free: RefCell<Vec<Vec<u8>>>,
    lent: Cell<u64>,
    lent_max: u64,
    /// Bytes lent by this worker, for `/metrics`.
    gauge: Arc<AtomicU64>,
}

impl Buffers {
    pub(crate) fn new(lent_max: u64, gauge: Arc<AtomicU64>) -> Rc<Self> {
        Rc::new(Self { free: RefCell::new(Vec::new()), lent: Cell::new(0), lent_max, gauge })
    }

    pub(crate) fn take(self: &Rc<Self>) -> Buffer {
        let bytes = self.free.borrow_mut().pop().unwrap_or_default();
        let mut buffer = Buffer { bytes, charged: 0, home: Rc::clone(self) };
        buffer.charge();
        buffer
    }

    /// Whether so much is lent that no new request should be taken on.
    pub(crate) fn exhausted(&self) -> bool {
        self.lent.get() >= self.lent_max
    }

    fn add(&self, bytes: u64) {
        self.lent.set(self.lent.get() + bytes);
        self.gauge.store(self.lent.get(), Relaxed);
    }
}

/// A borrowed buffer; goes home when dropped.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    charged: u64,
    home: Rc<Buffers>,
}

impl Buffer {
    fn charge(&mut self) {
        let capacity = self.bytes.capacity() as u64;
        if capacity > self.charged {
            self.home.add(capacity - self.charged);
            self.charged = capacity;
        }
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.charge();
    }

    /// Takes the first `count` bytes off.
    pub(crate) fn consume(&mut self, count: usize) {
        if count == self.bytes.len() {
            self.bytes.clear();
        } else {
            self.bytes.drain(..count);
        }
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let home = &self.home;
        home.lent.set(home.lent.get() - self.charged);
        home.gauge.store(home.lent.get(), Relaxed);
        let mut free = home.free.borrow_mut();
        if self.bytes.capacity() <= KEPT_CAPACITY_MAX && free.len() < KEPT_MAX {
            self.bytes.clear();
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_counted_and_comes_home() {
        let gauge = Arc::new(AtomicU64::new(0));
        let desk = Buffers::new(1000, Arc::clone(&gauge));
        let mut one = desk.take();
        one.extend(&[7; 1500]);
        assert!(desk.exhausted() && gauge.load(Relaxed) >= 1500);
        drop(one);
        assert!(!desk.exhausted() && gauge.load(Relaxed) == 0);
        let again = desk.take();
        assert!(again.is_empty() && again.capacity() >= 1500);
    }

    #[test]
    fn a_huge_buffer_is_not_kept() {
        let desk = Buffers::new(u64::MAX, Arc::default());
        let mut one = desk.take();
        one.extend(&vec![0; KEPT_CAPACITY_MAX + 1]);
        drop(one);
        assert_eq!(desk.take().capacity(), 0);
    }
}
