//! The raw format: byte `n` of the disk is byte `n` of the storage.

use std::cell::Cell;

use crate::flush::Flusher;
use crate::{
    BoxFuture, Content, Disk, Error, Extent, Op, Properties, Request, Statistics, Storage,
    StorageExtent,
};

/// The unit of virtio-blk and of all older disks.
const SECTOR_BYTES: u64 = 512;

/// A disk that is its storage.
pub struct Raw<S> {
    storage: S,
    size_bytes: u64,
    flusher: Flusher,
    statistics: Cell<Statistics>,
}

impl<S: Storage> Raw<S> {
    /// Takes all of `storage` as a disk, whose size must be a multiple of 512.
    pub fn new(storage: S) -> Result<Self, Error> {
        let size_bytes = storage.size_bytes();
        let reason = if !size_bytes.is_multiple_of(SECTOR_BYTES) {
            format!("not a multiple of {SECTOR_BYTES}")
        } else if size_bytes == 0 {
            "it is empty".to_owned()
        } else {
            let flusher = Flusher::new(storage.geometry().read_only);
            return Ok(Self {
                storage,
                size_bytes,
                flusher,
                statistics: Cell::default(),
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
        let name = name(&request.op);
        self.check(&request, name)?;
        let Request { op, offset, len } = request;
        let changes = !matches!(op, Op::Read(_) | Op::Flush);
        if changes && self.storage.geometry().read_only {
            let path = self.storage.path().to_owned();
            return Err(Error::ReadOnly {
                path,
                operation: name,
            });
        }
        let result = match op {
            Op::Read(buffers) => self.storage.read_at(offset, buffers).await,
            Op::Write(buffers) => self.storage.write_at(offset, buffers).await,
            Op::Flush => self.flusher.flush(&self.storage).await,
            Op::Discard | Op::WriteZeroes { .. } if len == 0 => Ok(()),
            Op::Discard => self.storage.discard(offset, len).await,
            Op::WriteZeroes { unmap } => self.storage.write_zeroes(offset, len, unmap).await,
        };
        if changes {
            // Even if it failed, it may have changed something.
            self.flusher.changed();
        }
        result
    }

    fn check(&self, request: &Request, operation: &'static str) -> Result<(), Error> {
        let Request { op, offset, len } = request;
        let mismatch = match op {
            Op::Read(buffers) | Op::Write(buffers) => buffers.len() as u64 != *len,
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => false,
        };
        let reason = if offset
            .checked_add(*len)
            .is_none_or(|end| end > self.size_bytes)
        {
            "past the end of the disk"
        } else if !offset.is_multiple_of(SECTOR_BYTES) || !len.is_multiple_of(SECTOR_BYTES) {
            "not a multiple of 512"
        } else if mismatch {
            "its memory has another length"
        } else {
            return Ok(());
        };
        let path = self.storage.path().to_owned();
        Err(Error::Request {
            path,
            operation,
            offset: *offset,
            len: *len,
            reason,
        })
    }

    fn count(&self, counted: Counted, len: u64, succeeded: bool) {
        let mut statistics = self.statistics.get();
        let (count, bytes) = match counted {
            _ if !succeeded => (&mut statistics.errors, None),
            Counted::Read => (&mut statistics.reads, Some(&mut statistics.read_bytes)),
            Counted::Write => (&mut statistics.writes, Some(&mut statistics.written_bytes)),
            Counted::Flush => (&mut statistics.flushes, None),
            Counted::Discard => (&mut statistics.discards, None),
            Counted::WriteZeroes => (&mut statistics.write_zeroes, None),
        };
        *count += 1;
        if let Some(bytes) = bytes {
            *bytes += len;
        }
        self.statistics.set(statistics);
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
            self.count(counted, len, result.is_ok());
            result
        })
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        Box::pin(async move {
            let StorageExtent { len, data } = self.storage.extent(offset, len).await?;
            Ok(Extent {
                len,
                content: if data { Content::Data } else { Content::Zero },
                depth: 0,
                host_offset: Some(offset),
            })
        })
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
            ..self.statistics.get()
        }
    }
}

/// What a request counts as.
#[derive(Clone, Copy)]
enum Counted {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

impl Counted {
    fn of(op: &Op) -> Self {
        match op {
            Op::Read(_) => Self::Read,
            Op::Write(_) => Self::Write,
            Op::Flush => Self::Flush,
            Op::Discard => Self::Discard,
            Op::WriteZeroes { .. } => Self::WriteZeroes,
        }
    }
}

fn name(op: &Op) -> &'static str {
    match op {
        Op::Read(_) => "read",
        Op::Write(_) => "write",
        Op::Flush => "flush",
        Op::Discard => "discard",
        Op::WriteZeroes { .. } => "write zeros",
    }
}

#[cfg(test)]
mod tests;
