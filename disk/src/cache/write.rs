//! Writes: into the cache only, or to the disk and then into the cache.

use std::ops::Range;
use std::rc::Rc;

use super::blocks::Content;
use super::policy::Arrival;
use super::store::BLOCK;
use super::{Shared, WriteMode, blocks_of};
use crate::{Buffers, CLASS_BLOCK_BYTES, Class, Error, Request, Storage};

impl<S: Storage> Shared<S> {
    pub(super) async fn write(
        self: &Rc<Self>,
        offset: u64,
        buffers: &Buffers,
        class: Class,
    ) -> Result<(), Error> {
        let blocks = blocks_of(offset, buffers.len() as u64);
        let _exclusive = self.locks.exclusive(blocks.start, blocks.end - 1).await;
        // The guest may change its memory: the cache and the disk are to have the same.
        self.write_locked(offset, buffers.to_vec(), class).await
    }

    /// Writes to blocks that nobody else uses.
    pub(super) async fn write_locked(
        self: &Rc<Self>,
        offset: u64,
        bytes: Vec<u8>,
        class: Class,
    ) -> Result<(), Error> {
        self.writes.set(self.writes.get() + 1);
        if self.mode == WriteMode::Back && self.write_cached(offset, &bytes, class).await? {
            return Ok(());
        }
        self.write_home(offset, bytes, class).await
    }

    /// Writes into the cache; false if it has no room now, or fails.
    async fn write_cached(
        self: &Rc<Self>,
        offset: u64,
        bytes: &[u8],
        class: Class,
    ) -> Result<bool, Error> {
        let blocks = blocks_of(offset, bytes.len() as u64);
        let count = usize::try_from(blocks.end - blocks.start).unwrap_or(usize::MAX);
        let taken = self.blocks.borrow_mut().take(count);
        let Some(slots) = taken else {
            return Ok(false);
        };
        let written = self.write_slots(&slots, &blocks, offset, bytes).await;
        let mut state = self.blocks.borrow_mut();
        let crcs = match written {
            Ok(Some(crcs)) => crcs,
            Ok(None) => {
                state.give_back(&slots);
                return Ok(false);
            }
            Err(error) => {
                state.give_back(&slots);
                return Err(error);
            }
        };
        for ((block, slot), crc) in blocks.zip(slots).zip(crcs) {
            state.put_dirty(Content {
                block,
                slot,
                crc,
                arrival: Arrival::alone(class),
            });
        }
        let is_pressed = state.is_pressed();
        drop(state);
        self.work.wake_all();
        if is_pressed {
            self.pressure.wake_all();
        }
        Ok(true)
    }

