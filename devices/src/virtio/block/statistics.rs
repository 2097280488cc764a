//! What a block device counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a block device has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockStatistics {
    /// Read requests.
    pub reads: u64,
    /// Bytes that they read.
    pub read_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes that they wrote.
    pub written_bytes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Discard requests.
    pub discards: u64,
    /// Write-zeroes requests.
    pub write_zeroes: u64,
    /// Requests for the serial number.
    pub get_ids: u64,
    /// Requests that were answered with an error, of whatever type.
    pub errors: u64,
    /// Times that a doorbell woke the I/O thread.
    pub doorbells: u64,
    /// Times that the driver was interrupted.
    pub interrupts: u64,
    /// Completions that needed no interrupt, for the driver had not seen the last one.
    pub interrupts_saved: u64,
    /// What the disk below counted, which is known once it is closed.
    pub disk: Option<disk::Statistics>,
}

/// The counters of one device, written by its I/O thread.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) written_bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) discards: AtomicU64,
    pub(super) write_zeroes: AtomicU64,
    pub(super) get_ids: AtomicU64,
    pub(super) errors: AtomicU64,
    pub(super) doorbells: AtomicU64,
    pub(super) interrupts: AtomicU64,
    pub(super) interrupts_saved: AtomicU64,
}

impl Counters {
    /// Adds to a counter, and says what it was.
    pub(super) fn add(counter: &AtomicU64, count: u64) -> u64 {
        counter.fetch_add(count, Ordering::Relaxed)
    }

    pub(super) fn snapshot(&self, disk: Option<&disk::Statistics>) -> BlockStatistics {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        BlockStatistics {
            reads: get(&self.reads),
            read_bytes: get(&self.read_bytes),
            writes: get(&self.writes),
            written_bytes: get(&self.written_bytes),
            flushes: get(&self.flushes),
            discards: get(&self.discards),
            write_zeroes: get(&self.write_zeroes),
            get_ids: get(&self.get_ids),
            errors: get(&self.errors),
            doorbells: get(&self.doorbells),
            interrupts: get(&self.interrupts),
            interrupts_saved: get(&self.interrupts_saved),
            disk: disk.copied(),
        }
    }
}
