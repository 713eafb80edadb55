//! An allocator that counts, for the claim "this allocates nothing".
//!
//! `unsafe` because [`GlobalAlloc`] is an unsafe trait; every method passes its arguments to [`System`] unchanged.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

static PROCESS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting each allocation and reallocation (not what is freed).
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: testkit::alloc::Counting = testkit::alloc::Counting;
/// ```
#[derive(Debug)]
pub struct Counting;

/// Allocations of the whole process since it started; 0 for ever when [`Counting`] is not its global allocator.
#[must_use]
pub fn allocations() -> u64 {
    PROCESS.load(Relaxed)
}

/// Allocations of the calling thread since it started.
#[must_use]
pub fn thread_allocations() -> u64 {
    THREAD.with(Cell::get)
}

fn count() {
    PROCESS.fetch_add(1, Relaxed);
    // Fails only while the thread is torn down.
    let _ = THREAD.try_with(|counter| counter.set(counter.get() + 1));
}

// SAFETY: every method hands its arguments to `System` unchanged, which upholds the contract; counting touches an
// atomic and a constant-initialised thread local without a destructor, so it never allocates or unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise that `ptr` came from here with `layout` holds for `System`.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    #[global_allocator]
    static ALLOCATOR: Counting = Counting;

    #[test]
    fn counts_each_allocation_and_only_those() {
        let before = thread_allocations();
        let sum: u64 = black_box(0..100u64).sum();
        assert_eq!(thread_allocations(), before, "a sum of {sum} does not allocate");

        let boxed = black_box(Box::new(1u64));
        assert_eq!(thread_allocations(), before + 1);
        drop(boxed);
        assert_eq!(thread_allocations(), before + 1, "freeing is not counted");

        let mut grown: Vec<u8> = black_box(Vec::with_capacity(1));
        grown.resize(black_box(4096), 0);
        assert_eq!(thread_allocations(), before + 3, "growing counts as one more");
        assert!(allocations() >= before + 3);
    }
}
