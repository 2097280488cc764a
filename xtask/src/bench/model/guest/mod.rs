//! A guest with ext4 (`data=ordered`) on its disk: what it asks of the disk when programs write and
//! sync files.
//!
//! ```text
//!   disk: │ metadata │ journal │ tables │ blocks freed │ blocks never written │
//!          <------------- written before ------------->
//! ```
//! An `fsync` writes the file's data; when that is done, the journal's descriptor and the metadata
//! blocks that were changed; FLUSH; the commit block; FLUSH (virtio-blk has no FUA). What is synced
//! while a transaction is being committed shares the next one. Each block is logged once a
//! transaction. When a quarter of the journal is used, the logged blocks are written to their
//! places. Reads of what was written lately come from the guest's page cache, and cost nothing.
//!
//! Programs get blocks one after the other, as `mballoc` gives them to small files: never written
//! before on a *new* file system, so that the image must get clusters for them, or such as deleted
//! files have left on an *aged* one. Real ones are in between.

mod group;
mod journal;

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use ::disk::{Buffers, Disk, Error, Request};

pub(super) use group::Group;
use journal::Journal;

pub(super) const BLOCK_BYTES: u64 = 4096;
/// The size of the disk.
pub(super) const DISK_BYTES: u64 = 1 << 30;
const METADATA: Range<u64> = 0..4 << 20;
const JOURNAL: Range<u64> = 4 << 20..20 << 20;
/// Files that a database has had for long.
pub(super) const TABLES: Range<u64> = 32 << 20..64 << 20;
/// Blocks of files that were deleted; never written on a new file system.
pub(super) const FREED: Range<u64> = 64 << 20..128 << 20;
/// Blocks that were never written; more than any workload needs.
const NEW: Range<u64> = 128 << 20..DISK_BYTES;
/// What was written when the file system was made and used before.
pub(super) const WRITTEN: [Range<u64>; 4] = [METADATA, JOURNAL, TABLES, FREED];
/// No request is larger.
const REQUEST_BYTES_MAX: usize = 1 << 20;

/// A block of the file system's metadata.
#[derive(Clone, Copy, Debug)]
pub(super) enum Metadata {
    /// The descriptors of block groups.
    Groups,
    /// Which inodes are in use.
    InodeBitmap,
    /// Which blocks are in use.
    BlockBitmap,
    /// The inode of a file, which it shares with 15 others.
    Inode(u64),
    /// A block of a directory.
    Directory(u64),
}

impl Metadata {
    /// What changes when a file gets new blocks.
    pub(super) fn appended(file: u64) -> [Self; 3] {
        [Self::Inode(file), Self::BlockBitmap, Self::Groups]
    }

    fn offset(self) -> u64 {
        let block = match self {
            Self::Groups => 1,
            Self::InodeBitmap => 2,
            Self::BlockBitmap => 3,
            Self::Inode(file) => 16 + file / 16 % 256,
            Self::Directory(block) => 512 + block % 256,
        };
        METADATA.start + block * BLOCK_BYTES
    }
}

/// A guest.
pub(super) struct Guest {
    disk: Rc<dyn Disk>,
    journal: Journal,
    /// Where its programs get blocks, and how far they have come.
    free: Range<u64>,
    allocated_bytes: Cell<u64>,
    /// What every write writes, and where every read goes.
    data: Buffers,
}

impl Guest {
    /// A guest on a disk, which must have been written as it says [above](self).
    pub(super) fn new(disk: Rc<dyn Disk>, aged: bool) -> Self {
        Self {
            disk,
            journal: Journal::default(),
            free: if aged { FREED } else { NEW },
            allocated_bytes: Cell::new(0),
            data: Buffers::from_vec(vec![0x5a; REQUEST_BYTES_MAX]),
        }
    }

    /// Blocks for a piece of a file, in one piece. When all are used, the first ones are free.
    pub(super) fn allocate(&self, len: u64) -> u64 {
        let at = self.allocated_bytes.get();
        let size = self.free.end - self.free.start;
        let start = if at + len > size { 0 } else { at };
        self.allocated_bytes.set(start + len);
        self.free.start + start
    }

    /// Writes a range that is no longer than a request may be.
    pub(super) async fn write(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.disk
            .submit(Request::write(offset, self.buffers(len)))
            .await
    }

    /// Reads one.
    pub(super) async fn read(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.disk
            .submit(Request::read(offset, self.buffers(len)))
            .await
    }

    /// What `fdatasync` does for a file whose size and blocks are as they were.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        self.disk.submit(Request::flush()).await
    }

    /// Changes metadata, as part of the next transaction.
    pub(super) fn change(&self, metadata: impl IntoIterator<Item = Metadata>) {
        self.journal.add(metadata.into_iter().map(Metadata::offset));
    }

    /// What `fsync` does once the data is written, for a file whose metadata has changed.
    pub(super) async fn commit(
        &self,
        metadata: impl IntoIterator<Item = Metadata>,
    ) -> Result<(), Error> {
        self.change(metadata);
        self.journal.commit(self).await
    }

    fn buffers(&self, len: u64) -> Buffers {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        self.data.slice(0..len)
    }
}
