//! Reads: what is there from the cache, and what is missing from the disk, in runs.

use std::ops::Range;
use std::rc::Rc;

use futures_util::future::try_join_all;

use super::blocks::{Content, Version};
use super::policy::Arrival;
use super::store::BLOCK;
use super::{Shared, blocks_of};
use crate::{Buffers, CLASS_BLOCK_BYTES, Class, Error, Storage, spawn};

/// So many fills of a cache file may be on their way that nobody waits for.
const FILLS_MAX: usize = 32;
/// What is longer than this part of the cache, and is nothing that is worth keeping, does not come
/// into it.
const LONG_PART: u64 = 8;

/// What is read or written at once and is longer costs each of its blocks little. Nodes of btrfs, and most clusters of
/// inodes of XFS, are not.
const RUN_BYTES: usize = 32 << 10;

/// Blocks that follow each other.
enum Run {
    /// All are in the cache.
    There(Vec<Version>),
    Missing(Range<u64>),
}

/// Keeps slots as they are.
pub(super) struct Pins<'a, S: Storage> {
    shared: &'a Shared<S>,
    slots: Vec<u32>,
}

impl<S: Storage> Drop for Pins<'_, S> {
    fn drop(&mut self) {
        let mut blocks = self.shared.blocks.borrow_mut();
        for slot in &self.slots {
            blocks.unpin(*slot);
        }
    }
}

/// Where the bytes of blocks go that a request wants: `buffers` begins at byte `offset` of the disk.
struct Target<'a> {
    offset: u64,
    buffers: &'a Buffers,
}

impl Target<'_> {
    /// The part of `range` that is wanted, and where it goes.
    fn part(&self, range: &Range<u64>) -> (Range<u64>, Buffers) {
        let end = self.offset + self.buffers.len() as u64;
        let wanted = range.start.max(self.offset)..range.end.min(end);
        let at = |byte: u64| usize::try_from(byte - self.offset).unwrap_or(usize::MAX);
        let buffers = self.buffers.slice(at(wanted.start)..at(wanted.end));
        (wanted, buffers)
    }

    /// Takes what is wanted of `bytes`, which begin at byte `start` of the disk.
    fn take(&self, start: u64, bytes: &[u8]) {
        let (wanted, buffers) = self.part(&(start..start + bytes.len() as u64));
        let at = |byte: u64| usize::try_from(byte - start).unwrap_or(usize::MAX);
        buffers.copy_from(&bytes[at(wanted.start)..at(wanted.end)]);
    }
}

impl<S: Storage> Shared<S> {
    pub(super) async fn read(
        self: &Rc<Self>,
        offset: u64,
        buffers: &Buffers,
        class: Class,
    ) -> Result<(), Error> {
        let blocks = blocks_of(offset, buffers.len() as u64);
        let _shared = self.locks.shared(blocks.start, blocks.end - 1).await;
        let target = Target { offset, buffers };
        let (runs, _pins) = self.look_up(&blocks, class);
        let reads = runs.into_iter().map(async |run| match run {
            Run::There(versions) => self.read_cached(&versions, &target, class).await,
            Run::Missing(blocks) => self.fetch(&blocks, &target, class).await,
        });
        try_join_all(reads).await.map(drop)
    }

    /// What of these blocks is there, and counts that.
    fn look_up(&self, range: &Range<u64>, class: Class) -> (Vec<Run>, Pins<'_, S>) {
        let mut blocks = self.blocks.borrow_mut();
        let (mut runs, mut slots) = (Vec::new(), Vec::new());
        for block in range.clone() {
            let found = blocks.find(block);
            let size_bytes = self.properties.size_bytes;
            blocks
                .counts
                .read(block, size_bytes, class, found.is_some());
            match (found, runs.last_mut()) {
                (Some(version), last) => {
                    blocks.touch(&version);
                    blocks.pin(version.slot);
                    slots.push(version.slot);
                    match last {
                        Some(Run::There(versions)) => versions.push(version),
                        _ => runs.push(Run::There(vec![version])),
                    }
                }
                (None, Some(Run::Missing(missing))) => missing.end = block + 1,
                (None, _) => runs.push(Run::Missing(block..block + 1)),
            }
        }
        drop(blocks);
        let shared = self;
        (runs, Pins { shared, slots })
    }

