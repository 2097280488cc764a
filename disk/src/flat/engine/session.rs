//! The beginning and the end of writing to an image.
//!
//! ```text
//!   region: zeros, superblock ── sync ── header: there is a journal ── sync ── in use
//!   everything home ── sync ── header: there is none ── sync ── region given back
//! ```

use std::rc::Rc;

use super::image::Image;
use crate::flat::format::Header;
use crate::flat::header_file::replace_header;
use crate::flat::journal::give_back;
use crate::journal::{Journal, Journaled as _};
use crate::mutant::mutant;
use crate::{Error, Order, Storage};

impl<S: Storage> Image<S> {
    /// Refuses a change if there can be none. Before the first, makes the journal.
    pub(super) async fn prepare(&self, operation: &'static str) -> Result<(), Error> {
        self.check_writable(operation)?;
        if self.is_prepared.get() {
            return Ok(());
        }
        let _turn = self.preparing.all().await;
        if self.is_prepared.get() {
            return Ok(());
        }
        // Whoever had the turn before may have failed: what it wrote must stay as it is.
        self.check_writable(operation)?;
        // What stands alone has no bits to set, unless it is compact.
        let is_full = self.bitmap.borrow().is_full() && self.table.borrow().is_none();
        if self.order.get() == Order::Journal && !is_full {
            self.start_journal().await?;
        }
        self.is_prepared.set(true);
        Ok(())
    }

    /// Makes the image's journal. If the host has no room for it, the image goes on without, unless
    /// a journal was asked for.
    async fn start_journal(&self) -> Result<(), Error> {
        match self.make_journal().await {
            Err(error) if error.is_no_space() && !self.needs_journal => {
                tracing::info!(%error, "the bitmap is kept in order by syncs, which is slower");
                self.check_writable("write")?;
                self.order.set(Order::Ordered);
                Ok(())
            }
            made => made,
        }
    }

    async fn make_journal(&self) -> Result<(), Error> {
        let region = self.header.borrow().journal.clone();
        let journal = Journal::create(&self.storage, region, &[], self.past_journals.get()).await?;
        self.flusher.changed();
        let identity = Some(journal.identity());
        self.change_header(|header| header.journal_identity = identity)
            .await?;
        self.journal.replace(Some(Rc::new(journal)));
        Ok(())
    }

    /// Replaces the header, durably, and after all that was written before.
    pub(super) async fn change_header(
        &self,
        change: impl FnOnce(&mut Header),
    ) -> Result<(), Error> {
        let old = self.header.borrow().clone();
        let mut new = old.clone();
        change(&mut new);
        let new = replace_header(&self.storage, &self.flusher, &old, new).await?;
        self.header.replace(new);
        Ok(())
    }

    /// Commits until nothing is left to be written, and ends the journal.
    pub(super) async fn settle(&self) -> Result<(), Error> {
        self.record_all();
        loop {
            // Also what could not be written before, though nothing new waits.
            self.commit_all().await?;
            if !self.has_pending() {
                break;
            }
        }
        self.flusher.flush(&self.storage).await?;
        self.end_journal().await
    }

    async fn end_journal(&self) -> Result<(), Error> {
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        if !mutant("the journal of a flat image ends before all is home") {
            journal.checkpoint(self).await?;
        }
        self.change_header(|header| header.journal_identity = None)
            .await?;
        self.journal.replace(None);
        self.past_journals.set(journal.statistics());
        self.is_prepared.set(false);
        give_back(&self.storage, &journal.region()).await;
        self.flusher.changed();
        Ok(())
    }

    /// Settles, and says that the base is not needed any more if every block is local, and no snapshot
    /// needs it.
    pub(super) async fn settle_for_good(&self) -> Result<(), Error> {
        self.settle().await?;
        let needs_base = self.has_snapshots() && !mutant("snapshots lose their base");
        let is_full = self.bitmap.borrow().is_full();
        let is_done = is_full && !needs_base && self.header.borrow().base.is_some();
        if !is_done {
            return Ok(());
        }
        self.change_header(|header| {
            header.base = None;
            (header.base_bytes, header.covered_bytes) = (0, 0);
        })
        .await
    }

    /// Makes everything durable and lets go of the files. Requests whose senders have gone away
    /// may still be in flight: once the files are another's, nothing may be written.
    pub(super) async fn close(&self) -> Result<(), Error> {
        let _changes = self.changes.all().await;
        let _everything = self.blocks.all().await;
        let settled = match self.check_writable("close") {
            Ok(()) => self.settle_for_good().await,
            Err(_) if self.storage.geometry().read_only => Ok(()),
            Err(error) => Err(error),
        };
        if settled.is_ok() && !self.storage.geometry().read_only {
            self.cut_off().await;
        }
        self.is_closed.set(true);
        self.storage.close();
        let base = self.base.take();
        let closed = match base {
            Some(base) => base.close().await,
            None => Ok(()),
        };
        settled.and(closed)
    }
}
