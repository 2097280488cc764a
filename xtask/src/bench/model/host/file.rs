//! A file on the host's ext4.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;

use ::disk::{Buffers, Error, Geometry, SimulatedDevice, SimulatedStorage, Storage, StorageExtent};

use super::{FILE_START, JOURNAL_START};

const PAGE_BYTES: u64 = 4096;
const JOURNAL_BYTES: u64 = 64 << 20;
/// What a transaction logs that makes new pages of a file part of it: a descriptor, and the blocks
/// of the inode, the extents, the bitmap, and the group's descriptor.
const LOGGED_BLOCKS: u64 = 5;

/// A file, whose syncs cost more when it has got new pages: those are made part of it by a
/// transaction of the host's journal, which is a second write behind a second flush of the device.
/// Pages that were zeroed without being written are new when they are written (ext4 keeps them as
/// unwritten extents). All else takes the time of the storage. Clones are the same file.
#[derive(Clone)]
pub(in super::super) struct HostFile {
    file: SimulatedStorage,
    journal: SimulatedStorage,
    /// Where the journal's next transaction goes.
    journal_at: Rc<Cell<u64>>,
    /// By page of the file, whether it has been written.
    written: Rc<RefCell<Vec<bool>>>,
    /// Whether the next sync needs a transaction.
    changed: Rc<Cell<bool>>,
}

impl HostFile {
    /// A sparse file, for now on no device: it takes any time.
    pub(in super::super) fn new(size_bytes: u64, seed: u64) -> Self {
        Self::of(SimulatedStorage::new(size_bytes, seed), Vec::new())
    }

    fn of(file: SimulatedStorage, written: Vec<bool>) -> Self {
        Self {
            file,
            journal: SimulatedStorage::new(JOURNAL_BYTES, 0),
            journal_at: Rc::default(),
            written: Rc::new(RefCell::new(written)),
            changed: Rc::default(),
        }
    }

    /// Another file with the same content, all of which must have been synced.
    pub(in super::super) fn copy(&self) -> Self {
        Self::of(self.file.power_cut(), self.written.borrow().clone())
    }

    /// From now on takes the time of a device, on which its host's journal is too.
    pub(in super::super) fn put_on(&self, device: &SimulatedDevice) {
        self.file.put_on(device, FILE_START);
        self.journal.put_on(device, JOURNAL_START);
    }

    /// Notes that a range has been written, or is new once more.
    fn note(&self, offset: u64, len: u64, is_written: bool) {
        let mut written = self.written.borrow_mut();
        for page in offset / PAGE_BYTES..(offset + len).div_ceil(PAGE_BYTES) {
            let page = usize::try_from(page).unwrap_or(usize::MAX);
            if written.len() <= page {
                written.resize(page + 1, false);
            }
            if written[page] != is_written {
                written[page] = is_written;
                self.changed.set(true);
            }
        }
    }

    async fn log(&self, blocks: u64) -> Result<(), Error> {
        let len = blocks * PAGE_BYTES;
        let at = self.journal_at.get();
        let start = if at + len > JOURNAL_BYTES { 0 } else { at };
        self.journal_at.set(start + len);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.journal.write_at(start, Buffers::zeroed(len)).await
    }
}

impl Storage for HostFile {
    fn path(&self) -> &Path {
        self.file.path()
    }

    fn geometry(&self) -> Geometry {
        self.file.geometry()
    }

    fn nonce(&self) -> [u8; 16] {
        self.file.nonce()
    }

    fn size_bytes(&self) -> u64 {
        self.file.size_bytes()
    }

    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        self.file.read_at(offset, buffers).await
    }

    async fn write_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        self.file.write_at(offset, buffers).await?;
        self.note(offset, len, true);
        Ok(())
    }

    async fn sync(&self) -> Result<(), Error> {
        if !self.changed.replace(false) {
            return self.file.sync().await;
        }
        self.log(LOGGED_BLOCKS).await?;
        self.file.sync().await?;
        self.log(1).await?;
        self.journal.sync().await
    }

    fn has_barrier(&self) -> bool {
        self.file.has_barrier()
    }

    async fn barrier(&self) -> Result<(), Error> {
        self.file.barrier().await
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<bool, Error> {
        let is_zero = self.file.discard(offset, len).await?;
        self.note(offset, len, false);
        Ok(is_zero)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        self.file.write_zeroes(offset, len, unmap).await?;
        self.note(offset, len, false);
        Ok(())
    }

    fn has_zero_ahead(&self) -> bool {
        self.file.has_zero_ahead()
    }

    async fn zero_ahead(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.file.zero_ahead(offset, len).await?;
        self.note(offset, len, true);
        Ok(())
    }

    fn spare_bytes(&self) -> u64 {
        self.file.spare_bytes()
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        self.file.extent(offset, len).await
    }

    fn can_resize(&self) -> bool {
        self.file.can_resize()
    }

    fn refresh_size(&self) -> Result<(), Error> {
        self.file.refresh_size()
    }

    async fn set_len(&self, size_bytes: u64) -> Result<(), Error> {
        let pages = usize::try_from(size_bytes.div_ceil(PAGE_BYTES)).unwrap_or(usize::MAX);
        self.file.set_len(size_bytes).await?;
        self.written.borrow_mut().truncate(pages);
        self.changed.set(true);
        Ok(())
    }

    fn close(&self) {
        self.file.close();
    }
}

#[cfg(test)]
mod tests {
    use ::disk::{Backend, Executor};

    use super::*;

    #[test]
    fn sync_of_new_pages_takes_a_transaction_of_the_host() {
        let executor = Executor::with_backend(Backend::Simulated { seed: 1 }).unwrap();
        let file = HostFile::new(1 << 20, 1);
        let syncs = |file: &HostFile| [&file.file, &file.journal].map(|disk| disk.counters().syncs);
        executor.run(async {
            let write = async |offset, len| {
                let written = file.write_at(offset, Buffers::zeroed(len)).await;
                written.unwrap();
                file.sync().await.unwrap();
            };
            write(0, 8192).await;
            assert_eq!(syncs(&file), [1, 1]);
            write(4096, 4096).await;
            assert_eq!(syncs(&file), [2, 1]);
            file.write_zeroes(0, 4096, false).await.unwrap();
            write(4096, 4096).await;
            assert_eq!(syncs(&file), [3, 2]);
            write(0, 512).await;
            assert_eq!(syncs(&file), [4, 3]);
        });
        let copy = file.copy();
        executor.run(async {
            let written = copy.write_at(0, Buffers::zeroed(512)).await;
            written.unwrap();
            copy.sync().await.unwrap();
        });
        assert_eq!(syncs(&copy), [1, 0]);
    }
}
