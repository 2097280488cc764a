//! Where the parts of the disk are.

use std::ops::Range;

use super::image::Image;
use crate::Storage;
use crate::flat::table::Table;
use crate::mutant::mutant;

/// Where a part of the disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In the file, from this byte on.
    Here(u64),
    /// The same, but a snapshot has it too: it is not written.
    Frozen(u64),
    /// Nowhere: it reads as zeros.
    Zeros,
    /// In the base; what lies behind what that covers reads as zeros.
    Base,
}

impl Place {
    /// What follows so many bytes behind in the same place.
    fn behind(self, bytes: u64) -> Self {
        match self {
            Self::Here(host) => Self::Here(host + bytes),
            Self::Frozen(host) => Self::Frozen(host + bytes),
            other => other,
        }
    }
}

impl<S: Storage> Image<S> {
    /// Where the first byte of a range of the disk is, and up to where the next ones follow there.
    pub(super) fn part(&self, range: &Range<u64>) -> (Place, u64) {
        let (local, end) = self.run(range);
        if !local {
            return (Place::Base, end);
        }
        if let Some(table) = &*self.table.borrow() {
            return self.part_of_chunks(table, &(range.start..end));
        }
        let data_offset = self.header.borrow().data_offset;
        (Place::Here(data_offset + range.start), end)
    }

    /// The same for what does not come from the base.
    fn part_of_chunks(&self, table: &Table, range: &Range<u64>) -> (Place, u64) {
        let (place, mut end) = self.part_of_chunk(table, range);
        while end < range.end {
            let (next, next_end) = self.part_of_chunk(table, &(end..range.end));
            if next != place.behind(end - range.start) {
                break;
            }
            end = next_end;
        }
        (place, end)
    }

    /// The same, no further than to the end of the chunk.
    fn part_of_chunk(&self, table: &Table, range: &Range<u64>) -> (Place, u64) {
        let end = range.end.min(table.chunk_end(range.start));
        let Some(host) = table.host(range.start) else {
            return (Place::Zeros, end);
        };
        let bitmap = self.bitmap.borrow();
        let (is_set, blocks_end) = bitmap.run_of_bits(&bitmap.blocks(&(range.start..end)));
        let end = end.min(blocks_end << self.header.borrow().block_bits);
        let place = match is_set {
            true if table.is_frozen(range.start) && !mutant("a frozen place is written") => {
                Place::Frozen(host)
            }
            true => Place::Here(host),
            false => Place::Zeros,
        };
        (place, end)
    }

    /// Where a range of the disk is that is local, if all of it is in the file, and in one piece.
    pub(super) fn in_one_place(&self, range: &Range<u64>) -> Option<u64> {
        match self.part(range) {
            (Place::Here(host) | Place::Frozen(host), end) if end == range.end => Some(host),
            _ => None,
        }
    }

    /// The same, if it may be written there.
    pub(super) fn in_own_place(&self, range: &Range<u64>) -> Option<u64> {
        match self.part(range) {
            (Place::Here(host), end) if end == range.end => Some(host),
            _ => None,
        }
    }

    /// Where a byte of the disk is written in the file, whether or not it is there; absent if it has
    /// no place, or one that a snapshot has too.
    pub(super) fn own_host(&self, offset: u64) -> Option<u64> {
        match &*self.table.borrow() {
            Some(table) => {
                let is_frozen = table.is_frozen(offset)
                    && !mutant("what is copied from the base goes to a frozen place");
                table.host(offset).filter(|_| !is_frozen)
            }
            None => Some(self.header.borrow().data_offset + offset),
        }
    }

    /// Where a byte of the disk has a place that a snapshot has too.
    pub(super) fn frozen_host(&self, offset: u64) -> Option<u64> {
        let table = self.table.borrow();
        let table = table.as_ref().filter(|table| table.is_frozen(offset))?;
        table.host(offset)
    }

    /// The part of a range that is in its first chunk.
    pub(super) fn in_one_chunk(&self, range: &Range<u64>) -> Range<u64> {
        let table = self.table.borrow();
        let end = table.as_ref().map(|table| table.chunk_end(range.start));
        range.start..range.end.min(end.unwrap_or(u64::MAX))
    }

    /// Whether every chunk that a range touches has a place of its own.
    pub(super) fn owns_places(&self, range: &Range<u64>) -> bool {
        match &*self.table.borrow() {
            Some(table) => {
                let mut chunks = table.chunk(range.start)..=table.chunk(range.end - 1);
                chunks.all(|chunk| table.owns_place(chunk))
            }
            None => true,
        }
    }

    /// The first and the last of the blocks that a range touches: who holds them keeps what they
    /// hold as it is.
    pub(super) fn blocks_of(&self, range: &Range<u64>) -> (u64, u64) {
        let bits = self.header.borrow().block_bits;
        (range.start >> bits, (range.end - 1) >> bits)
    }

    /// The same for whole chunks: who holds those exclusively may give them places, or take them.
    pub(super) fn lock_range(&self, range: &Range<u64>) -> (u64, u64) {
        let table = self.table.borrow();
        match &*table {
            Some(table) => {
                let start = range.start - range.start % table.chunk_bytes();
                self.blocks_of(&(start..table.chunk_end(range.end - 1)))
            }
            None => self.blocks_of(range),
        }
    }
}
