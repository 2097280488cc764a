//! New data in place, for which a transaction vouches by its checksum.
//!
//! The pending transaction points to *fresh* data. When it is sealed, its record takes the
//! checksums of that, and from then on guards it: what is on the disk must not change until a
//! later record is durable, for if this one is the last, recovery takes it only if the data is
//! what its checksums say.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use super::format::{BLOCK_BYTES, part_end};
use crate::mutant::mutant;
use crate::ranges::Ranges;
use crate::wait_queue::WaitQueue;
use crate::{Buffers, Error, Storage};

/// So much fresh data has checksums; more is made durable before the transaction, which costs a
/// sync that so much data is worth.
const FRESH_BYTES_MAX: u64 = 4 << 20;
/// What a range takes in a record, with the checksum that its second block may need.
const RANGE_BYTES: u64 = 24;
/// So often what came meanwhile gets its checksums too.
const ROUNDS_MAX: u32 = 3;

/// A range, and the checksums of its parts.
type Checksums = (Range<u64>, Vec<u32>);

/// What must not be overwritten just so.
pub(crate) struct Checks {
    /// So many ranges fit in a record.
    ranges_max: usize,
    /// And the checksums of so much data.
    fresh_bytes_max: u64,
    /// New data that the pending transaction points to.
    fresh: RefCell<Ranges>,
    /// Checksums of fresh data, by where it starts.
    sums: RefCell<BTreeMap<u64, Checksums>>,
    /// Whether the pending transaction points to data without a checksum.
    unchecked: Cell<bool>,
    /// What the last durable record guards.
    durable: RefCell<Ranges>,
    /// What the record guards that is being committed.
    sealed: RefCell<Ranges>,
    /// Writes to fresh data that are in flight.
    writers: Cell<usize>,
    /// Whether fresh data must stay as it is, for its checksums are being taken.
    closed: Cell<bool>,
    waiting: WaitQueue,
}

/// A write to fresh data, until it is dropped.
pub(crate) struct Writing<'a>(&'a Checks);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writers.set(self.0.writers.get() - 1);
        self.0.waiting.wake_all();
    }
}

/// Keeps fresh data as it is, until it is dropped.
pub(crate) struct Closed<'a>(&'a Checks);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.closed.set(false);
        self.0.waiting.wake_all();
    }
}

impl Checks {
    /// For a record that has so much room for ranges, and as much again for their checksums.
    pub(super) fn new(room_bytes: u64) -> Self {
        Self {
            ranges_max: usize::try_from(room_bytes / RANGE_BYTES).unwrap_or(usize::MAX),
            fresh_bytes_max: FRESH_BYTES_MAX.min(room_bytes / 4 * BLOCK_BYTES),
            fresh: RefCell::default(),
            sums: RefCell::default(),
            unchecked: Cell::default(),
            durable: RefCell::default(),
            sealed: RefCell::default(),
            writers: Cell::default(),
            closed: Cell::default(),
            waiting: WaitQueue::default(),
        }
    }

    /// The pending transaction points to new data, which is in its place.
    ///
    /// What a record guards is durable with it, before this transaction is written. It gets no
    /// checksum of this one's: what is written over it waits, and may go home while this one is
    /// the newest.
    pub(crate) fn note_fresh(&self, range: Range<u64>) {
        self.forget(&range);
        let mut guarded = Ranges::default();
        if !mutant("what is guarded is checked again") {
            for part in self.guarded(&range) {
                guarded.insert(part);
            }
        }
        let mut fresh = self.fresh.borrow_mut();
        if fresh.bytes() >= self.fresh_bytes_max || fresh.len() >= self.ranges_max {
            self.unchecked.set(true);
            return;
        }
        for part in guarded.missing(&range) {
            fresh.insert(part);
        }
    }

    /// Whether the pending transaction has all of a range's checksums, as it is now.
    pub(crate) fn vouches_for(&self, range: &Range<u64>) -> bool {
        self.fresh.borrow().missing(range).is_empty()
    }

    /// The pending transaction points to data that is made durable before it.
    pub(crate) fn note_unchecked(&self) {
        self.unchecked.set(true);
    }

    /// Nothing points to a range any more once the pending transaction is durable.
    pub(super) fn forget(&self, range: &Range<u64>) {
        if self.fresh.borrow().overlaps(range) {
            self.fresh.borrow_mut().remove(range);
            let overlaps =
                |(other, _): &Checksums| other.start < range.end && range.start < other.end;
            self.sums.borrow_mut().retain(|_, sums| !overlaps(sums));
        }
    }

    /// Whether a range may be overwritten without any more ado.
    pub(super) fn is_free(&self, range: &Range<u64>) -> bool {
        !self.fresh.borrow().overlaps(range) && !self.is_guarded(range)
    }

    fn is_guarded(&self, range: &Range<u64>) -> bool {
        self.durable.borrow().overlaps(range) || self.sealed.borrow().overlaps(range)
    }

