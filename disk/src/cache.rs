//! A cache in front of a disk whose storage is slow or far away: blocks of 4 KiB in memory, or in a
//! file that is faster.
//!
//! ```text
//!   Request ──> Cached ──hit──> Store: memory │ file
//!                 │ miss, write through, write back
//!                 v
//!               Home: the disk
//! ```
//! `blocks` says which block is in which slot, and `policy` what leaves; neither does I/O.
//! Requests hold the blocks they touch, shared to read them, exclusively to change them. A block
//! that is *dirty* is newer in the cache than on the disk: what is in a cache file is durable with
//! that, by the order that docs/cache-format.md proves.

mod blocks;
mod change;
mod commit;
mod counts;
mod format;
mod home;
mod list;
mod open;
mod policy;
mod read;
mod recover;
mod store;
mod write;
mod write_back;

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

pub use counts::{CACHE_REGIONS, CacheCounts, CacheRegions, CacheStatistics, RegionCounts};
pub use format::Stamp;
pub use home::Look;
pub use list::CachedRange;
pub use open::{CacheOptions, MAX_BYTES, MIN_BYTES, WriteMode};
pub use policy::PolicyKind;

use crate::executor::uninterrupted;
use crate::latch::Latch;
use crate::range_locks::RangeLocks;
use crate::request::Counted;
use crate::wait_queue::WaitQueue;
use crate::{
    BoxFuture, CLASS_BLOCK_BYTES, Content, Disk, Error, Extent, FileStorage, Op, Properties,
    Request, Statistics, Storage,
};
use blocks::Blocks;
use commit::Table;
use home::Home;
use store::Store;

/// A disk with a cache in front of it.
pub struct Cached<S: Storage = FileStorage> {
    shared: Rc<Shared<S>>,
}

/// What the requests and the task in the background share.
struct Shared<S: Storage> {
    home: Home,
    store: Store<S>,
    blocks: RefCell<Blocks>,
    /// Of blocks.
    locks: RangeLocks,
    mode: WriteMode,
    slots: u32,
    /// Of a cache file.
    table: Option<Table>,
    properties: Properties,
    statistics: RefCell<Statistics>,
    /// Fills of a cache file that nobody waits for.
    fills: Cell<usize>,
    filled: WaitQueue,
    /// Somebody brings blocks home.
    writing_back: RangeLocks,
    /// There is something to bring home.
    work: WaitQueue,
    /// There is so much of it that it does not wait until the disk is idle.
    pressure: WaitQueue,
    /// Counts writes, to see whether the disk is idle.
    writes: Cell<u64>,
    is_closing: Latch,
}

impl<S: Storage> Shared<S> {
    async fn serve(self: Rc<Self>, request: Request) -> Result<(), Error> {
        let path = || self.home.path();
        if let Some(problem) = request.problem(self.properties.size_bytes) {
            return Err(request.refused(path(), problem));
        }
        let Request {
            op,
            offset,
            len,
            class,
            // What a block is like its cache does not know any more when it goes home.
            dedup: _,
        } = request;
        if self.properties.read_only && !matches!(op, Op::Read(_) | Op::Flush) {
            return Err(Error::ReadOnly {
                path: path(),
                operation: op.name(),
            });
        }
        match op {
            Op::Flush => self.flush().await,
            _ if len == 0 => Ok(()),
            Op::Read(buffers) => self.read(offset, &buffers, class).await,
            Op::Write(buffers) => self.write(offset, &buffers, class).await,
            Op::Discard => self.discard(offset, len).await,
            Op::WriteZeroes { unmap } => self.write_zeroes(offset, len, unmap).await,
        }
    }

    /// Makes all durable that was written before.
    async fn flush(self: &Rc<Self>) -> Result<(), Error> {
        match &self.table {
            Some(table) if !self.is_settled() => self.commit(table).await,
            None if self.blocks.borrow().dirty_len() > 0 => self.bring_all_home().await,
            _ => self.home.flush().await,
        }
    }

    fn is_settled(&self) -> bool {
        self.blocks.borrow().is_settled()
    }

