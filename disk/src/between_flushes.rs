//! How much comes between two flushes.

use std::cell::Cell;

/// Bytes since the last flush, and between that and the one before.
#[derive(Default)]
pub(crate) struct BetweenFlushes {
    now: Cell<u64>,
    before: Cell<u64>,
}

impl BetweenFlushes {
    pub(crate) fn add(&self, bytes: u64) {
        self.now.set(self.now.get() + bytes);
    }

    pub(crate) fn flushed(&self) {
        self.before.set(self.now.replace(0));
    }

    /// Whether nothing came since the last flush.
    pub(crate) fn is_empty(&self) -> bool {
        self.now.get() == 0
    }

    /// The larger of both.
    pub(crate) fn max(&self) -> u64 {
        self.now.get().max(self.before.get())
    }
}
