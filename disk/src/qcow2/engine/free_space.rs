//! What the allocator remembers between two calls.

use std::cell::Cell;

use super::locks::RangeLocks;

/// Where to look for free clusters.
pub(super) struct FreeSpace {
    /// One looks at a time.
    pub(super) lock: RangeLocks,
    /// No cluster below is free, as far as we know.
    pub(super) hint: Cell<u64>,
    /// From here on no cluster has ever been written: those of a file read as zeros.
    pub(super) untouched: Cell<u64>,
    /// Where the next compressed data may go, in the rest of a cluster.
    pub(super) packed: Cell<Option<u64>>,
}

impl FreeSpace {
    /// For a file of so many clusters.
    pub(super) fn new(file_clusters: u64) -> Self {
        Self {
            lock: RangeLocks::default(),
            hint: Cell::new(0),
            untouched: Cell::new(file_clusters),
            packed: Cell::new(None),
        }
    }

    /// The end of all clusters that were ever used, as the number of one.
    pub(super) fn end(&self) -> u64 {
        self.untouched.get()
    }

    /// Starts again, after the file has been changed by others.
    pub(super) fn reset(&self, file_clusters: u64) {
        self.hint.set(0);
        self.untouched.set(file_clusters);
        self.packed.set(None);
    }
}
