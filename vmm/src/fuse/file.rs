//! The raw file: what is done to it is done to the disk.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::rc::Rc;

use disk::{Buffers, Disk};

use super::TRANSFER_MAX_BYTES;
use super::abi::{FallocateIn, StatfsOut};
use super::attributes::Attributes;
use super::errno::Errno;
use super::seek::seek;
use crate::export::{ByteDisk, Pool};

/// Zeroed at a time; others get their turn between.
const ZERO_STEP_BYTES: u64 = 1 << 30;
/// What a loop device over the file discards in, at least.
const BLOCK_BYTES_MIN: u32 = 4096;
const NAME_MAX_BYTES: u32 = 255;

/// A disk as a file of a fixed size.
pub(crate) struct RawFile {
    bytes: ByteDisk,
    pool: Pool,
    pub(super) attributes: Attributes,
}

impl RawFile {
    /// The file that is `disk`, which is in the image at `path`.
    pub(crate) fn new(path: &Path, disk: Rc<dyn Disk>) -> io::Result<Self> {
        let bytes = ByteDisk::new(path.display().to_string(), disk);
        let properties = bytes.properties();
        let attributes = Attributes::of(path, properties.size_bytes, properties.read_only)?;
        Ok(Self {
            bytes,
            pool: Pool::new(),
            attributes,
        })
    }

    /// Whether a file that is opened with these flags may be.
    pub(super) fn check_open(&self, flags: u32) -> Result<(), Errno> {
        let writes = flags.cast_signed() & libc::O_ACCMODE != libc::O_RDONLY;
        if writes && self.bytes.properties().read_only {
            return Err(Errno(libc::EROFS));
        }
        Ok(())
    }

    /// Reads up to the end of the file, behind room for the start of the reply; nothing behind the
    /// end.
    pub(super) async fn read(&self, offset: u64, len: u32) -> Result<Option<Buffers>, Errno> {
        if len > TRANSFER_MAX_BYTES {
            return Err(Errno(libc::EINVAL));
        }
        let range = self.within(offset, len.into());
        if range.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.bytes.read(&self.pool, range).await?))
    }

    /// Writes up to the end of the file, and returns how much that was. Behind the end there is no
    /// room, as behind the end of a block device.
    pub(super) async fn write(&self, offset: u64, data: Buffers) -> Result<u32, Errno> {
        let range = self.within(offset, data.len() as u64);
        let len = usize::try_from(range.end - range.start).unwrap_or(0);
        if len == 0 && !data.is_empty() {
            return Err(Errno(libc::ENOSPC));
        }
        if len > 0 {
            self.bytes.write(offset, data.slice(0..len)).await?;
            self.attributes.modified();
        }
        Ok(u32::try_from(len).unwrap_or(u32::MAX))
    }

    /// Makes durable what was written before.
    pub(super) async fn sync(&self) -> Result<(), Errno> {
        Ok(self.bytes.flush().await?)
    }

    /// Does what `fallocate` asks for. A hole reads as zeros, so it is more than a discard, of
    /// which nobody knows what it reads as. Space for later cannot be promised.
    pub(super) async fn allocate(&self, wanted: &FallocateIn) -> Result<(), Errno> {
        const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        const ZERO_AND_KEEP_SIZE: i32 = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let &FallocateIn { offset, len, .. } = wanted;
        let range = self.within(offset, len);
        match wanted.mode.cast_signed() {
            PUNCH_HOLE => self.zero(range, false).await,
            libc::FALLOC_FL_ZERO_RANGE if range.end - range.start < len => Err(Errno(libc::ENOSPC)),
            libc::FALLOC_FL_ZERO_RANGE | ZERO_AND_KEEP_SIZE => self.zero(range, true).await,
            _ => Err(Errno(libc::EOPNOTSUPP)),
        }
    }

    async fn zero(&self, range: Range<u64>, keep: bool) -> Result<(), Errno> {
        if self.bytes.properties().read_only {
            return Err(Errno(libc::EROFS));
        }
        let mut start = range.start;
        while start < range.end {
            let step_end = (start + 1).next_multiple_of(ZERO_STEP_BYTES);
            let end = range.end.min(step_end);
            self.bytes.write_zeroes(start..end, keep).await?;
            self.attributes.modified();
            start = end;
            if start < range.end {
                disk::yield_now().await;
            }
        }
        Ok(())
    }

    /// Finds data or a hole.
    pub(super) async fn seek(&self, offset: u64, whence: u32) -> Result<u64, Errno> {
        seek(&self.bytes, offset, whence).await
    }

    /// A file system that is as large as the disk, and full. Its block size is what a loop device
    /// takes for the unit of its discards.
    pub(super) fn stat_file_system(&self) -> StatfsOut {
        let properties = self.bytes.properties();
        let block_size = properties.discard_granularity_bytes.max(BLOCK_BYTES_MIN);
        StatfsOut {
            blocks: properties.size_bytes.div_ceil(block_size.into()),
            files: 1,
            block_size,
            fragment_size: block_size,
            name_len: NAME_MAX_BYTES,
            ..StatfsOut::default()
        }
    }

    /// The part of a range that is in the file; empty behind the end.
    fn within(&self, offset: u64, len: u64) -> Range<u64> {
        let size = self.bytes.properties().size_bytes;
        let start = offset.min(size);
        start..offset.saturating_add(len).min(size)
    }
}

#[cfg(test)]
mod tests;
