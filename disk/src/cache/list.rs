//! What is in the cache, and dropping it.

use std::rc::Rc;

use super::Cached;
use crate::{CLASS_BLOCK_BYTES, Class, Error, Storage};

/// Blocks that follow each other on the disk, and are alike in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedRange {
    /// Where they begin, in bytes.
    pub offset: u64,
    /// How far they go, in bytes.
    pub len: u64,
    /// What they are to the guest.
    pub class: Class,
    /// Whether they are newer than on the disk.
    pub is_dirty: bool,
}

impl<S: Storage> Cached<S> {
    /// What is in the cache from byte `offset` of the disk on, in order: no more than `max` ranges.
    pub fn list(&self, offset: u64, max: usize) -> Vec<CachedRange> {
        let shared = &self.shared;
        let first = offset / CLASS_BLOCK_BYTES;
        let mut ranges: Vec<CachedRange> = Vec::new();
        for version in shared.blocks.borrow().versions(first) {
            let bytes = shared.bytes_of(&(version.block..version.block + 1));
            let found = CachedRange {
                offset: bytes.start,
                len: bytes.end - bytes.start,
                class: version.class,
                is_dirty: version.is_dirty,
            };
            let is_full = ranges.len() == max;
            match ranges.last_mut() {
                Some(last) if last.is_continued_by(&found) => last.len += found.len,
                _ if is_full => break,
                _ => ranges.push(found),
            }
        }
        ranges
    }

    /// Brings all home, and drops it from the cache. What is read or written meanwhile may be there
    /// afterwards.
    pub async fn clear(&self) -> Result<(), Error> {
        let shared = &self.shared;
        Rc::clone(shared).bring_all_home().await?;
        shared.blocks.borrow_mut().clear();
        match &shared.table {
            Some(table) => shared.commit(table).await,
            None => Ok(()),
        }
    }
}

impl CachedRange {
    fn is_continued_by(&self, next: &Self) -> bool {
        self.offset + self.len == next.offset
            && (self.class, self.is_dirty) == (next.class, next.is_dirty)
    }
}