    /// The parts of a range that must not change on the disk.
    pub(super) fn guarded(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        if mutant("the newest transaction's data is overwritten in place") {
            return Vec::new();
        }
        let mut guarded = Ranges::default();
        for guard in [&self.durable, &self.sealed] {
            guard
                .borrow()
                .within(range)
                .for_each(|part| guarded.insert(part));
        }
        guarded.iter().collect()
    }

    /// Begins a write to a range, of which some may be fresh: absent if it is not.
    pub(crate) async fn write(&self, range: &Range<u64>) -> Option<Writing<'_>> {
        while self.fresh.borrow().overlaps(range) {
            if !self.closed.get() || mutant("fresh data changes while it is sealed") {
                self.writers.set(self.writers.get() + 1);
                return Some(Writing(self));
            }
            self.waiting.wait().await;
        }
        None
    }

    /// Takes the checksums of all fresh data, which stays as it is from then on.
    pub(crate) async fn close(&self, storage: &impl Storage) -> Result<Closed<'_>, Error> {
        self.closed.set(true);
        let closed = Closed(self);
        while self.writers.get() > 0 {
            self.waiting.wait().await;
        }
        // Between two seals the data may have been written again.
        self.sums.borrow_mut().clear();
        for _ in 0..ROUNDS_MAX {
            let missing = self.missing();
            if missing.is_empty() {
                return Ok(closed);
            }
            for range in missing {
                let sums = checksums(storage, &range).await?;
                let all = self.fresh.borrow().missing(&range).is_empty();
                if all {
                    self.sums.borrow_mut().insert(range.start, (range, sums));
                }
            }
        }
        self.unchecked.set(true);
        Ok(closed)
    }

    /// The parts of fresh data that have no checksum.
    fn missing(&self) -> Vec<Range<u64>> {
        let mut summed = Ranges::default();
        for (range, _) in self.sums.borrow().values() {
            summed.insert(range.clone());
        }
        let fresh = self.fresh.borrow();
        fresh
            .iter()
            .flat_map(|range| summed.missing(&range))
            .collect()
    }

    /// Seals the checksums of a transaction, and guards what they are of; and whether data must be
    /// made durable before it all the same.
    pub(crate) fn seal(&self) -> (Vec<Checksums>, bool) {
        let sums = std::mem::take(&mut *self.sums.borrow_mut());
        let mut sealed = self.sealed.borrow_mut();
        *sealed = Ranges::default();
        for (range, _) in sums.values() {
            sealed.insert(range.clone());
        }
        *self.fresh.borrow_mut() = Ranges::default();
        (sums.into_values().collect(), self.unchecked.replace(false))
    }

    /// The sealed record is durable, and proves that those before it are.
    pub(super) fn committed(&self) {
        *self.durable.borrow_mut() = std::mem::take(&mut *self.sealed.borrow_mut());
    }

    /// A record without data is durable, which proves that the one before it is.
    pub(super) fn marked(&self) {
        *self.durable.borrow_mut() = Ranges::default();
    }
}

/// The checksums of the parts of a range.
pub(super) async fn checksums(
    storage: &impl Storage,
    range: &Range<u64>,
) -> Result<Vec<u32>, Error> {
    let len = usize::try_from(range.end - range.start).expect("bounded");
    let within = storage.size_bytes().saturating_sub(range.start);
    let buffers = Buffers::zeroed(len);
    let within = usize::try_from(within).unwrap_or(usize::MAX).min(len);
    if within > 0 {
        storage
            .read_at(range.start, buffers.slice(0..within))
            .await?;
    }
    let bytes = buffers.to_vec();
    let (mut sums, mut at) = (Vec::new(), range.start);
    while at < range.end {
        let end = part_end(at, range.end);
        let index = |n: u64| usize::try_from(n - range.start).expect("within the bytes");
        sums.push(crc32c::crc32c(&bytes[index(at)..index(end)]));
        at = end;
    }
    Ok(sums)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Executor, SimulatedStorage};

    /// It is durable with the record that guards it, and what is written over it waits: it may go
    /// home while a record that vouches for it again is the newest.
    #[test]
    fn what_is_guarded_gets_no_other_checksum() {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        executor.run(async {
            let storage = SimulatedStorage::new(16384, 1);
            let checks = Checks::new(4096);
            let seal = async || {
                let _closed = checks.close(&storage).await.unwrap();
                let (sums, unchecked) = checks.seal();
                assert!(!unchecked);
                checks.committed();
                sums.into_iter()
                    .map(|(range, _)| (range.start, range.end))
                    .collect::<Vec<_>>()
            };
            checks.note_fresh(0..8192);
            assert_eq!(seal().await, [(0, 8192)]);
            checks.note_fresh(4096..12_288);
            assert_eq!(seal().await, [(8192, 12_288)]);
            checks.note_fresh(0..8192);
            assert_eq!(seal().await, [(0, 8192)], "it is not guarded any more");
        });
    }
}
