//! A qcow2 image as a disk.
//!
//! ```text
//!   request ─> guest cluster locks ─> mapping (L1, L2) ─> data: read, write, zero, compressed
//!                                        │
//!                 allocator (refcounts) ─┤
//!                                        v
//!                    metadata cache ─ Transaction ─> commit ─> storage
//! ```
//! Guest data goes straight to its place, a new one if it had none. Changes of metadata are made
//! in memory, and become durable together when the guest flushes.

mod allocator;
mod commit;
mod committer;
mod compressed;
mod decompressed;
mod dedup;
mod direct;
mod extent;
mod free_space;
mod image;
mod journaled;
mod maintain;
mod mapping;
mod metadata;
mod new_data;
mod open;
mod read;
mod reclaim;
mod reshape;
mod session;
mod start;
mod transaction;
mod watched;
mod write;
mod zero;

use std::rc::Rc;

use super::format::Header;
use crate::executor::uninterrupted;
use crate::journal::{Journal, Journaled as _, overwrite, watch_idleness};
use crate::request::{Counted, located};
use crate::{
    BoxFuture, Buffers, DedupHint, Disk, Error, Extent, Op, Properties, Request, Statistics,
    Storage, spawn,
};
use image::Image;
pub use maintain::Preallocation;
pub use open::{DedupOptions, Parts};
use reclaim::Reclaim;

/// A qcow2 image.
pub struct Qcow2<S: Storage> {
    image: Rc<Image<S>>,
}

impl<S: Storage> Qcow2<S> {
    /// The header as it is now.
    pub fn header(&self) -> Header {
        self.image.header.borrow().clone()
    }

    /// The storage below.
    pub fn storage(&self) -> &S {
        &self.image.storage
    }

    /// Writes the whole cluster at `offset`, which may end with the disk, compressed if that saves
    /// space. Such clusters take less room and more time; a guest that overwrites one gets an
    /// ordinary one.
    pub async fn write_compressed(&self, offset: u64, data: Buffers) -> Result<(), Error> {
        let cluster_bytes = self.header().layout.cluster_bytes();
        let len = data.len() as u64;
        let request = Request::write(offset, data.clone());
        self.image.check(&request)?;
        let ends = len == cluster_bytes || offset + len == self.image.size_bytes();
        if !offset.is_multiple_of(cluster_bytes) || !ends || len > cluster_bytes || len == 0 {
            let path = self.image.storage.path().to_owned();
            return Err(request.refused(path, "compressed writes are of one whole cluster"));
        }
        let image = Rc::clone(&self.image);
        uninterrupted(async move {
            let _change = image.changes.shared(0, 0).await;
            image.prepare("write").await?;
            image.relieve().await?;
            image.write_compressed(offset, &data).await
        })
        .await
    }
}

impl<S: Storage> Image<S> {
    fn check(&self, request: &Request) -> Result<(), Error> {
        match request.problem(self.size_bytes()) {
            None => Ok(()),
            Some(problem) => Err(request.refused(self.storage.path().to_owned(), problem)),
        }
    }

    async fn serve(self: Rc<Self>, request: Request) -> Result<(), Error> {
        let (counted, len) = (Counted::of(&request.op), request.len);
        let result = match (self.direct(&request), request.op) {
            (Some((_shared, host)), Op::Read(buffers)) => self.read_host(host, buffers).await,
            (Some((shared, host)), Op::Write(buffers)) => {
                match overwrite(&*self, host, buffers.clone()).await {
                    // The long way gives back what was set aside for this.
                    Err(error) if error.is_no_space() => {
                        drop(shared);
                        let op = Op::Write(buffers);
                        let request = Request { op, ..request };
                        Box::pin(Rc::clone(&self).perform(request)).await
                    }
                    written => written.map(drop),
                }
            }
            // Most requests do not need all that this can do, nor the room for it.
            (_, op) => {
                let request = Request { op, ..request };
                Box::pin(Rc::clone(&self).perform(request)).await
            }
        };
        self.count(|statistics| statistics.count(counted, len, result.is_ok()));
        result
    }

    async fn perform(self: Rc<Self>, request: Request) -> Result<(), Error> {
        self.check(&request)?;
        let name = request.op.name();
        let Request {
            op,
            offset,
            len,
            dedup,
            ..
        } = request;
        match op {
            Op::Flush if self.storage.geometry().read_only => return Ok(()),
            Op::Flush => {
                self.flush().await?;
                self.growth.flushed();
                if let Some(journal) = self.journal() {
                    journal.detour.flushed();
                }
                self.start_tidying();
                return Ok(());
            }
            _ if len == 0 => return Ok(()),
            Op::Read(buffers) if dedup == DedupHint::Prefetch => {
                return self.read_copied(offset, &buffers).await;
            }
            Op::Read(buffers) => return self.read_locked(offset, &buffers).await,
            Op::Write(_) | Op::Discard | Op::WriteZeroes { .. } => {}
        }
        let _change = self.changes.shared(0, 0).await;
        self.prepare(name).await?;
        watch_idleness(&self);
        let mut result = self.change(op.clone(), offset, len, dedup).await;
        let is_full = matches!(&result, Err(error) if error.is_no_space());
        if is_full && self.give_back_spare().await? {
            // What was set aside is for this.
            result = self.change(op, offset, len, dedup).await;
        }
        self.start_growing();
        result
    }

