//! State split by worker, so that what every request writes stays in the cache of the core that writes it.

use alloc::boxed::Box;

/// Copies kept at most; workers beyond that share.
const SHARDS_MAX: usize = 64;

/// `T` on cache lines of its own (two, because processors fetch lines in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

/// One copy of `T` for each worker, each on its own cache lines. Whoever wants the whole sums the copies and may
/// miss what other workers did in the last few hundred nanoseconds.
#[derive(Debug)]
pub(crate) struct Sharded<T> {
    shards: Box<[Padded<T>]>,
}

impl<T: Default> Sharded<T> {
    /// Copies for `workers` workers; rounded up to a power of two, at least 1, at most [`SHARDS_MAX`].
    pub(crate) fn new(workers: usize) -> Self {
        let shards = workers.clamp(1, SHARDS_MAX).next_power_of_two();
        Self { shards: (0..shards).map(|_| Padded::default()).collect() }
    }

    /// The copy of worker `shard`; any number is valid, and those that differ by a multiple of the length share.
    pub(crate) fn get(&self, shard: usize) -> &T {
        &self.shards[shard & (self.shards.len() - 1)].0
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.shards.iter().map(|padded| &padded.0)
    }
}
