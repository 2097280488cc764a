//! Discards and zeros, which go to the disk.

use std::ops::Range;
use std::rc::Rc;

use super::{Shared, blocks_of};
use crate::{CLASS_BLOCK_BYTES, Class, Error, Request, Storage};

impl<S: Storage> Shared<S> {
    /// What the disk has of dirty blocks is older than what was flushed: those become zeros.
    pub(super) async fn discard(self: &Rc<Self>, offset: u64, len: u64) -> Result<(), Error> {
        let blocks = blocks_of(offset, len);
        let _exclusive = self.locks.exclusive(blocks.start, blocks.end - 1).await;
        if self.has_dirty(&blocks) {
            return self.zero_locked(offset, len, true).await;
        }
        let result = self.home.disk.submit(Request::discard(offset, len)).await;
        self.changed(&blocks, &result);
        result
    }

    pub(super) async fn write_zeroes(
        self: &Rc<Self>,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> Result<(), Error> {
        let blocks = blocks_of(offset, len);
        let _exclusive = self.locks.exclusive(blocks.start, blocks.end - 1).await;
        self.zero_locked(offset, len, unmap).await
    }

    /// Makes a range zeros that nobody else uses. Dirty blocks at its ends, which are to be zeros in
    /// part, are written.
    async fn zero_locked(self: &Rc<Self>, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        let (mut start, mut end) = (offset, offset + len);
        let blocks = blocks_of(offset, len);
        let range = self.bytes_of(&blocks);
        let first = blocks.start..blocks.start + 1;
        if start > range.start && self.has_dirty(&first) {
            let until = end.min(self.bytes_of(&first).end);
            self.write_zeros(start..until).await?;
            start = until;
        }
        let last = blocks.end - 1..blocks.end;
        if start < end && end < range.end && self.has_dirty(&last) {
            let from = start.max(last.start * CLASS_BLOCK_BYTES);
            self.write_zeros(from..end).await?;
            end = from;
        }
        if start == end {
            return Ok(());
        }
        let request = Request::write_zeroes(start, end - start, unmap);
        let result = self.home.disk.submit(request).await;
        self.changed(&blocks_of(start, end - start), &result);
        result
    }

    async fn write_zeros(self: &Rc<Self>, range: Range<u64>) -> Result<(), Error> {
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        let class = Class::default();
        self.write_locked(range.start, vec![0; len], class).await
    }

    fn has_dirty(&self, blocks: &Range<u64>) -> bool {
        self.dirty_run(blocks).is_some()
    }

    /// The first dirty blocks of a range that follow each other.
    pub(super) fn dirty_run(&self, blocks: &Range<u64>) -> Option<Range<u64>> {
        let state = self.blocks.borrow();
        let mut dirty = state.dirty_within(blocks.clone());
        let first = dirty.next()?;
        let rest = dirty.zip(first + 1..);
        let end = rest
            .take_while(|(block, expected)| block == expected)
            .count() as u64;
        Some(first..first + 1 + end)
    }
}
