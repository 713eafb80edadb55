//! What policies want of the thread that calls them: its number, and random numbers.

use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use policy::Rng;

/// How many threads policies are split for.
pub(crate) fn count() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The number of the calling thread. Threads are numbered as they first ask; policies take any number.
pub(crate) fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed));
    }
    OWN.get()
}

/// The calling thread's random generator. `decide` must not ask for it again.
pub(crate) fn with_rng<T>(decide: impl FnOnce(&mut Rng) -> T) -> T {
    thread_local! {
        static OWN: RefCell<Rng> = RefCell::new(Rng::with_seed(entropy()));
    }
    OWN.with_borrow_mut(decide)
}

/// A number that differs between processes and threads: the standard library seeds its hash maps so.
pub(crate) fn entropy() -> u64 {
    std::collections::hash_map::RandomState::new().build_hasher().finish()
}
