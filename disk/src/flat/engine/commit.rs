//! Making changes durable: new bits of the bitmap, and what the journal keeps of the guest's data.

use futures_util::future::join_all;

use super::image::Image;
use crate::flat::bitmap::Changes;
use crate::journal::{Committed, Journal, Journaled as _, Placed, RecordBuilder, SealedData};
use crate::mutant::mutant;
use crate::{Buffers, Error, Order, Storage};

/// A part of the largest record that waits at most: what comes at once must fit beside it.
const PENDING_PART: u64 = 4;
/// What a word of the bitmap takes of a record at most.
const WORD_RECORD_BYTES: u64 = 24;

/// A transaction that is ready to be written.
pub(super) struct Ready {
    changes: Changes,
    record: RecordBuilder,
    guarded: SealedData,
    /// Where it goes, once that is certain: it is written again to the same place.
    placed: Option<Placed>,
}

impl<S: Storage> Image<S> {
    /// Makes everything durable that completed before this call.
    pub(super) async fn flush(&self) -> Result<(), Error> {
        let mark = self.flusher.mark();
        self.commit_all().await?;
        self.flusher.flush_to(&self.storage, mark).await
    }

    /// Commits all changes so far; not what was only copied.
    pub(super) async fn commit_all(&self) -> Result<(), Error> {
        let sealed = self.commits.sealed();
        let wanted = if self.has_pending() {
            sealed + 1
        } else {
            sealed
        };
        self.commit_to(wanted).await
    }

    /// Commits until transaction `wanted` is durable.
    pub(super) async fn commit_to(&self, wanted: u64) -> Result<(), Error> {
        let commit = async || {
            self.check_writable("flush")?;
            match self.journal() {
                Some(journal) => self.commit_journaled(&journal).await,
                None => self.commit_in_order().await,
            }
        };
        self.commits.reach(wanted, commit).await
    }

    /// Whether something waits for a commit.
    pub(super) fn has_pending(&self) -> bool {
        let waits = || {
            self.journal()
                .is_some_and(|journal| journal.shadows.has_pending())
        };
        self.bitmap.borrow().changed_words() > 0 || waits()
    }

    /// Whether what is pending fills so much of a record that a commit should come.
    pub(super) fn fills_a_record(&self) -> bool {
        let pending = self.bitmap.borrow().changed_words() as u64 * WORD_RECORD_BYTES;
        let is_full = |max: u64| pending > max / PENDING_PART;
        self.journal()
            .is_some_and(|journal| is_full(journal.record_bytes_max()))
    }

    /// Where the bitmap is in the file.
    fn bitmap_offset(&self) -> u64 {
        self.header.borrow().bitmap.start
    }

    /// Without a journal: data first, then bits.
    async fn commit_in_order(&self) -> Result<(), Error> {
        self.commits.seal();
        let changes = self.bitmap.borrow().take_changes();
        let written = self.write_in_order(&changes).await;
        if written.is_err() {
            self.bitmap.borrow().put_back(&changes);
        } else {
            self.commits.committed();
        }
        written
    }

    async fn write_in_order(&self, changes: &Changes) -> Result<(), Error> {
        if !mutant("no sync before bits are written") {
            self.keep_order().await?;
        }
        let offset = self.bitmap_offset();
        let writes = changes.writes().into_iter().map(|(at, bytes)| {
            self.count(|statistics| statistics.metadata_bytes += bytes.len() as u64);
            self.storage.write_at(offset + at, Buffers::from_vec(bytes))
        });
        let results = join_all(writes).await;
        self.flusher.changed();
        results.into_iter().collect::<Result<(), _>>()?;
        self.flusher.flush(&self.storage).await
    }

    /// Sees to it that what is written from now on is not there without what has been written.
    async fn keep_order(&self) -> Result<(), Error> {
        if self.order.get() != Order::Barrier {
            return self.flusher.flush(&self.storage).await;
        }
        self.count(|statistics| statistics.barriers += 1);
        self.flusher.barrier(&self.storage).await
    }

    /// Commits what is pending; but first, as it was then, what could not be written the last time.
    async fn commit_journaled(&self, journal: &Journal) -> Result<(), Error> {
        let unfinished = self.unfinished.take();
        let mut ready = match unfinished {
            Some(ready) => ready,
            None => self.seal(journal).await?,
        };
        if let Err(error) = self.write_journaled(journal, &mut ready).await {
            self.unfinished.replace(Some(ready));
            return Err(error);
        }
        self.commits.committed();
        self.finish(journal, ready);
        Ok(())
    }

    /// Takes out all that is pending, as one transaction.
    async fn seal(&self, journal: &Journal) -> Result<Ready, Error> {
        let _closed = journal.checks.close(&self.storage).await?;
        self.commits.seal();
        let changes = self.bitmap.borrow().take_changes();
        let mut record = RecordBuilder::new(self.file_end());
        for (at, words) in changes.words() {
            record.write(self.bitmap_offset() + at, words);
        }
        let guarded = journal.seal_data(&mut record);
        Ok(Ready {
            changes,
            record,
            guarded,
            placed: None,
        })
    }

    /// Makes a transaction durable.
    async fn write_journaled(&self, journal: &Journal, ready: &mut Ready) -> Result<(), Error> {
        if ready.guarded.unchecked {
            journal.count(|statistics| statistics.data_syncs += 1);
            self.flusher.flush(&self.storage).await?;
        }
        journal
            .make_durable(self, &ready.record, &mut ready.placed)
            .await
    }

    /// A transaction is durable.
    fn finish(&self, journal: &Journal, ready: Ready) {
        let offset = self.bitmap_offset();
        let writes = ready.changes.writes().into_iter();
        let committed = Committed {
            metadata: writes.map(|(at, bytes)| (offset + at, bytes)).collect(),
            data: ready.guarded.data,
            fields: None,
        };
        journal.committed(&ready.placed.expect("it was written"), committed);
    }
}
