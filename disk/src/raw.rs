//! The raw format: byte `n` of the disk is byte `n` of the storage.

use std::cell::RefCell;

use crate::flush::Flusher;
use crate::request::{Counted, SECTOR_BYTES};
use crate::{
    BoxFuture, Buffers, Content, Disk, Error, Extent, Op, Order, Properties, Request, Statistics,
    Storage, StorageExtent,
};

/// A disk that is its storage.
pub struct Raw<S> {
    storage: S,
    size_bytes: u64,
    flusher: Flusher,
    statistics: RefCell<Statistics>,
}

impl<S: Storage> Raw<S> {
    /// Takes all of `storage` as a disk, whose size must be a multiple of 512. One that is only
    /// read may have any size: zeros fill its last sector, as QEMU has it.
    pub fn new(storage: S) -> Result<Self, Error> {
        Self::with_order(storage, None)
    }

    /// As [`Raw::new`]. There is no metadata to keep in order: only [`Order::Unsafe`] means
    /// something.
    pub fn with_order(storage: S, order: Option<Order>) -> Result<Self, Error> {
        let read_only = storage.geometry().read_only;
        if let Some(order) = order.filter(|order| *order != Order::Unsafe && !read_only) {
            return Err(Error::Unsupported {
                path: storage.path().to_owned(),
                problem: format!(
                    "a raw image has no metadata to keep in order, so order={order} means nothing; \
                     leave it out, or use order=unsafe"
                ),
            });
        }
        let size_bytes = storage.size_bytes();
        let reason = if !read_only && !size_bytes.is_multiple_of(SECTOR_BYTES) {
            format!("not a multiple of {SECTOR_BYTES}, so it can only be read")
        } else if size_bytes == 0 {
            "it is empty".to_owned()
        } else {
            return Ok(Self {
                storage,
                size_bytes: size_bytes.next_multiple_of(SECTOR_BYTES),
                flusher: Flusher::new(read_only, order == Some(Order::Unsafe)),
                statistics: RefCell::default(),
            });
        };
        Err(Error::Size {
            path: storage.path().to_owned(),
            size_bytes,
            reason,
        })
    }

    /// The storage below.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    async fn perform(&self, request: Request) -> Result<(), Error> {
        let path = || self.storage.path().to_owned();
        if let Some(problem) = request.problem(self.size_bytes) {
            return Err(request.refused(path(), problem));
        }
        let name = request.op.name();
        let Request {
            op, offset, len, ..
        } = request;
        let changes = !matches!(op, Op::Read(_) | Op::Flush);
        if changes && self.storage.geometry().read_only {
            return Err(Error::ReadOnly {
                path: path(),
                operation: name,
            });
        }
        let result = match op {
            Op::Read(buffers) => self.read(offset, buffers).await,
            Op::Write(buffers) => self.storage.write_at(offset, buffers).await,
            Op::Flush => self.flusher.flush(&self.storage).await,
            Op::Discard | Op::WriteZeroes { .. } if len == 0 => Ok(()),
            Op::Discard => self.storage.discard(offset, len).await.map(drop),
            Op::WriteZeroes { unmap } => self.storage.write_zeroes(offset, len, unmap).await,
        };
        if changes {
            // Even if it failed, it may have changed something.
            self.flusher.changed();
        }
        result
    }

    async fn read(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let stored = self.storage.size_bytes().saturating_sub(offset);
        match usize::try_from(stored) {
            Ok(stored) if stored < buffers.len() => {
                buffers.slice(stored..buffers.len()).fill(0);
                let stored = buffers.slice(0..stored);
                self.storage.read_at(offset, stored).await
            }
            _ => self.storage.read_at(offset, buffers).await,
        }
    }
}

impl<S: Storage> Disk for Raw<S> {
    fn properties(&self) -> Properties {
        let geometry = self.storage.geometry();
        Properties {
            size_bytes: self.size_bytes,
            read_only: geometry.read_only,
            block_size_bytes: geometry.block_size_bytes,
            physical_block_size_bytes: geometry.physical_block_size_bytes,
            optimal_io_size_bytes: geometry.optimal_io_size_bytes,
            discard_granularity_bytes: geometry.discard_granularity_bytes,
        }
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let (counted, len) = (Counted::of(&request.op), request.len);
            let result = self.perform(request).await;
            let mut statistics = self.statistics.borrow_mut();
            statistics.count(counted, len, result.is_ok());
            result
        })
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        Box::pin(async move {
            let found = self.storage.extent(offset, len).await?;
            let StorageExtent { len: reached, data } = found;
            Ok(Extent {
                // Data ends with a sector, though the storage may end within.
                len: reached.next_multiple_of(SECTOR_BYTES).min(len),
                content: if data { Content::Data } else { Content::Zero },
                depth: 0,
                host_offset: Some(offset),
            })
        })
    }

    fn give_up(&self) {
        self.storage.give_up();
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            let flushed = self.flusher.flush(&self.storage).await;
            self.storage.close();
            flushed
        })
    }

    fn statistics(&self) -> Statistics {
        Statistics {
            host_syncs: self.flusher.syncs(),
            ..*self.statistics.borrow()
        }
    }
}

#[cfg(test)]
mod tests;
