//! Memory that is used again and again.

use std::cell::RefCell;
use std::ops::{Deref, Range};

use anyhow::Result;
use disk::{Buffers, Disk, Request};

/// Pieces of memory of one length that wait to be used.
pub(super) struct Pool {
    len: usize,
    free: RefCell<Vec<(Buffers, Vec<u8>)>>,
}

/// What was read from a disk: for a request, and as bytes.
pub(super) struct Content<'a> {
    pool: &'a Pool,
    len: usize,
    /// Absent only when this is dropped.
    memory: Option<(Buffers, Vec<u8>)>,
}

impl Pool {
    /// For pieces of at most `len` bytes.
    pub(super) fn new(len: usize) -> Self {
        Self {
            len,
            free: RefCell::default(),
        }
    }

    /// Reads `len` bytes of `disk` at `offset`; past its end are zeros.
    pub(super) async fn read(&self, disk: &dyn Disk, offset: u64, len: u64) -> Result<Content<'_>> {
        let available = disk.properties().size_bytes.saturating_sub(offset).min(len);
        let (len, available) = (usize::try_from(len)?, usize::try_from(available)?);
        let (buffers, mut bytes) = self.take();
        buffers.slice(available..len).fill(0);
        if available > 0 {
            let request = Request::read(offset, buffers.slice(0..available));
            disk.submit(request).await?;
        }
        buffers.slice(0..len).copy_to(&mut bytes[..len]);
        Ok(Content {
            pool: self,
            len,
            memory: Some((buffers, bytes)),
        })
    }

    fn take(&self) -> (Buffers, Vec<u8>) {
        let free = self.free.borrow_mut().pop();
        free.unwrap_or_else(|| (Buffers::zeroed(self.len), vec![0; self.len]))
    }
}

impl Content<'_> {
    /// The memory of `range`, to be written.
    pub(super) fn buffers(&self, range: Range<usize>) -> Buffers {
        match &self.memory {
            Some((buffers, _)) => buffers.slice(range),
            None => Buffers::zeroed(0),
        }
    }
}

impl Deref for Content<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory
            .as_ref()
            .map_or(&[], |(_, bytes)| &bytes[..self.len])
    }
}

impl Drop for Content<'_> {
    fn drop(&mut self) {
        self.pool.free.borrow_mut().extend(self.memory.take());
    }
}
