//! What reached slow storage.

use std::ops::{AddAssign, Sub};

/// What slow storage was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// How long it was busy; of a link, how long it would be if it did one thing at a time.
    pub(super) busy_ns: u64,
    pub(super) reads: u64,
    pub(super) read_bytes: u64,
    pub(super) writes: u64,
    pub(super) written_bytes: u64,
    pub(super) flushes: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.busy_ns += other.busy_ns;
        self.reads += other.reads;
        self.read_bytes += other.read_bytes;
        self.writes += other.writes;
        self.written_bytes += other.written_bytes;
        self.flushes += other.flushes;
    }
}

impl Sub for Counts {
    type Output = Self;

    /// What came after `earlier`.
    fn sub(self, earlier: Self) -> Self {
        Self {
            busy_ns: self.busy_ns - earlier.busy_ns,
            reads: self.reads - earlier.reads,
            read_bytes: self.read_bytes - earlier.read_bytes,
            writes: self.writes - earlier.writes,
            written_bytes: self.written_bytes - earlier.written_bytes,
            flushes: self.flushes - earlier.flushes,
        }
    }
}
