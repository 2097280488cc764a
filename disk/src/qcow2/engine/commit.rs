//! Making changes durable: the one place that a [`Transaction`] goes to.
//!
//! In order: data, refcounts and tables that nothing points to; then pointers to refcount blocks;
//! then pointers to data; then pointers to L2 tables. There is a sync between two of these where
//! both have something to write, and one at the end. A power cut at any time leaves at most
//! clusters that are counted and not used.

use futures_util::future::join_all;

use super::image::Image;
use super::reclaim::Reclaim;
use super::transaction::{Sealed, Stage, Transaction};
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::qcow2::{copied, file};
use crate::{Error, Order, Storage};

impl<S: Storage> Image<S> {
    /// Makes everything durable that completed before this call.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        let (mark, data_mark) = (self.flusher.mark(), self.data_flusher.mark());
        let sealed = self.committer.commits.sealed();
        let essential = self.has_essential();
        self.commit_to(if essential { sealed + 1 } else { sealed })
            .await?;
        self.flusher.flush_to(&self.storage, mark).await?;
        match &self.data_file {
            Some(data_file) => self.data_flusher.flush_to(data_file, data_mark).await,
            None => Ok(()),
        }
    }

    /// Commits all changes so far, refcounts that could wait included.
    pub(super) async fn commit_all(&self) -> Result<(), Error> {
        let sealed = self.committer.commits.sealed();
        let wanted = if self.is_clean() { sealed } else { sealed + 1 };
        self.commit_to(wanted).await
    }

    /// Whether nothing waits for a commit.
    fn is_clean(&self) -> bool {
        self.metadata.pending(Transaction::is_empty) && !self.has_essential()
    }

    /// Commits until transaction `wanted` is durable.
    pub(super) async fn commit_to(&self, wanted: u64) -> Result<(), Error> {
        let commits = &self.committer.commits;
        commits
            .reach(wanted, async || {
                self.check_writable("flush")?;
                self.commit_pending().await
            })
            .await
    }

    /// Commits what is pending; but first, as it was then, what could not be written the last time.
    async fn commit_pending(&self) -> Result<(), Error> {
        if let Some(journal) = self.journal() {
            return self.commit_journaled(&journal).await;
        }
        let committer = &self.committer;
        let failed = committer.failed.take();
        let (sealed, pages) = failed.unwrap_or_else(|| {
            committer.commits.seal();
            self.metadata.seal()
        });
        if let Err(error) = self.write_in_order(&sealed).await {
            if !mutant("a failed commit is forgotten") {
                committer.failed.replace(Some((sealed, pages)));
            }
            return Err(error);
        }
        committer.commits.committed();
        self.metadata.written(pages);
        committer.freed.borrow_mut().extend(sealed.into_freed());
        Ok(())
    }

    /// Writes stage after stage, each behind a sync of all before it.
    async fn write_in_order(&self, sealed: &Sealed) -> Result<(), Error> {
        for stage in sealed.writes.chunk_by(|a, b| a.0 == b.0) {
            if stage[0].0 > Stage::Refcounts && !mutant("no sync before pointers are written") {
                self.keep_order().await?;
            }
            let writes = stage.iter().map(|(_, offset, bytes)| {
                self.count(|statistics| statistics.metadata_bytes += bytes.len() as u64);
                file::write(&self.storage, *offset, bytes.clone())
            });
            let results = join_all(writes).await;
            self.flusher.changed();
            results.into_iter().collect::<Result<(), _>>()?;
        }
        self.make_durable().await
    }

    /// Sees to it that what is written from now on is not there without what has been written.
    async fn keep_order(&self) -> Result<(), Error> {
        // Order is kept within a file only.
        if self.order.get() != Order::Barrier || self.data_file.is_some() {
            return self.make_durable().await;
        }
        if mutant("a barrier is left out") {
            return Ok(());
        }
        self.count(|statistics| statistics.barriers += 1);
        self.flusher.barrier(&self.storage).await
    }

    /// Makes durable what has been written.
    pub(super) async fn make_durable(&self) -> Result<(), Error> {
        if let Some(data_file) = &self.data_file {
            self.data_flusher.flush(data_file).await?;
        }
        self.flusher.flush(&self.storage).await
    }

    /// Commits until nothing is left to be written or freed.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        loop {
            self.commit_all().await?;
            self.reclaim(Reclaim::All).await?;
            if self.is_clean() {
                break;
            }
        }
        // What was written in place changed no metadata.
        self.make_durable().await?;
        self.let_go_of_zeros();
        self.settle_copied().await?;
        self.end_journal().await?;
        self.shrink().await;
        Ok(())
    }

    /// Has the entries of clusters that are not shared any more say so, once that is certain.
    async fn settle_copied(&self) -> Result<(), Error> {
        if !self.is_unsettled.get() {
            return Ok(());
        }
        if let Some(journal) = self.journal() {
            journal.checkpoint(self).await?;
            self.make_durable().await?;
        }
        let header = self.header.borrow().clone();
        let settled = copied::settle(&self.storage, &header).await;
        self.flusher.changed();
        self.metadata.clear();
        settled?;
        self.make_durable().await?;
        self.is_unsettled.set(false);
        Ok(())
    }
}
