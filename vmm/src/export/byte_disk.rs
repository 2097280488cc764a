//! A disk of bytes: disks address sectors of 512 bytes, those who borrow them any byte.

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use disk::{Buffers, Disk, Extent, Properties};

use super::failure::Failure;
use super::pool::{HEADROOM, Pool};
use super::write_order::WriteOrder;

/// What disks address.
const SECTOR_BYTES: u64 = 512;

/// A disk that is lent. Ranges must be within it.
pub(crate) struct ByteDisk {
    /// For the log.
    name: String,
    disk: Rc<dyn Disk>,
    properties: Properties,
    writes: WriteOrder,
    /// Whether a request has failed. Only the first is worth a warning.
    failed: Cell<bool>,
}

impl ByteDisk {
    /// Lends `disk`, called `name` in the log.
    pub(crate) fn new(name: String, disk: Rc<dyn Disk>) -> Self {
        Self {
            name,
            properties: disk.properties(),
            disk,
            writes: WriteOrder::default(),
            failed: Cell::new(false),
        }
    }

    /// What the disk is like.
    pub(crate) fn properties(&self) -> &Properties {
        &self.properties
    }

    /// Makes durable what was written before.
    pub(crate) async fn flush(&self) -> Result<(), Failure> {
        self.submit(disk::Request::flush()).await
    }

    /// Reads `range`, behind [`HEADROOM`] bytes of room for the start of a reply.
    pub(crate) async fn read(&self, pool: &Pool, range: Range<u64>) -> Result<Buffers, Failure> {
        let sectors = sectors(&range);
        let memory = pool.take(HEADROOM + to_usize(sectors.end - sectors.start));
        let whole = memory.slice(HEADROOM..memory.len());
        self.submit(disk::Request::read(sectors.start, whole))
            .await?;
        let start = to_usize(range.start - sectors.start);
        let len = to_usize(range.end - range.start);
        Ok(memory.slice(start..start + HEADROOM + len))
    }

    /// Writes `data` at `offset`.
    pub(crate) async fn write(&self, offset: u64, data: Buffers) -> Result<(), Failure> {
        let range = offset..offset + data.len() as u64;
        let sectors = sectors(&range);
        let _turn = self.writes.turn(sectors.clone(), sectors != range).await;
        self.write_in_turn(range, data).await
    }

    /// Writes bytes that nobody else changes. The sectors at the edges are read first if only parts
    /// of them are written.
    async fn write_in_turn(&self, range: Range<u64>, data: Buffers) -> Result<(), Failure> {
        let sectors = sectors(&range);
        if sectors == range {
            return self.submit(disk::Request::write(range.start, data)).await;
        }
        let whole = Buffers::zeroed(to_usize(sectors.end - sectors.start));
        let first = sectors.start..sectors.start + SECTOR_BYTES;
        let last = sectors.end - SECTOR_BYTES..sectors.end;
        let part = |range: &Range<u64>| {
            whole.slice(to_usize(range.start - sectors.start)..to_usize(range.end - sectors.start))
        };
        for edge in [&first, &last] {
            self.submit(disk::Request::read(edge.start, part(edge)))
                .await?;
        }
        part(&range).copy_from(&data.to_vec());
        self.submit(disk::Request::write(sectors.start, whole))
            .await
    }

    /// Trims the whole sectors within the range; the rest is too small to be given back.
    pub(crate) async fn trim(&self, range: Range<u64>) -> Result<(), Failure> {
        let range = inner_sectors(&range);
        if range.is_empty() {
            return Ok(());
        }
        let _turn = self.writes.turn(range.clone(), false).await;
        let len = range.end - range.start;
        self.submit(disk::Request::discard(range.start, len)).await
    }

    /// Makes the range read as zeros. It may lose its space on the host unless `keep`.
    pub(crate) async fn write_zeroes(&self, range: Range<u64>, keep: bool) -> Result<(), Failure> {
        let sectors = sectors(&range);
        let _turn = self.writes.turn(sectors.clone(), sectors != range).await;
        let inner = inner_sectors(&range);
        if inner.is_empty() {
            let zeros = Buffers::zeroed(to_usize(range.end - range.start));
            return self.write_in_turn(range, zeros).await;
        }
        for edge in [range.start..inner.start, inner.end..range.end] {
            if !edge.is_empty() {
                let zeros = Buffers::zeroed(to_usize(edge.end - edge.start));
                self.write_in_turn(edge, zeros).await?;
            }
        }
        let len = inner.end - inner.start;
        self.submit(disk::Request::write_zeroes(inner.start, len, !keep))
            .await
    }

    /// What is at the start of `range`, and how far it goes alike within it. The range is not
    /// empty, nor is the extent.
    pub(crate) async fn extent(&self, range: Range<u64>) -> Result<Extent, Failure> {
        let sectors = sectors(&range);
        let len = sectors.end - sectors.start;
        let found = self.disk.extent(sectors.start, len).await;
        let extent = found.map_err(|error| self.failure(&error))?;
        let end = sectors.start.saturating_add(extent.len).min(range.end);
        if end <= range.start {
            return Err(Failure::Io);
        }
        Ok(Extent {
            len: end - range.start,
            ..extent
        })
    }

    async fn submit(&self, request: disk::Request) -> Result<(), Failure> {
        let done = self.disk.submit(request).await;
        done.map_err(|error| self.failure(&error))
    }

    /// What to tell of an error of the disk, which goes to the log.
    fn failure(&self, error: &disk::Error) -> Failure {
        let export = self.name.as_str();
        if self.failed.replace(true) {
            tracing::debug!(export, %error, "a request failed");
        } else {
            tracing::warn!(export, %error, "a request failed; more are not reported");
        }
        Failure::from(error)
    }
}

/// The sectors that hold a range. A disk ends with a whole sector.
fn sectors(range: &Range<u64>) -> Range<u64> {
    range.start - range.start % SECTOR_BYTES..range.end.next_multiple_of(SECTOR_BYTES)
}

/// The sectors that a range covers, if any.
fn inner_sectors(range: &Range<u64>) -> Range<u64> {
    range.start.next_multiple_of(SECTOR_BYTES)..range.end - range.end % SECTOR_BYTES
}

/// Lengths of what fits memory.
fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("at most 32 MiB and a sector")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use disk::{Executor, OpenOptions};

    use super::*;

    #[test]
    fn extents_begin_and_end_at_any_byte() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(1 << 20).unwrap();
        image
            .as_file()
            .write_all_at(&vec![1; 65536], 65536)
            .unwrap();
        Executor::new().unwrap().run(async {
            let disk = OpenOptions::new(image.path()).open().await.unwrap();
            let disk = ByteDisk::new("test".to_owned(), disk);
            for (range, len, is_zero) in [
                (0..1 << 20, 65536, true),
                (5..1 << 20, 65531, true),
                (65535..1 << 20, 1, true),
                (65537..1 << 20, 65535, false),
                (65537..65540, 3, false),
                (131_073..(1 << 20) - 1, (1 << 20) - 131_074, true),
            ] {
                let extent = disk.extent(range.clone()).await.unwrap();
                let found = (extent.len, extent.content.is_zero());
                assert_eq!(found, (len, is_zero), "{range:?}");
            }
        });
    }
}
