//! Data that cannot go to its place yet: it waits in memory, and in the journal.
//!
//! What a guest writes over guarded data goes to a *shadow*, and with its next flush into a record
//! (full mode). From then on, as long as recovery might write that record's data home, all that the
//! guest writes there goes the same way.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::ops::Range;
use std::rc::Rc;

use super::format::BLOCK_BYTES;
use crate::Buffers;
use crate::ranges::{Ranges, ones};

const SECTOR_BYTES: u64 = 512;
const BLOCK: usize = 4096;

/// A block of the file, of which some sectors are here.
struct Shadow {
    bytes: Box<[u8; BLOCK]>,
    /// The sectors that are here, and not in their place.
    here: u8,
    /// Those that no record has as they are.
    pending: u8,
    /// Those that a record has which is not durable yet.
    sealed: u8,
    /// The last record that has any.
    last: u64,
}

/// All data that is not in its place.
#[derive(Default)]
pub(crate) struct Shadows {
    table: RefCell<Table>,
    /// Room for what is not here yet.
    reserved_bytes: Rc<Cell<u64>>,
}

/// Room that is kept, until this is dropped.
pub(crate) struct Reserved {
    all: Rc<Cell<u64>>,
    bytes: Cell<u64>,
}

impl Reserved {
    /// So much of it is used.
    pub(crate) fn used(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
        self.all.set(self.all.get() - bytes);
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used(self.bytes.get());
    }
}

#[derive(Default)]
struct Table {
    /// By the numbers of their blocks.
    blocks: BTreeMap<u64, Shadow>,
    /// Those of which something waits for a record, and how many sectors.
    pending: BTreeSet<u64>,
    pending_sectors: u64,
    /// Those of which something is in a record that is not durable yet.
    sealed: Vec<u64>,
    /// Those of which something is in a durable record, by its number.
    durable: VecDeque<(u64, Vec<u64>)>,
}

/// The sectors of a block that a range touches, as a mask.
fn mask(block: u64, range: &Range<u64>) -> u8 {
    let start = block * BLOCK_BYTES;
    let first = range.start.saturating_sub(start) / SECTOR_BYTES;
    let end = (range.end - start).div_ceil(SECTOR_BYTES).min(8);
    let bits = |n: u64| u8::try_from((1_u16 << n) - 1).unwrap_or(u8::MAX);
    bits(end) & !bits(first.min(8))
}

fn blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

impl Shadows {
    pub(super) fn is_empty(&self) -> bool {
        self.table.borrow().blocks.is_empty()
    }

    /// How much memory they take, or will.
    pub(super) fn bytes(&self) -> u64 {
        self.table.borrow().blocks.len() as u64 * BLOCK_BYTES + self.reserved_bytes.get()
    }

    /// How much of them waits for a record, or will.
    pub(super) fn pending_bytes(&self) -> u64 {
        self.table.borrow().pending_sectors * SECTOR_BYTES + self.reserved_bytes.get()
    }

    /// Keeps room for so many bytes.
    pub(super) fn reserve(&self, bytes: u64) -> Reserved {
        let all = Rc::clone(&self.reserved_bytes);
        all.set(all.get() + bytes);
        let bytes = Cell::new(bytes);
        Reserved { all, bytes }
    }

    /// Whether something waits for a record.
    pub(crate) fn has_pending(&self) -> bool {
        self.table.borrow().pending_sectors != 0
    }

