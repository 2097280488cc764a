//! A flat image as a disk.

mod allocate;
mod commit;
mod copy;
mod direct;
mod extent;
mod growth;
mod image;
mod open;
mod pace;
mod place;
mod prefetch;
mod read;
mod reshape;
mod room;
mod session;
mod snapshot;
mod write;
mod zero;

use std::rc::Rc;

use super::format::Header;
use super::snapshots::Snapshot;
use crate::executor::uninterrupted;
use crate::journal::{Journaled as _, overwrite, watch_idleness};
use crate::mutant::mutant;
use crate::request::Counted;
use crate::{BoxFuture, Disk, Error, Extent, Op, Properties, Request, Statistics, Storage, spawn};
pub use copy::{Copying, Prefetch};
use image::Image;
pub use open::Parts;
pub(crate) use open::check_base_size;
pub use snapshot::NewSnapshot;

/// A flat image.
pub struct Flat<S: Storage> {
    image: Rc<Image<S>>,
}

impl<S: Storage> Flat<S> {
    /// The header as it is now.
    pub fn header(&self) -> Header {
        self.image.header.borrow().clone()
    }

    /// The storage below.
    pub fn storage(&self) -> &S {
        &self.image.storage
    }

    /// The snapshots in the image, the oldest first.
    pub fn snapshots(&self) -> Vec<Snapshot> {
        self.image.snapshots.borrow().to_vec()
    }

    /// How many blocks come from the base.
    pub fn missing_blocks(&self) -> u64 {
        self.image.bitmap.borrow().missing()
    }
}

impl<S: Storage> Image<S> {
    async fn serve(self: Rc<Self>, request: Request) -> Result<(), Error> {
        let (counted, len) = (Counted::of(&request.op), request.len);
        let watched = self.pace.watch(|| self.is_far(&request));
        let result = match (self.direct(&request), request.op) {
            (Some((_shared, host)), Op::Read(buffers)) => self.read_host(host, buffers).await,
            (Some((_shared, host)), Op::Write(buffers)) => {
                overwrite(&*self, host, buffers).await.map(drop)
            }
            // Most requests do not need all that this can do, nor the room for it.
            (_, op) => {
                let request = Request { op, ..request };
                Box::pin(self.perform(request)).await
            }
        };
        self.count(|statistics| statistics.count(counted, len, result.is_ok()));
        if let Some(watched) = watched {
            self.pace.done(&watched, len);
        }
        result
    }

    /// Whether some of what a request wants is at the base.
    fn is_far(&self, request: &Request) -> bool {
        let is_sound = request.len > 0 && request.problem(self.size_bytes()).is_none();
        is_sound && !self.is_local(&(request.offset..request.offset + request.len))
    }

    async fn perform(self: &Rc<Self>, request: Request) -> Result<(), Error> {
        if let Some(problem) = request.problem(self.size_bytes()) {
            return Err(request.refused(self.storage.path().to_owned(), problem));
        }
        let name = request.op.name();
        let Request {
            op, offset, len, ..
        } = request;
        match op {
            Op::Flush if self.storage.geometry().read_only => return Ok(()),
            Op::Flush => {
                self.flush().await?;
                self.start_checkpoint();
                return Ok(());
            }
            _ if len == 0 => return Ok(()),
            Op::Read(buffers) => return self.read(offset, &buffers).await,
            Op::Write(_) | Op::Discard | Op::WriteZeroes { .. } => {}
        }
        let _change = self.changes.shared(0, 0).await;
        self.prepare(name).await?;
        watch_idleness(self);
        if self.fills_a_record() {
            self.commit_all().await?;
            self.start_checkpoint();
        }
        match op {
            Op::Write(buffers) => self.write(offset, buffers).await,
            Op::Discard => self.discard(offset, len).await,
            Op::WriteZeroes { unmap } => self.write_zeroes(offset, len, unmap).await,
            Op::Read(_) | Op::Flush => Ok(()),
        }
    }

    /// Brings home, beside what comes next, what the journal has.
    fn start_checkpoint(self: &Rc<Self>) {
        let Some(journal) = self.journal().filter(|journal| journal.wants_checkpoint()) else {
            return;
        };
        let image = Rc::clone(self);
        spawn(async move {
            if let Err(error) = journal.checkpoint(&*image).await {
                tracing::warn!(%error, "cannot write what the journal holds");
            }
        });
    }
}

impl<S: Storage> Disk for Flat<S> {
    fn properties(&self) -> Properties {
        let geometry = self.image.storage.geometry();
        Properties {
            size_bytes: self.image.size_bytes(),
            read_only: geometry.read_only,
            block_size_bytes: geometry.block_size_bytes,
            physical_block_size_bytes: geometry.physical_block_size_bytes,
            optimal_io_size_bytes: geometry.optimal_io_size_bytes,
            discard_granularity_bytes: geometry.discard_granularity_bytes,
        }
    }

    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>> {
        let image = Rc::clone(&self.image);
        match request.op {
            Op::Read(_) if !image.copies.get() => Box::pin(image.serve(request)),
            _ => Box::pin(uninterrupted(image.serve(request))),
        }
    }

    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>> {
        Box::pin(async move { self.image.extent(offset, len).await })
    }

    fn give_up(&self) {
        self.image.is_closing.set();
        self.image.storage.give_up();
        if let Some(base) = &*self.image.base.borrow() {
            base.give_up();
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        // Nobody waits for what is being copied, and who waits for a larger device is in the way.
        if !mutant("closing waits for a base that is away") {
            self.give_up();
        }
        let image = Rc::clone(&self.image);
        Box::pin(uninterrupted(async move { image.close().await }))
    }

    fn statistics(&self) -> Statistics {
        let image = &self.image;
        Statistics {
            host_syncs: image.flusher.syncs(),
            journal: match image.journal() {
                Some(journal) => journal.statistics(),
                None => image.past_journals.get(),
            },
            ..*image.statistics.borrow()
        }
    }
}