    /// The part of the disk that these blocks are; its last block may be shorter.
    fn bytes_of(&self, blocks: &Range<u64>) -> Range<u64> {
        let end = (blocks.end * CLASS_BLOCK_BYTES).min(self.properties.size_bytes);
        blocks.start * CLASS_BLOCK_BYTES..end
    }

    async fn shut(self: Rc<Self>) -> Result<(), Error> {
        self.is_closing.set();
        self.work.wake_all();
        while self.fills.get() > 0 {
            self.filled.wait().await;
        }
        let brought = self.bring_all_home().await;
        // Then the table has nothing that recovery would bring home, or all that it must.
        let kept = match &self.table {
            Some(table) => self.commit(table).await,
            None => Ok(()),
        };
        let closed = self.home.disk.close().await;
        let ended = match &self.table {
            Some(table) => {
                let is_whole = brought.is_ok() && kept.is_ok() && closed.is_ok();
                self.end(table, is_whole).await
            }
            None => Ok(()),
        };
        brought.and(kept).and(closed).and(ended)
    }
}

/// The blocks that a range of bytes touches.
fn blocks_of(offset: u64, len: u64) -> Range<u64> {
    offset / CLASS_BLOCK_BYTES..(offset + len).div_ceil(CLASS_BLOCK_BYTES)
}

impl<S: Storage> Cached<S> {
    /// Brings all home and has `change` put another disk in the place of the one below, with the
    /// same content, while no request is on its way. From then on it is the one at `path`.
    pub async fn while_home<T, E: From<Error>>(
        &self,
        path: PathBuf,
        change: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let shared = &self.shared;
        let _nobody = shared.writing_back.all().await;
        let _alone = shared.locks.all().await;
        shared.bring_home_alone().await?;
        let changed = change().await?;
        let look = home::look(&path);
        shared.home.moved(path, look);
        if let Some(table) = &shared.table {
            shared.rename(table).await?;
        }
        Ok(changed)
    }
}

impl<S: Storage> Disk for Cached<S> {
    fn properties(&self) -> Properties {
        self.shared.properties
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        let (counted, len) = (Counted::of(&request.op), request.len);
        let served = uninterrupted(Rc::clone(&self.shared).serve(request));
        Box::pin(async move {
            let result = served.await;
            let mut statistics = self.shared.statistics.borrow_mut();
            statistics.count(counted, len, result.is_ok());
            result
        })
    }

    /// What is dirty is data, whatever the disk has there.
    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        Box::pin(async move {
            let end = offset.saturating_add(len);
            let blocks = blocks_of(offset, end - offset);
            let dirty = self.shared.dirty_run(&blocks);
            match dirty.map(|run| self.shared.bytes_of(&run)) {
                Some(run) if run.start <= offset => Ok(Extent {
                    len: run.end.min(end) - offset,
                    content: Content::Data,
                    depth: 0,
                    host_offset: None,
                }),
                Some(run) => {
                    self.shared
                        .home
                        .disk
                        .extent(offset, run.start - offset)
                        .await
                }
                None => self.shared.home.disk.extent(offset, len).await,
            }
        })
    }

    fn give_up(&self) {
        self.shared.home.disk.give_up();
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(uninterrupted(Rc::clone(&self.shared).shut()))
    }

    fn statistics(&self) -> Statistics {
        let below = self.shared.home.disk.statistics();
        let own = *self.shared.statistics.borrow();
        let syncs = self.shared.table.as_ref().map_or(0, Table::syncs);
        Statistics {
            host_syncs: below.host_syncs + syncs,
            barriers: below.barriers,
            metadata_bytes: below.metadata_bytes,
            journal: below.journal,
            growth: below.growth,
            copies: below.copies,
            cache: self.shared.blocks.borrow().counts,
            ..own
        }
    }
}

impl<S: Storage> Drop for Cached<S> {
    fn drop(&mut self) {
        self.shared.is_closing.set();
        self.shared.work.wake_all();
    }
}

#[cfg(test)]
mod tests;
