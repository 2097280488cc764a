//! Writing: in place what is local; the rest becomes local, with what the write leaves out of its
//! blocks copied from the base.

use std::ops::Range;

use super::image::Image;
use super::place::Place;
use super::read::slice;
use crate::journal::{Journaled as _, overwrite};
use crate::mutant::mutant;
use crate::range_locks::RangeGuard;
use crate::{Buffers, Error, Storage};

impl<S: Storage> Image<S> {
    /// Writes at `offset` of the disk.
    pub(super) async fn write(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let range = offset..offset + buffers.len() as u64;
        let (first, last) = self.blocks_of(&range);
        let shared = self.blocks.shared(first, last).await;
        if let Some(host) = self.in_own_place(&range)
            && self.is_recorded(&range)
        {
            return overwrite(self, host, buffers).await.map(drop);
        }
        drop(shared);
        let _exclusive = self.exclusive_for_write(&range).await;
        self.write_held(offset, &buffers).await
    }

    /// Holds the blocks of a range exclusively; whole chunks, if some of those have no place of their
    /// own.
    async fn exclusive_for_write(&self, range: &Range<u64>) -> RangeGuard<'_> {
        if self.owns_places(range) {
            let (first, last) = self.blocks_of(range);
            let exclusive = self.blocks.exclusive(first, last).await;
            // A discard may have come before.
            if self.owns_places(range) {
                return exclusive;
            }
        }
        let (first, last) = self.lock_range(range);
        self.blocks.exclusive(first, last).await
    }

    /// Writes as [`Image::write`] does. The caller holds the blocks exclusively, or, where there is
    /// no place of their own, the chunks.
    pub(super) async fn write_held(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let end = offset + buffers.len() as u64;
        self.record(&(offset..end));
        let mut at = offset;
        while at < end {
            let (place, mut part_end) = self.part(&(at..end));
            if !matches!(place, Place::Here(_)) {
                part_end = self.in_one_chunk(&(at..part_end)).end;
            }
            let part = slice(buffers, at - offset, part_end - at);
            match place {
                Place::Here(host) => drop(overwrite(self, host, part).await?),
                Place::Frozen(_) | Place::Zeros | Place::Base => {
                    self.write_missing(at, part).await?;
                }
            }
            at = part_end;
        }
        Ok(())
    }

    /// Writes to blocks of one chunk, none of which is in the file, or all where they must stay as they
    /// are.
    async fn write_missing(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let block_bytes = self.block_bytes();
        let end = offset + buffers.len() as u64;
        let start = offset - offset % block_bytes;
        let whole_end = end.next_multiple_of(block_bytes).min(self.size_bytes());
        let head = self.copy_of(start..offset).await?;
        let tail = self.copy_of(end..whole_end).await?;
        let data = Buffers::concat(head.into_iter().chain([buffers]).chain(tail));
        self.fill_place(&(start..whole_end), data).await?;
        self.make_local(&(start..whole_end));
        Ok(())
    }

    /// What a range reads as.
    async fn copy_of(&self, range: Range<u64>) -> Result<Option<Buffers>, Error> {
        if range.is_empty() {
            return Ok(None);
        }
        let len = usize::try_from(range.end - range.start).expect("within a block");
        let content = Buffers::zeroed(len);
        if !mutant("a block is not filled from its base") {
            self.read_held(range.start, &content).await?;
        }
        Ok(Some(content))
    }

    /// Whole blocks are in the file from now on, or read as zeros where they have no place; the
    /// pending transaction says so.
    pub(super) fn make_local(&self, range: &Range<u64>) {
        let bitmap = self.bitmap.borrow();
        bitmap.set(&bitmap.blocks(range));
        self.vouch_for(range);
    }

    /// The pending transaction has checksums of what is in the file.
    pub(super) fn vouch_for(&self, range: &Range<u64>) {
        let Some(journal) = self
            .journal()
            .filter(|_| !mutant("new blocks are not vouched for"))
        else {
            return;
        };
        let mut rest = range.clone();
        while !rest.is_empty() {
            let part = self.in_one_chunk(&rest);
            if let Some(host) = self.own_host(part.start) {
                journal
                    .checks
                    .note_fresh(host..host + part.end - part.start);
            }
            rest.start = part.end;
        }
    }
}