    async fn change(
        self: &Rc<Self>,
        op: Op,
        offset: u64,
        len: u64,
        dedup: DedupHint,
    ) -> Result<(), Error> {
        // Before, not after: while commits fail, nothing more is taken in.
        self.relieve().await?;
        match op {
            Op::Write(buffers) if self.dedup.is_some() => {
                self.write_alike(offset, buffers, dedup).await
            }
            Op::Write(buffers) => self.write(offset, buffers).await,
            Op::WriteZeroes { unmap } => self.write_zeroes(offset, len, unmap).await,
            Op::Discard => self.discard(offset, len).await,
            Op::Read(_) | Op::Flush => Ok(()),
        }
    }

    /// Grows the file, beside what comes next, so that new data finds its place ready.
    fn start_growing(self: &Rc<Self>) {
        let takes_detour = |journal: Rc<Journal>| journal.detour.is_open();
        if self.growth.wants_more() && !self.guarding_journal().is_some_and(takes_detour) {
            let image = Rc::clone(self);
            spawn(async move {
                image.growth.grow(&image.storage).await;
                image.flusher.changed();
            });
        }
    }

    async fn read_locked(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let layout = self.layout();
        let last = layout.cluster_index(offset + buffers.len() as u64 - 1);
        let first = layout.cluster_index(offset);
        let _shared = self.guest.shared(first, last).await;
        self.read(offset, buffers).await
    }

    /// Commits if too much waits for it.
    async fn relieve(self: &Rc<Self>) -> Result<(), Error> {
        if self.wants_relief() {
            self.relieve_here().await?;
            self.start_tidying();
        }
        Ok(())
    }

    /// Makes room if too much waits for it, and leaves it to others to tidy up: by a checkpoint, which
    /// needs no sync, and if that is not enough by a commit.
    async fn relieve_here(&self) -> Result<(), Error> {
        let journal = self.journal().filter(|_| self.metadata.wants_commit());
        if let Some(journal) = journal.as_ref().filter(|journal| journal.has_to_write()) {
            journal.checkpoint(self).await?;
        }
        if !self.wants_relief() {
            return Ok(());
        }
        self.commit_all().await?;
        match journal {
            Some(journal) => journal.checkpoint(self).await,
            None => Ok(()),
        }
    }

    /// Whether so much waits for a commit that one should come.
    fn wants_relief(&self) -> bool {
        self.metadata.wants_commit() || self.fills_a_record()
    }

    /// Does, beside what comes next, what a commit has left: gives back what is free, and brings home
    /// what the journal has.
    fn start_tidying(self: &Rc<Self>) {
        if let Some(journal) = self.journal().filter(|journal| journal.wants_checkpoint()) {
            let image = Rc::clone(self);
            spawn(async move {
                if let Err(error) = journal.checkpoint(&*image).await {
                    tracing::warn!(%error, "cannot write what the journal holds");
                }
            });
        }
        if self.has_to_reclaim() {
            let image = Rc::clone(self);
            spawn(async move {
                if let Err(error) = image.reclaim(Reclaim::Usual).await {
                    tracing::warn!(%error, "cannot give back what is free");
                }
            });
        }
    }
}

impl<S: Storage> Disk for Qcow2<S> {
    fn properties(&self) -> Properties {
        let geometry = self.image.storage.geometry();
        let cluster_bytes = self.image.layout().cluster_bytes();
        Properties {
            size_bytes: self.image.size_bytes(),
            read_only: geometry.read_only,
            block_size_bytes: geometry.block_size_bytes,
            physical_block_size_bytes: geometry.physical_block_size_bytes,
            optimal_io_size_bytes: geometry.optimal_io_size_bytes,
            discard_granularity_bytes: u32::try_from(cluster_bytes).unwrap_or(u32::MAX),
        }
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        let image = Rc::clone(&self.image);
        match request.op {
            Op::Read(_) => Box::pin(image.serve(request)),
            _ => Box::pin(uninterrupted(image.serve(request))),
        }
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        Box::pin(async move {
            let path = self.image.storage.path();
            located(path, self.image.size_bytes(), offset, len)?;
            self.image.extent(offset, len).await
        })
    }

    fn give_up(&self) {
        self.image.storage.give_up();
        if let Some(backing) = &self.image.backing {
            backing.give_up();
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        let image = Rc::clone(&self.image);
        Box::pin(uninterrupted(async move { image.close().await }))
    }

    fn statistics(&self) -> Statistics {
        let image = &self.image;
        Statistics {
            host_syncs: image.flusher.syncs() + image.data_flusher.syncs(),
            journal: match image.journal() {
                Some(journal) => journal.statistics(),
                None => image.past_journals.get(),
            },
            growth: image.growth.statistics(),
            dedup: image
                .dedup
                .as_ref()
                .map(|dedup| dedup.statistics())
                .unwrap_or_default(),
            ..*image.statistics.borrow()
        }
    }
}

#[cfg(test)]
mod tests;