    /// The parts of a range that are here.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Ranges::default();
        for (block, shadow) in self.table.borrow().blocks.range(blocks(range)) {
            runs(*block, shadow.here & mask(*block, range)).for_each(|run| parts.insert(run));
        }
        parts.iter().collect()
    }

    /// Keeps what the guest writes to a range, whole sectors.
    pub(crate) fn put(&self, range: &Range<u64>, bytes: &[u8]) {
        let table = &mut *self.table.borrow_mut();
        for block in blocks(range) {
            let shadow = table.blocks.entry(block).or_insert_with(|| Shadow {
                bytes: Box::new([0; BLOCK]),
                here: 0,
                pending: 0,
                sealed: 0,
                last: 0,
            });
            let touched = mask(block, range);
            shadow.here |= touched;
            table.pending_sectors += u64::from((touched & !shadow.pending).count_ones());
            table.pending.insert(block);
            shadow.pending |= touched;
            let start = block * BLOCK_BYTES;
            let (from, to) = (start.max(range.start), (start + BLOCK_BYTES).min(range.end));
            shadow.bytes[index(from - start)..index(to - start)]
                .copy_from_slice(&bytes[index(from - range.start)..index(to - range.start)]);
        }
    }

    /// Copies what is here of a range, to be laid over what is read from its place.
    pub(crate) fn copy(&self, range: &Range<u64>) -> Vec<(u64, Vec<u8>)> {
        let mut copies = Vec::new();
        for (block, shadow) in self.table.borrow().blocks.range(blocks(range)) {
            copies.extend(shadow.copy(*block, shadow.here & mask(*block, range)));
        }
        copies
    }

    /// What goes into the next record: offsets and whole sectors.
    pub(crate) fn seal(&self) -> Vec<(u64, Vec<u8>)> {
        let table = &mut *self.table.borrow_mut();
        let mut copies = Vec::new();
        for block in mem::take(&mut table.pending) {
            let shadow = table.blocks.get_mut(&block).expect("what waits is here");
            let pending = mem::take(&mut shadow.pending);
            shadow.sealed |= pending;
            copies.extend(shadow.copy(block, pending));
            table.sealed.push(block);
        }
        table.pending_sectors = 0;
        copies
    }

    /// Nothing points to a range any more.
    pub(super) fn forget(&self, range: &Range<u64>) {
        let table = &mut *self.table.borrow_mut();
        let gone: Vec<_> = table.blocks.range(blocks(range)).map(|(n, _)| *n).collect();
        for block in gone {
            let shadow = table.blocks.get_mut(&block).expect("it was just found");
            let gone = mask(block, range);
            table.pending_sectors -= u64::from((gone & shadow.pending).count_ones());
            shadow.here &= !gone;
            shadow.pending &= !gone;
            shadow.sealed &= !gone;
            if shadow.pending == 0 {
                table.pending.remove(&block);
            }
            if shadow.here == 0 {
                table.blocks.remove(&block);
            } else if shadow.pending | shadow.sealed == 0 {
                // It may have been passed over while something of it was to come.
                table.durable.push_front((shadow.last, vec![block]));
            }
        }
    }

    /// What was sealed is in record `sequence`, which is durable.
    pub(super) fn committed(&self, sequence: u64) {
        let table = &mut *self.table.borrow_mut();
        let mut sealed = mem::take(&mut table.sealed);
        sealed.retain(|block| {
            let shadow = table.blocks.get_mut(block);
            let Some(shadow) = shadow.filter(|shadow| shadow.sealed != 0) else {
                return false;
            };
            (shadow.sealed, shadow.last) = (0, sequence);
            true
        });
        if !sealed.is_empty() {
            table.durable.push_back((sequence, sealed));
        }
    }

    /// Recovery writes home no record before `tail` any more.
    pub(super) fn release(&self, tail: u64) {
        let table = &mut *self.table.borrow_mut();
        while table.durable.front().is_some_and(|(n, _)| *n < tail) {
            let (_, blocks) = table.durable.pop_front().expect("there is one");
            for block in blocks {
                let is_home =
                    |shadow: &Shadow| shadow.pending | shadow.sealed == 0 && shadow.last < tail;
                if table.blocks.get(&block).is_some_and(is_home) {
                    table.blocks.remove(&block);
                }
            }
        }
    }
}

impl Shadow {
    /// Copies the sectors in a mask.
    fn copy(&self, block: u64, mask: u8) -> impl Iterator<Item = (u64, Vec<u8>)> + '_ {
        let start = block * BLOCK_BYTES;
        runs(block, mask).map(move |run| {
            let bytes = &self.bytes[index(run.start - start)..index(run.end - start)];
            (run.start, bytes.to_vec())
        })
    }
}

/// Lays copies of sectors over what was read at `offset`.
pub(crate) fn lay_over(copies: Vec<(u64, Vec<u8>)>, offset: u64, buffers: &Buffers) {
    let end = offset + buffers.len() as u64;
    for (at, bytes) in copies {
        let (from, to) = (at.max(offset), (at + bytes.len() as u64).min(end));
        if from < to {
            let target = buffers.slice(index(from - offset)..index(to - offset));
            target.copy_from(&bytes[index(from - at)..index(to - at)]);
        }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("within memory")
}

/// The runs of sectors in a mask.
fn runs(block: u64, mask: u8) -> impl Iterator<Item = Range<u64>> {
    let at = move |n: usize| block * BLOCK_BYTES + n as u64 * SECTOR_BYTES;
    ones(mask.into()).map(move |(first, end)| at(first)..at(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two clusters of 512 bytes share a block. One is in a durable record; something of the other
    /// is to come when that record is home, and then is forgotten.
    #[test]
    fn a_shadow_goes_when_nothing_of_it_is_to_come() {
        for is_sealed in [false, true] {
            let shadows = Shadows::default();
            shadows.put(&(0..512), &[1; 512]);
            assert_eq!(shadows.seal(), [(0, vec![1; 512])]);
            shadows.committed(5);
            shadows.put(&(512..1024), &[2; 512]);
            if is_sealed {
                shadows.seal();
            }
            shadows.release(6);
            assert_eq!(shadows.within(&(0..4096)).len(), 1);
            shadows.forget(&(512..1024));
            shadows.committed(6);
            shadows.release(7);
            assert!(shadows.is_empty());
            assert_eq!((shadows.bytes(), shadows.pending_bytes()), (0, 0));
        }
    }

    #[test]
    fn room_is_kept_until_it_is_used() {
        let shadows = Shadows::default();
        let room = shadows.reserve(8192);
        shadows.put(&(0..4096), &[1; 4096]);
        room.used(4096);
        assert_eq!((shadows.bytes(), shadows.pending_bytes()), (8192, 8192));
        drop(room);
        assert_eq!((shadows.bytes(), shadows.pending_bytes()), (4096, 4096));
    }
}
