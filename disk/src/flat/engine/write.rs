//! Writing: in place what is local; the rest becomes local, with what the write leaves out of its
//! blocks copied from the base.

use std::ops::Range;

use super::image::Image;
use super::read::slice;
use crate::journal::{Journaled as _, overwrite};
use crate::mutant::mutant;
use crate::{Buffers, Error, Storage};

impl<S: Storage> Image<S> {
    /// Writes at `offset` of the disk.
    pub(super) async fn write(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let range = offset..offset + buffers.len() as u64;
        let (first, last) = self.lock_range(&range);
        let shared = self.blocks.shared(first, last).await;
        if self.is_recorded(&range) {
            return overwrite(self, self.host(offset), buffers).await.map(drop);
        }
        drop(shared);
        let _exclusive = self.blocks.exclusive(first, last).await;
        self.write_held(offset, &buffers).await
    }

    /// Writes as [`Image::write`] does. The caller holds the blocks exclusively.
    pub(super) async fn write_held(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let end = offset + buffers.len() as u64;
        self.record(&(offset..end));
        let mut at = offset;
        while at < end {
            let (local, run_end) = self.run(&(at..end));
            let part = slice(buffers, at - offset, run_end - at);
            if local {
                overwrite(self, self.host(at), part).await?;
            } else {
                self.write_missing(at, part).await?;
            }
            at = run_end;
        }
        Ok(())
    }

    /// Writes to blocks none of which is local.
    async fn write_missing(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let block_bytes = self.block_bytes();
        let end = offset + buffers.len() as u64;
        let start = offset - offset % block_bytes;
        let whole_end = end.next_multiple_of(block_bytes).min(self.size_bytes());
        let head = self.copy_of(start..offset).await?;
        let tail = self.copy_of(end..whole_end).await?;
        let data = Buffers::concat(head.into_iter().chain([buffers]).chain(tail));
        self.write_host(self.host(start), data).await?;
        self.make_local(&(start..whole_end));
        Ok(())
    }

    /// What the base has in a range.
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

    /// Whole blocks are in the file from now on; the pending transaction says so.
    pub(super) fn make_local(&self, range: &Range<u64>) {
        let bitmap = self.bitmap.borrow();
        bitmap.set(&bitmap.blocks(range));
        self.vouch_for(range);
    }

    /// The pending transaction has checksums of what is in the file.
    pub(super) fn vouch_for(&self, range: &Range<u64>) {
        if let Some(journal) = self
            .journal()
            .filter(|_| !mutant("new blocks are not vouched for"))
        {
            let host = self.host(range.start)..self.host(range.end);
            journal.checks.note_fresh(host);
        }
    }
}
