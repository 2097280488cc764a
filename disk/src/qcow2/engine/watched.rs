//! The storage of an image in use, for those who change the image as a whole.

use std::path::Path;
use std::rc::Rc;

use super::image::Image;
use crate::qcow2::format::Header;
use crate::storage::{Geometry, StorageExtent};
use crate::{Buffers, Error, Storage};

/// Hands everything on, and remembers what must not be forgotten: that a sync failed, and that
/// nobody knows which header the file has. Nothing is written to the image from then on.
pub(super) struct Watched<S: Storage>(pub(super) Rc<Image<S>>);

impl<S: Storage> Storage for Watched<S> {
    fn path(&self) -> &Path {
        self.0.storage.path()
    }

    fn geometry(&self) -> Geometry {
        self.0.storage.geometry()
    }

    fn nonce(&self) -> [u8; 16] {
        self.0.storage.nonce()
    }

    fn size_bytes(&self) -> u64 {
        self.0.storage.size_bytes()
    }

    async fn read_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        self.0.storage.read_at(offset, buffers).await
    }

    async fn write_at(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let result = self.0.storage.write_at(offset, buffers).await;
        self.0.flusher.changed();
        if result.is_err() && offset < Header::PREFIX_BYTES as u64 {
            self.0.flusher.fail();
        }
        result
    }

    async fn sync(&self) -> Result<(), Error> {
        self.0.flusher.flush(&self.0.storage).await
    }

    fn has_barrier(&self) -> bool {
        self.0.storage.has_barrier()
    }

    async fn barrier(&self) -> Result<(), Error> {
        self.0.storage.barrier().await
    }

    fn has_zero_ahead(&self) -> bool {
        self.0.storage.has_zero_ahead()
    }

    async fn zero_ahead(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.0.storage.zero_ahead(offset, len).await
    }

    fn spare_bytes(&self) -> u64 {
        self.0.storage.spare_bytes()
    }

    async fn discard(&self, offset: u64, len: u64) -> Result<bool, Error> {
        self.0.flusher.changed();
        self.0.storage.discard(offset, len).await
    }

    async fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> Result<(), Error> {
        let result = self.0.storage.write_zeroes(offset, len, unmap).await;
        self.0.flusher.changed();
        result
    }

    async fn extent(&self, offset: u64, len: u64) -> Result<StorageExtent, Error> {
        self.0.storage.extent(offset, len).await
    }

    fn can_resize(&self) -> bool {
        self.0.storage.can_resize()
    }

    fn refresh_size(&self) -> Result<(), Error> {
        self.0.storage.refresh_size()
    }

    async fn set_len(&self, size_bytes: u64) -> Result<(), Error> {
        let result = self.0.storage.set_len(size_bytes).await;
        self.0.flusher.changed();
        result
    }

    fn close(&self) {
        self.0.storage.close();
    }
}
