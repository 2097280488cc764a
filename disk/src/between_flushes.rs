//! How much comes between two flushes.

use std::cell::Cell;

/// How many flushes back it is known. A file system that commits a journal without FUA flushes
/// twice, the second time after a single block: of two stretches, one would say nothing.
const STRETCHES: usize = 3;

/// Bytes since the last flush, and in the stretches between the flushes before it.
#[derive(Default)]
pub(crate) struct BetweenFlushes {
    now: Cell<u64>,
    /// The oldest first.
    before: Cell<[u64; STRETCHES]>,
}

impl BetweenFlushes {
    pub(crate) fn add(&self, bytes: u64) {
        self.now.set(self.now.get() + bytes);
    }

    pub(crate) fn flushed(&self) {
        let mut before = self.before.get();
        before.rotate_left(1);
        before[STRETCHES - 1] = self.now.replace(0);
        self.before.set(before);
    }

    /// Whether nothing came since the last flush.
    pub(crate) fn is_empty(&self) -> bool {
        self.now.get() == 0
    }

    /// The most.
    pub(crate) fn max(&self) -> u64 {
        self.before.get().into_iter().fold(self.now.get(), u64::max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ext4 in a guest: data and the log, FLUSH, the commit block, FLUSH.
    #[test]
    fn a_commit_block_does_not_hide_what_came_before_it() {
        let between = BetweenFlushes::default();
        for _ in 0..4 {
            between.add(1 << 20);
            between.flushed();
            assert_eq!(between.max(), 1 << 20);
            between.add(4096);
            between.flushed();
            assert_eq!(between.max(), 1 << 20);
        }
        for _ in 0..STRETCHES {
            between.add(4096);
            between.flushed();
        }
        assert_eq!(between.max(), 4096);
    }
}
