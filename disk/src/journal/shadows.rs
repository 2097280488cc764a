//! Data that cannot go to its place yet: it waits in memory, and in the journal.
//!
//! What a guest writes over guarded data goes to a *shadow*, and with its next flush into a record
//! (full mode). From then on, as long as recovery might write that record's data home, all that the
//! guest writes there goes the same way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;

use super::format::BLOCK_BYTES;
use super::ranges::Ranges;
use crate::Buffers;

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
    /// By the numbers of their blocks.
    blocks: RefCell<BTreeMap<u64, Shadow>>,
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
        self.blocks.borrow().is_empty()
    }

    /// How much memory they take.
    pub(super) fn bytes(&self) -> u64 {
        self.blocks.borrow().len() as u64 * BLOCK_BYTES
    }

    /// How much of them waits for a record.
    pub(super) fn pending_bytes(&self) -> u64 {
        let blocks = self.blocks.borrow();
        let pending = blocks.values().map(|shadow| shadow.pending.count_ones());
        u64::from(pending.sum::<u32>()) * SECTOR_BYTES
    }

    /// Whether something waits for a record.
    pub(crate) fn has_pending(&self) -> bool {
        let blocks = self.blocks.borrow();
        blocks.values().any(|shadow| shadow.pending != 0)
    }

    /// The parts of a range that are here.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut parts = Ranges::default();
        for (block, shadow) in self.blocks.borrow().range(blocks(range)) {
            let here = shadow.here & mask(*block, range);
            sectors_of(*block, here).for_each(|sector| parts.insert(sector));
        }
        parts.iter().collect()
    }

    /// Keeps what the guest writes to a range, whole sectors.
    pub(crate) fn put(&self, range: &Range<u64>, bytes: &[u8]) {
        let mut shadows = self.blocks.borrow_mut();
        for block in blocks(range) {
            let shadow = shadows.entry(block).or_insert_with(|| Shadow {
                bytes: Box::new([0; BLOCK]),
                here: 0,
                pending: 0,
                sealed: 0,
                last: 0,
            });
            let touched = mask(block, range);
            shadow.here |= touched;
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
        for (block, shadow) in self.blocks.borrow().range(blocks(range)) {
            for sector in sectors_of(*block, shadow.here & mask(*block, range)) {
                let at = index(sector.start - block * BLOCK_BYTES);
                copies.push((sector.start, shadow.bytes[at..at + 512].to_vec()));
            }
        }
        copies
    }

    /// What goes into the next record: offsets and whole sectors.
    pub(crate) fn seal(&self) -> Vec<(u64, Vec<u8>)> {
        let mut sealed = Vec::new();
        for (block, shadow) in self.blocks.borrow_mut().iter_mut() {
            let pending = std::mem::take(&mut shadow.pending);
            if pending == 0 {
                continue;
            }
            shadow.sealed |= pending;
            for sector in sectors_of(*block, pending) {
                let at = index(sector.start - block * BLOCK_BYTES);
                sealed.push((sector.start, shadow.bytes[at..at + 512].to_vec()));
            }
        }
        sealed
    }

    /// Nothing points to a range any more.
    pub(super) fn forget(&self, range: &Range<u64>) {
        let mut shadows = self.blocks.borrow_mut();
        if shadows.range(blocks(range)).next().is_none() {
            return;
        }
        for (block, shadow) in shadows.range_mut(blocks(range)) {
            let gone = mask(*block, range);
            shadow.here &= !gone;
            shadow.pending &= !gone;
            shadow.sealed &= !gone;
        }
        shadows.retain(|_, shadow| shadow.here != 0);
    }

    /// What was sealed is in record `sequence`, which is durable.
    pub(super) fn committed(&self, sequence: u64) {
        for shadow in self.blocks.borrow_mut().values_mut() {
            if std::mem::take(&mut shadow.sealed) != 0 {
                shadow.last = sequence;
            }
        }
    }

    /// Recovery writes home no record before `tail` any more.
    pub(super) fn release(&self, tail: u64) {
        let mut shadows = self.blocks.borrow_mut();
        shadows.retain(|_, shadow| shadow.pending | shadow.sealed != 0 || shadow.last >= tail);
    }
}

/// Lays copies of sectors over what was read at `offset`.
pub(crate) fn lay_over(copies: Vec<(u64, Vec<u8>)>, offset: u64, buffers: &Buffers) {
    let end = offset + buffers.len() as u64;
    for (at, bytes) in copies {
        let (from, to) = (at.max(offset), (at + SECTOR_BYTES).min(end));
        if from < to {
            let target = buffers.slice(index(from - offset)..index(to - offset));
            target.copy_from(&bytes[index(from - at)..index(to - at)]);
        }
    }
}

fn index(n: u64) -> usize {
    usize::try_from(n).expect("within memory")
}

/// The sectors in a mask.
fn sectors_of(block: u64, mask: u8) -> impl Iterator<Item = Range<u64>> {
    let start = block * BLOCK_BYTES;
    (0..8_u64)
        .filter(move |n| mask >> n & 1 == 1)
        .map(move |n| start + n * SECTOR_BYTES..start + (n + 1) * SECTOR_BYTES)
}