    /// Keeps what the cache has of a block in its slot.
    pub(super) fn pin(&self, versions: &[Version]) -> Pins<'_, S> {
        let slots: Vec<_> = versions.iter().map(|version| version.slot).collect();
        let mut blocks = self.blocks.borrow_mut();
        for slot in &slots {
            blocks.pin(*slot);
        }
        Pins {
            shared: self,
            slots,
        }
    }

    /// Reads blocks that are in the cache. One that cannot be read is a miss, unless it is dirty:
    /// then nobody has its content any more.
    async fn read_cached(
        self: &Rc<Self>,
        versions: &[Version],
        target: &Target<'_>,
        class: Class,
    ) -> Result<(), Error> {
        let start = |version: &Version| version.block * CLASS_BLOCK_BYTES;
        if let (Ok(bytes), Some(first)) = (self.content(versions).await, versions.first()) {
            target.take(start(first), &bytes);
            return Ok(());
        }
        for version in versions {
            match self.content(std::slice::from_ref(version)).await {
                Ok(bytes) => target.take(start(version), &bytes),
                Err(error) if version.is_dirty => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, "a cached block is read from the disk");
                    if self.blocks.borrow().is_current(version) {
                        self.blocks.borrow_mut().forget(version.block);
                    }
                    let blocks = version.block..version.block + 1;
                    self.fetch(&blocks, target, class).await?;
                }
            }
        }
        Ok(())
    }

    /// What is in the slots of blocks, which are pinned, cut off at the end of the disk. Other than
    /// what was put there is an error.
    pub(super) async fn content(&self, versions: &[Version]) -> Result<Vec<u8>, Error> {
        let slots: Vec<_> = versions.iter().map(|version| version.slot).collect();
        let mut bytes = self.store.read(&slots).await?;
        if self.store.is_file() {
            for (version, block) in versions.iter().zip(bytes.chunks(BLOCK)) {
                self.check(version, block)?;
            }
        }
        if let Some(last) = versions.last() {
            let end = (last.block + 1) * CLASS_BLOCK_BYTES;
            let beyond = end.saturating_sub(self.properties.size_bytes);
            let beyond = usize::try_from(beyond).unwrap_or(BLOCK);
            bytes.truncate(bytes.len() - beyond);
        }
        Ok(bytes)
    }

    fn check(&self, version: &Version, block: &[u8]) -> Result<(), Error> {
        match &self.table {
            Some(table) if crc32c::crc32c(block) != version.crc => Err(Error::Damaged {
                path: table.path.clone(),
                offset: table.slot_offset(version.slot),
                problem: "a cached block is not what was written there".into(),
            }),
            _ => Ok(()),
        }
    }

    /// Reads blocks of the disk, which somebody wants a part of, and keeps them.
    async fn fetch(
        self: &Rc<Self>,
        blocks: &Range<u64>,
        target: &Target<'_>,
        class: Class,
    ) -> Result<(), Error> {
        let range = self.bytes_of(blocks);
        let count = blocks.end - blocks.start;
        if class == Class::Other && count > u64::from(self.slots) / LONG_PART {
            let (wanted, buffers) = target.part(&range);
            return self.home.read(wanted.start, buffers).await;
        }
        // Not into the guest's memory, which the guest may change before it is cached.
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let data = Buffers::zeroed(len.next_multiple_of(BLOCK));
        self.home.read(range.start, data.slice(0..len)).await?;
        let bytes = data.to_vec();
        target.take(range.start, &bytes[..len]);
        self.fill(blocks.start, &bytes, class);
        Ok(())
    }

    /// Puts whole blocks, from `first` on, into the cache, as they are on the disk now. The caller
    /// keeps others from changing them until this has returned.
    pub(super) fn fill(self: &Rc<Self>, first: u64, bytes: &[u8], class: Class) {
        if self.store.is_file() && self.fills.get() >= FILLS_MAX {
            return;
        }
        let arrival = Arrival {
            class,
            came_in_run: bytes.len() > RUN_BYTES,
        };
        let mut contents = Vec::new();
        let mut data = Vec::new();
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK)) {
            let Some(slot) = self.blocks.borrow_mut().begin_fill(block) else {
                continue;
            };
            contents.push(Content {
                block,
                slot,
                crc: self.checksum(bytes),
                arrival,
            });
            data.extend_from_slice(bytes);
        }
        if contents.is_empty() {
            return;
        }
        let shared = Rc::clone(self);
        self.fills.set(self.fills.get() + 1);
        let filled = async move {
            let slots: Vec<_> = contents.iter().map(|content| content.slot).collect();
            let written = shared.store.write(&slots, &Buffers::from_vec(data)).await;
            for content in contents {
                shared
                    .blocks
                    .borrow_mut()
                    .end_fill(content, written.is_ok());
            }
            shared.fills.set(shared.fills.get() - 1);
            shared.filled.wake_all();
        };
        self.run_fill(filled);
    }

    /// Memory is filled at once.
    fn run_fill(&self, fill: impl Future<Output = ()> + 'static) {
        if self.store.is_file() {
            spawn(fill);
            return;
        }
        let mut fill = Box::pin(fill);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let polled = fill.as_mut().poll(&mut context);
        debug_assert!(polled.is_ready(), "memory takes no time");
    }

    /// The checksum of a block: memory needs none.
    pub(super) fn checksum(&self, block: &[u8]) -> u32 {
        if self.store.is_file() {
            crc32c::crc32c(block)
        } else {
            0
        }
    }
}
