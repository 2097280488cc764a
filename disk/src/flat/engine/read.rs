//! Reading: from the file what is local, the rest from the base.

use futures_util::future::join_all;

use super::image::Image;
use super::place::Place;
use crate::journal::{Journaled as _, lay_over};
use crate::{Buffers, Error, Request, Storage};

impl<S: Storage> Image<S> {
    /// Reads at `offset` of the disk.
    pub(super) async fn read(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let range = offset..offset + buffers.len() as u64;
        let (first, last) = self.blocks_of(&range);
        let shared = self.blocks.shared(first, last).await;
        if self.copies.get() && !self.is_local(&range) {
            drop(shared);
            return self.read_and_keep(offset, buffers).await;
        }
        self.read_held(offset, buffers).await
    }

    /// Reads as [`Image::read`] does. The caller holds the blocks.
    pub(super) async fn read_held(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let end = offset + buffers.len() as u64;
        let (place, part_end) = self.part(&(offset..end));
        if part_end == end {
            return self.read_part(place, offset, buffers.clone()).await;
        }
        let mut reads = Vec::new();
        let mut at = offset;
        while at < end {
            let (place, part_end) = self.part(&(at..end));
            let part = slice(buffers, at - offset, part_end - at);
            reads.push(self.read_part(place, at, part));
            at = part_end;
        }
        join_all(reads).await.into_iter().collect()
    }

    async fn read_part(&self, place: Place, offset: u64, buffers: Buffers) -> Result<(), Error> {
        match place {
            Place::Here(host) | Place::Frozen(host) => self.read_host(host, buffers).await,
            Place::Zeros => {
                buffers.fill(0);
                Ok(())
            }
            Place::Base => self.read_base(offset, buffers).await,
        }
    }

    /// Reads what is in a place of the file, from there and from what is not there yet.
    pub(super) async fn read_host(&self, host: u64, buffers: Buffers) -> Result<(), Error> {
        let waiting = match self.journal() {
            Some(journal) => journal.shadows.copy(&(host..host + buffers.len() as u64)),
            None => Vec::new(),
        };
        self.storage.read_at(host, buffers.clone()).await?;
        lay_over(waiting, host, &buffers);
        Ok(())
    }

    /// Reads from the base; behind what it covers, the last of its blocks has zeros.
    async fn read_base(&self, offset: u64, buffers: Buffers) -> Result<(), Error> {
        let len = buffers.len() as u64;
        let covered = self.header.borrow().covered_bytes;
        let within = covered.saturating_sub(offset).min(len);
        if within < len {
            slice(&buffers, within, len - within).fill(0);
        }
        let base = self.base.borrow().clone();
        let buffers = slice(&buffers, 0, within);
        if let Some(base) = base.filter(|_| within > 0) {
            return base.submit(Request::read(offset, buffers)).await;
        }
        buffers.fill(0);
        Ok(())
    }
}

/// A part of a request's memory.
pub(super) fn slice(buffers: &Buffers, start: u64, len: u64) -> Buffers {
    let index = |n: u64| usize::try_from(n).expect("within the memory");
    buffers.slice(index(start)..index(start + len))
}
