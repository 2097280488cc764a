//! A piece of a disk that passes by.

use std::ops::Range;

use crate::Buffers;

/// What is written or was read, and where.
#[derive(Clone, Debug)]
pub(super) struct Passing {
    /// Where it is, in bytes from the start of whoever looks.
    pub(super) offset: u64,
    /// Whether it becomes the content now; else it was before.
    pub(super) written: bool,
    content: Buffers,
}

impl Passing {
    pub(super) fn new(offset: u64, content: &Buffers, written: bool) -> Self {
        Self {
            offset,
            written,
            content: content.clone(),
        }
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.content.len() as u64)
    }

    /// What of it is in `range`, from the start of that.
    pub(super) fn within(&self, range: &Range<u64>) -> Option<Self> {
        let own = self.range();
        let (start, end) = (own.start.max(range.start), own.end.min(range.end));
        if start >= end {
            return None;
        }
        let place = |at: u64| usize::try_from(at - own.start).ok();
        let content = self.content.slice(place(start)?..place(end)?);
        Some(Self {
            offset: start - range.start,
            written: self.written,
            content,
        })
    }

    /// Copies what is at `offset`; whether all of it was there.
    pub(super) fn copy(&self, offset: u64, target: &mut [u8]) -> bool {
        let from = offset
            .checked_sub(self.offset)
            .and_then(|from| usize::try_from(from).ok());
        let to = from.and_then(|from| from.checked_add(target.len()));
        match from.zip(to) {
            Some((from, to)) if to <= self.content.len() => {
                self.content.slice(from..to).copy_to(target);
                true
            }
            _ => false,
        }
    }

    /// The bytes at `offset`, if all of them passed by.
    pub(super) fn bytes<const N: usize>(&self, offset: u64) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.copy(offset, &mut bytes).then_some(bytes)
    }

    /// The numbers of the blocks that passed by whole.
    pub(super) fn whole_blocks(&self, block_bytes: u64) -> Range<u64> {
        let Range { start, end } = self.range();
        let first = start.div_ceil(block_bytes);
        first..(end / block_bytes).max(first)
    }
}
