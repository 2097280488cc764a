//! Storage of either kind, where it does not matter much what a call costs: to look at an image. A
//! disk that is in use has storage of one kind.

use std::path::Path;

use super::{FileStorage, Geometry, RemoteStorage, Storage, StorageExtent};
use crate::{Buffers, Error};

/// A file or block device of this host, or what a server lends.
pub enum AnyStorage {
    /// Here.
    File(FileStorage),
    /// Far away, and only read.
    Remote(RemoteStorage),
}

impl AnyStorage {
    /// Whether it is far away.
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }
}

/// Calls a method of what it is.
macro_rules! each {
    ($any:expr, $storage:ident => $call:expr) => {
        match $any {
            Self::File($storage) => $call,
            Self::Remote($storage) => $call,
        }
    };
}

impl Storage for AnyStorage {
    fn path(&self) -> &Path {
        each!(self, storage => storage.path())
    }

    fn geometry(&self) -> Geometry {
        each!(self, storage => storage.geometry())
    }

    fn nonce(&self) -> [u8; 16] {
        each!(self, storage => storage.nonce())
    }

    fn size_bytes(&self) -> u64 {
        each!(self, storage => storage.size_bytes())
    }

    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        each!(self, storage => storage.read_at(offset, buffers).await)
    }

    async fn write_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        each!(self, storage => storage.write_at(offset, buffers).await)
    }

    async fn sync(&self) -> Result<(), Error> {
        each!(self, storage => storage.sync().await)
    }

    fn has_barrier(&self) -> bool {
        each!(self, storage => storage.has_barrier())
    }

    async fn barrier(&self) -> Result<(), Error> {
        each!(self, storage => storage.barrier().await)
    }

    fn has_zero_ahead(&self) -> bool {
        each!(self, storage => storage.has_zero_ahead())
    }

    async fn zero_ahead(&self, offset: u64, len: u64) -> Result<(), Error> {
        each!(self, storage => storage.zero_ahead(offset, len).await)
    }

    fn spare_bytes(&self) -> u64 {
        each!(self, storage => storage.spare_bytes())
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<bool, Error> {
        each!(self, storage => storage.discard(offset, len).await)
    }

    async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        each!(self, storage => storage.write_zeroes(offset, len, unmap).await)
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        each!(self, storage => storage.extent(offset, len).await)
    }

    fn can_resize(&self) -> bool {
        each!(self, storage => storage.can_resize())
    }

    fn refresh_size(&self) -> Result<(), Error> {
        each!(self, storage => storage.refresh_size())
    }

    async fn set_len(&self, size_bytes: u64) -> Result<(), Error> {
        each!(self, storage => storage.set_len(size_bytes).await)
    }

    fn give_up(&self) {
        each!(self, storage => storage.give_up());
    }

    fn close(&self) {
        each!(self, storage => storage.close());
    }
}