    /// Puts whole blocks into slots; their checksums, or nothing if that did not work.
    async fn write_slots(
        self: &Rc<Self>,
        slots: &[u32],
        blocks: &Range<u64>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<Vec<u32>>, Error> {
        let Some(mut whole) = self.with_edges(blocks, offset, bytes).await? else {
            return Ok(None);
        };
        whole.resize(slots.len() * BLOCK, 0);
        let crcs = whole
            .chunks(BLOCK)
            .map(|block| self.checksum(block))
            .collect();
        if let Err(error) = self.store.write(slots, &Buffers::from_vec(whole)).await {
            tracing::debug!(%error, "a write goes to the disk, for the cache does not take it");
            return Ok(None);
        }
        if let Some(table) = &self.table {
            table.changed();
        }
        Ok(Some(crcs))
    }

    /// The bytes of whole blocks, with what they have now where a write leaves it; nothing if the
    /// disk does not say what that is.
    async fn with_edges(
        self: &Rc<Self>,
        blocks: &Range<u64>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Option<Vec<u8>>, Error> {
        let range = self.bytes_of(blocks);
        let end = offset + bytes.len() as u64;
        let at = |byte: u64| usize::try_from(byte - range.start).unwrap_or(usize::MAX);
        if (offset, end) == (range.start, range.end) {
            return Ok(Some(bytes.to_vec()));
        }
        let mut whole = vec![0; at(range.end)];
        let mut edges = Vec::new();
        if offset > range.start {
            edges.push(blocks.start);
        }
        if end < range.end && edges.first() != Some(&(blocks.end - 1)) {
            edges.push(blocks.end - 1);
        }
        for block in edges {
            let Some(old) = self.current(block).await? else {
                return Ok(None);
            };
            let start = at(block * CLASS_BLOCK_BYTES);
            whole[start..start + old.len()].copy_from_slice(&old);
        }
        whole[at(offset)..at(end)].copy_from_slice(bytes);
        Ok(Some(whole))
    }

    /// What a block has now; nothing if the disk cannot read it.
    async fn current(&self, block: u64) -> Result<Option<Vec<u8>>, Error> {
        let found = self.blocks.borrow().find(block);
        if let Some(version) = found {
            let _pins = self.pin(&[version]);
            match self.content(&[version]).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(error) if version.is_dirty => return Err(error),
                Err(_) => {}
            }
        }
        let range = self.bytes_of(&(block..block + 1));
        let len = usize::try_from(range.end - range.start).unwrap_or(BLOCK);
        let data = Buffers::zeroed(len);
        let read = self.home.read(range.start, data.clone()).await;
        Ok(read.is_ok().then(|| data.to_vec()))
    }

    /// Writes to the disk. Dirty blocks of which a part is written go home with it, as a whole.
    async fn write_home(
        self: &Rc<Self>,
        offset: u64,
        bytes: Vec<u8>,
        class: Class,
    ) -> Result<(), Error> {
        let blocks = blocks_of(offset, bytes.len() as u64);
        let (offset, bytes) = self.with_dirty_edges(&blocks, offset, bytes).await?;
        let len = bytes.len() as u64;
        let request = Request::write(offset, Buffers::from_vec(&bytes)).of_class(class);
        let written = self.home.disk.submit(request).await;
        self.changed(&blocks, &written);
        written?;
        // Blocks that were written in part are read when they are wanted.
        let whole = whole_blocks(offset, len, self.properties.size_bytes);
        if !whole.is_empty() {
            let start = usize::try_from(whole.start * CLASS_BLOCK_BYTES - offset).unwrap_or(0);
            let end = self.bytes_of(&whole).end - offset;
            let mut kept = bytes[start..usize::try_from(end).unwrap_or(bytes.len())].to_vec();
            kept.resize(kept.len().next_multiple_of(BLOCK), 0);
            self.fill(whole.start, &kept, class);
        }
        Ok(())
    }

    /// More bytes, so that no dirty block is written in part.
    async fn with_dirty_edges(
        self: &Rc<Self>,
        blocks: &Range<u64>,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<(u64, Vec<u8>), Error> {
        let (mut start, mut whole) = (offset, bytes);
        let end = offset + whole.len() as u64;
        let range = self.bytes_of(blocks);
        let cut = |byte: u64| usize::try_from(byte % CLASS_BLOCK_BYTES).unwrap_or(0);
        let first = self
            .dirty_content(blocks.start, start > range.start)
            .await?;
        let last = self.dirty_content(blocks.end - 1, end < range.end).await?;
        if let Some(old) = last {
            whole.extend_from_slice(&old[cut(end)..]);
        }
        if let Some(old) = first {
            whole.splice(0..0, old[..cut(start)].iter().copied());
            start = range.start;
        }
        Ok((start, whole))
    }

    /// What a dirty block has, if it is one and that is `wanted`.
    async fn dirty_content(&self, block: u64, wanted: bool) -> Result<Option<Vec<u8>>, Error> {
        let found = self.blocks.borrow().find(block);
        match found.filter(|version| version.is_dirty && wanted) {
            Some(version) => {
                let _pins = self.pin(&[version]);
                self.content(&[version]).await.map(Some)
            }
            None => Ok(None),
        }
    }

    /// The disk was asked to change blocks: what is cached of them is old, unless that failed, and
    /// then nobody knows. What is dirty was meant to be there before, and still is.
    pub(super) fn changed(&self, blocks: &Range<u64>, result: &Result<(), Error>) {
        let mark = self.home.changed_alone();
        let mut state = self.blocks.borrow_mut();
        if result.is_ok() {
            state.overwritten(blocks.clone(), mark);
        } else {
            for block in blocks.clone() {
                state.forget(block);
            }
        }
    }
}

/// The blocks that lie within a range of bytes as a whole.
fn whole_blocks(offset: u64, len: u64, size_bytes: u64) -> Range<u64> {
    let end = offset + len;
    let last = if end == size_bytes {
        end.div_ceil(CLASS_BLOCK_BYTES)
    } else {
        end / CLASS_BLOCK_BYTES
    };
    offset.div_ceil(CLASS_BLOCK_BYTES)..last.max(offset.div_ceil(CLASS_BLOCK_BYTES))
}
