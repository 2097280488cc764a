//! Bringing dirty blocks home: in the background, and when somebody waits for it.

use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{join_all, select};

use super::Shared;
use super::blocks::Version;
use crate::executor::yield_now;
use crate::mutant::mutant;
use crate::timer::sleep;
use crate::{Buffers, CLASS_BLOCK_BYTES, Error, Request, Storage, spawn};

/// After so long without a write, a disk is idle; after an error, it is tried again.
const IDLE: Duration = Duration::from_secs(1);
/// The most blocks of one write.
const RUN_MAX: usize = 256;
/// So many writes are in flight at once.
const RUNS_AT_ONCE: usize = 8;
/// The most blocks that are brought home in the background before a flush of the disk.
const ROUND_MAX: usize = 2048;

impl<S: Storage> Shared<S> {
    /// Brings blocks home when the disk is idle, or when many are dirty, until it is closed.
    pub(super) fn watch(self: &Rc<Self>) {
        let shared = Rc::clone(self);
        spawn(async move {
            let mut next = 0;
            while !shared.is_closing.is_set() {
                if let Err(error) = shared.round(&mut next).await {
                    tracing::warn!(%error, "blocks stay in the cache for now");
                    shared.is_closing.unless_set(sleep(IDLE)).await;
                }
            }
        });
    }

    /// Waits until there is something to do, and does it. The heads of a disk go on from `next`.
    async fn round(self: &Rc<Self>, next: &mut u64) -> Result<(), Error> {
        if self.is_settled() {
            self.is_closing.unless_set(self.work.wait()).await;
            return Ok(());
        }
        if !self.blocks.borrow().is_pressed() {
            let seen = self.writes.get();
            let pause = select(Box::pin(sleep(IDLE)), Box::pin(self.pressure.wait()));
            self.is_closing.unless_set(pause).await;
            let is_idle = self.writes.get() == seen;
            if self.is_closing.is_set() || !(is_idle || self.blocks.borrow().is_pressed()) {
                return Ok(());
            }
        }
        {
            let _nobody = self.writing_back.all().await;
            if self.is_closing.is_set() {
                return Ok(());
            }
            let dirty: Vec<u64> = self.some_dirty(*next);
            *next = dirty.last().map_or(0, |last| last + 1);
            self.bring_home(&dirty, true).await?;
        }
        if let Some(table) = &self.table {
            self.commit(table).await?;
        }
        yield_now().await;
        Ok(())
    }

    /// Dirty blocks from `next` on, or the first.
    fn some_dirty(&self, next: u64) -> Vec<u64> {
        let blocks = self.blocks.borrow();
        let dirty = blocks.dirty_within(next..u64::MAX).take(ROUND_MAX);
        let dirty: Vec<u64> = dirty.collect();
        if dirty.is_empty() {
            return blocks.dirty_within(0..u64::MAX).take(ROUND_MAX).collect();
        }
        dirty
    }

    fn all_dirty(&self) -> Vec<u64> {
        self.blocks.borrow().dirty_within(0..u64::MAX).collect()
    }

    /// Brings all home that is dirty now, durably.
    pub(super) async fn bring_all_home(self: &Rc<Self>) -> Result<(), Error> {
        let _nobody = self.writing_back.all().await;
        self.bring_home(&self.all_dirty(), true).await
    }

    /// As [`Shared::bring_all_home`], while nobody uses the disk, nor brings anything home.
    pub(super) async fn bring_home_alone(self: &Rc<Self>) -> Result<(), Error> {
        self.bring_home(&self.all_dirty(), false).await?;
        match &self.table {
            Some(table) => self.commit(table).await,
            None => Ok(()),
        }
    }

    /// Brings blocks home, in order, and makes them durable there. `locks` says whether others use
    /// the disk.
    async fn bring_home(&self, blocks: &[u64], locks: bool) -> Result<(), Error> {
        let mut brought = Vec::new();
        let runs: Vec<_> = runs(blocks).collect();
        let mut failed = None;
        for some in runs.chunks(RUNS_AT_ONCE) {
            let writes = some.iter().map(|run| self.bring_run(run, locks));
            for written in join_all(writes).await {
                match written {
                    Ok(versions) => brought.extend(versions),
                    Err(error) => failed = Some(error),
                }
            }
        }
        if !mutant("dirty blocks are clean before they are durable") {
            self.home.flush().await?;
        }
        let mut state = self.blocks.borrow_mut();
        for version in brought {
            state.brought_home(&version);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes blocks that follow each other, as far as they are dirty still.
    async fn bring_run(&self, run: &[u64], locks: bool) -> Result<Vec<Version>, Error> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Ok(Vec::new());
        };
        let _shared = if locks {
            Some(self.locks.shared(*first, *last).await)
        } else {
            None
        };
        let mut brought = Vec::new();
        let versions: Vec<Version> = {
            let state = self.blocks.borrow();
            let found = run.iter().filter_map(|block| state.find(*block));
            found.filter(|version| version.is_dirty).collect()
        };
        for part in versions.chunk_by(|one, next| one.block + 1 == next.block) {
            let _pins = self.pin(part);
            let bytes = self.content(part).await?;
            let offset = part[0].block * CLASS_BLOCK_BYTES;
            let request = Request::write(offset, Buffers::from_vec(bytes));
            let written = self.home.disk.submit(request.of_class(part[0].class)).await;
            self.home.changed();
            written?;
            brought.extend_from_slice(part);
        }
        Ok(brought)
    }
}

/// Blocks that follow each other, no more than one write takes.
fn runs(blocks: &[u64]) -> impl Iterator<Item = &[u64]> {
    blocks
        .chunk_by(|one, next| one + 1 == *next)
        .flat_map(|run| run.chunks(RUN_MAX))
}
