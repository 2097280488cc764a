//! Making changes durable: new bits of the bitmap, new entries of a compact image's table, and what
//! the journal keeps of the guest's data.

use std::ops::Range;

use futures_util::future::join_all;

use super::image::Image;
use crate::flat::changed::Changes;
use crate::flat::table::Table;
use crate::journal::{Committed, Journal, Journaled as _, Placed, RecordBuilder, SealedData};
use crate::mutant::mutant;
use crate::{Buffers, Error, Order, Storage};

/// A part of the largest record that waits at most: what comes at once must fit beside it.
const PENDING_PART: u64 = 4;
/// What a word of the bitmap takes of a record at most.
const WORD_RECORD_BYTES: u64 = 24;
/// And what a freed place takes.
const FREED_RECORD_BYTES: u64 = 16;

/// What changes with a transaction.
struct Pending {
    bits: Changes,
    entries: Changes,
    /// Places that are nobody's any more.
    freed: Vec<Range<u64>>,
}

/// A transaction that is ready to be written.
pub(super) struct Ready {
    pending: Pending,
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
        self.changed_words() > 0 || waits()
    }

    fn changed_words(&self) -> usize {
        let table = self.table.borrow();
        let entries = table.as_ref().map_or(0, Table::changed_words);
        self.bitmap.borrow().changed_words() + entries
    }

    /// Whether what is pending fills so much of a record that a commit should come.
    pub(super) fn fills_a_record(&self) -> bool {
        let freed = self.table.borrow().as_ref().map_or(0, Table::freed) as u64;
        let words = self.changed_words() as u64;
        let pending = words * WORD_RECORD_BYTES + freed * FREED_RECORD_BYTES;
        let is_full = |max: u64| pending > max / PENDING_PART;
        self.journal()
            .is_some_and(|journal| is_full(journal.record_bytes_max()))
    }

    /// Takes out what waits for a commit.
    fn take_pending(&self) -> Pending {
        let bits = self.bitmap.borrow().take_changes();
        let table = self.table.borrow();
        let (entries, freed) = table.as_ref().map(Table::take_changes).unwrap_or_default();
        Pending {
            bits,
            entries,
            freed,
        }
    }

    fn put_back(&self, pending: &Pending) {
        self.bitmap.borrow().put_back(&pending.bits);
        if let Some(table) = &*self.table.borrow() {
            table.put_back(&pending.entries, &pending.freed);
        }
    }

    /// Where the bitmap is in the file.
    fn bitmap_offset(&self) -> u64 {
        self.header.borrow().bitmap.start
    }

    /// Where the table is in the file.
    fn table_offset(&self) -> u64 {
        let header = self.header.borrow();
        header
            .chunks
            .as_ref()
            .map_or(0, |chunks| chunks.table.start)
    }

    /// Without a journal: data first, then places, then bits.
    async fn commit_in_order(&self) -> Result<(), Error> {
        self.commits.seal();
        let pending = self.take_pending();
        let written = self.write_in_order(&pending).await;
        if written.is_err() {
            self.put_back(&pending);
            return written;
        }
        self.reclaim(&pending.freed).await;
        self.commits.committed();
        Ok(())
    }

    /// A bit must not be there without the place that its block got with it: the block would read as
    /// zeros. Nor may a bit be there of a block that is zeros because its chunk has no place any
    /// more, while the table still has one for it.
    async fn write_in_order(&self, pending: &Pending) -> Result<(), Error> {
        let Pending { bits, entries, .. } = pending;
        if !mutant("no sync before bits are written") {
            self.keep_order().await?;
        }
        self.write_changes(self.table_offset(), entries).await?;
        let is_both = !entries.is_empty() && !bits.is_empty();
        if is_both && !mutant("bits are written together with the table") {
            self.keep_order().await?;
        }
        self.write_changes(self.bitmap_offset(), bits).await?;
        self.flusher.flush(&self.storage).await
    }

    /// Writes whole sectors of what begins at `offset`.
    async fn write_changes(&self, offset: u64, changes: &Changes) -> Result<(), Error> {
        let writes = changes.writes().into_iter().map(|(at, bytes)| {
            self.count(|statistics| statistics.metadata_bytes += bytes.len() as u64);
            self.storage.write_at(offset + at, Buffers::from_vec(bytes))
        });
        let results = join_all(writes).await;
        self.flusher.changed();
        results.into_iter().collect()
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
        let freed = self.finish(journal, ready);
        self.reclaim(&freed).await;
        self.commits.committed();
        Ok(())
    }

    /// Takes out all that is pending, as one transaction.
    async fn seal(&self, journal: &Journal) -> Result<Ready, Error> {
        let _closed = journal.checks.close(&self.storage).await?;
        self.commits.seal();
        let pending = self.take_pending();
        let mut record = RecordBuilder::new(self.file_end());
        for places in &pending.freed {
            self.note_freed(places, &mut record);
        }
        for (offset, changes) in self.tables(&pending) {
            for (at, words) in changes.words() {
                record.write(offset + at, words);
            }
        }
        let guarded = journal.seal_data(&mut record);
        Ok(Ready {
            pending,
            record,
            guarded,
            placed: None,
        })
    }

    fn note_freed(&self, places: &Range<u64>, record: &mut RecordBuilder) {
        if let Some(table) = &*self.table.borrow()
            && !mutant("a record does not say which places it frees")
        {
            let range = table.range_of(places);
            record.free(range.start, range.end - range.start);
        }
    }

    /// What has changed in which table, by where that begins.
    fn tables<'a>(&self, pending: &'a Pending) -> [(u64, &'a Changes); 2] {
        [
            (self.table_offset(), &pending.entries),
            (self.bitmap_offset(), &pending.bits),
        ]
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

    /// A transaction is durable. Returns the places that are nobody's any more.
    fn finish(&self, journal: &Journal, ready: Ready) -> Vec<Range<u64>> {
        let tables = self.tables(&ready.pending).into_iter();
        let metadata = tables.flat_map(|(offset, changes)| {
            let writes = changes.writes().into_iter();
            writes.map(move |(at, bytes)| (offset + at, bytes))
        });
        let committed = Committed {
            metadata: metadata.collect(),
            data: ready.guarded.data,
            fields: None,
        };
        journal.committed(&ready.placed.expect("it was written"), committed);
        ready.pending.freed
    }
}
