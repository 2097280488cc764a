//! Making changes durable by way of a journal: one record beside the data, and one sync.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;

use futures_util::future::join_all;

use super::image::Image;
use super::metadata::Page;
use super::transaction::{Sealed, Transaction};
use crate::journal::{Committed, Journal, Placed, RecordBuilder};
use crate::mutant::mutant;
use crate::qcow2::file;
use crate::{Error, Storage};

/// A part of the largest record that waits at most: what comes at once must fit beside it.
const PENDING_PART: u64 = 4;
/// A part of the largest record that one request makes at most.
const REQUEST_PART: u64 = 16;
/// What a cluster that is mapped takes of a record at most: two words and a refcount.
const CLUSTER_BYTES: u64 = 72;

/// So much must the host have to spare, in lengths of the journal, when new data begins to take the
/// detour after a flush: then what is on the way has its place, unless others take that meanwhile.
const SPARE_REGIONS: u64 = 16;

/// What an image has beside its journal.
#[derive(Default)]
pub(super) struct Journaled {
    pub(super) journal: RefCell<Option<Rc<Journal>>>,
    /// A transaction that could not be written, which comes before any other.
    unfinished: RefCell<Option<Ready>>,
    /// A record without changes that could not be written.
    unfinished_mark: RefCell<Option<Placed>>,
    /// Pages that must stay until a checkpoint has written them, by the record that changed them.
    pages: RefCell<VecDeque<(u64, Vec<Rc<Page>>)>>,
}

/// A transaction that is ready to be written.
struct Ready {
    sealed: Sealed,
    pages: Vec<Rc<Page>>,
    record: RecordBuilder,
    /// Data that goes into the record.
    data: Vec<(u64, Vec<u8>)>,
    /// Whether it points to data that must be durable before.
    unchecked: bool,
    /// Whether fresh tables go to their places, before, and not into the record.
    fresh_in_place: bool,
    /// Where it goes, once that is certain: it is written again to the same place.
    placed: Option<Placed>,
}

impl<S: Storage> Image<S> {
    /// The journal, while there is one.
    pub(super) fn journal(&self) -> Option<Rc<Journal>> {
        self.journaled.journal.borrow().clone()
    }

    /// The journal, if it vouches for guest data. A data file has its own sync, before.
    pub(super) fn guarding_journal(&self) -> Option<Rc<Journal>> {
        self.journal().filter(|_| self.data_file.is_none())
    }

    /// How many clusters one request maps at once.
    pub(super) fn clusters_at_once(&self) -> u64 {
        match self.journal() {
            Some(journal) => (journal.record_bytes_max() / REQUEST_PART / CLUSTER_BYTES).max(1),
            None => u64::MAX,
        }
    }

    /// Whether what is pending fills so much of a record that a commit should come.
    pub(super) fn fills_a_record(&self) -> bool {
        let pending = self.metadata.pending(Transaction::record_bytes) as u64;
        let full = |journal: Rc<Journal>| pending > journal.record_bytes_max() / PENDING_PART;
        self.journal().is_some_and(full)
    }

    /// Commits until there is room in the pending transaction for one change more, whoever else
    /// makes changes meanwhile.
    pub(super) async fn make_room(&self) -> Result<(), Error> {
        while self.fills_a_record() {
            self.commit_all().await?;
        }
        Ok(())
    }

    /// Whether a flush needs a transaction.
    pub(super) fn has_essential(&self) -> bool {
        let waits = |journal: Rc<Journal>| journal.shadows.has_pending();
        self.metadata.pending(Transaction::is_essential) || self.journal().is_some_and(waits)
    }

    /// Where the last cluster ends that something may point to.
    fn file_end(&self) -> u64 {
        self.free_space.end() << self.layout().cluster_bits
    }

    /// Commits what is pending; but first, as it was then, what could not be written the last time.
    pub(super) async fn commit_journaled(&self, journal: &Rc<Journal>) -> Result<(), Error> {
        let unfinished = self.journaled.unfinished.take();
        let mut ready = match unfinished {
            Some(ready) => ready,
            None => self.seal_journaled(journal).await?,
        };
        if let Err(error) = self.write_journaled(journal, &mut ready).await {
            self.journaled.unfinished.replace(Some(ready));
            return Err(error);
        }
        self.committer.durable.set(self.committer.sealed.get());
        self.finish_journaled(journal, ready);
        Ok(())
    }

    /// Takes out all that is pending, as one transaction.
    async fn seal_journaled(&self, journal: &Journal) -> Result<Ready, Error> {
        let _closed = journal.checks.close(&self.storage).await?;
        self.committer.sealed.set(self.committer.sealed.get() + 1);
        let (sealed, pages) = self.metadata.seal();
        let (sums, unchecked) = journal.checks.seal();
        let data = journal.shadows.seal();
        let mut record = RecordBuilder::new(self.file_end());
        sealed
            .words()
            .for_each(|(at, words)| record.write(at, words));
        if let Some((at, words)) = sealed.header() {
            record.write(*at, words);
        }
        for (at, bytes) in &data {
            record.write(*at, bytes);
        }
        for freed in sealed.freed() {
            record.free(freed.offset, freed.len);
        }
        let mut blocks = 0;
        for (range, sums) in sums {
            record.check(range.start, range.end - range.start, &sums);
            blocks += sums.len() as u64;
        }
        let fresh_bytes: usize = sealed.fresh().map(|(_, bytes)| bytes.len()).sum();
        let largest = usize::try_from(journal.record_bytes_max()).unwrap_or(usize::MAX);
        let fresh_in_place = record.len() + fresh_bytes + fresh_bytes / 16 > largest / 2;
        if !fresh_in_place {
            sealed
                .fresh()
                .for_each(|(at, bytes)| record.write(at, bytes));
        }
        journal.count(|statistics| {
            statistics.checksummed_blocks += blocks;
            statistics.full_blocks += data.chunk_by(|a, b| a.0 / 4096 == b.0 / 4096).count() as u64;
        });
        Ok(Ready {
            sealed,
            pages,
            record,
            data,
            unchecked,
            fresh_in_place,
            placed: None,
        })
    }

    /// Makes a transaction durable.
    async fn write_journaled(&self, journal: &Rc<Journal>, ready: &mut Ready) -> Result<(), Error> {
        if let Some(data_file) = &self.data_file {
            self.data_flusher.flush(data_file).await?;
        }
        if ready.fresh_in_place {
            let fresh = ready.sealed.fresh();
            let writes = fresh.map(|(at, bytes)| file::write(&self.storage, at, bytes.to_vec()));
            let results: Vec<_> = join_all(writes).await;
            self.flusher.changed();
            results.into_iter().collect::<Result<(), _>>()?;
        }
        let has_fresh = ready.fresh_in_place && ready.sealed.fresh().next().is_some();
        if ready.unchecked || has_fresh {
            journal.count(|statistics| statistics.data_syncs += 1);
            self.flusher.flush(&self.storage).await?;
        }
        let placed = match &mut ready.placed {
            Some(placed) => placed,
            none => none.insert(self.place_record(journal, &ready.record).await?),
        };
        self.write_durably(journal, placed).await
    }

    /// Finds room for a record, and makes some if there is none.
    async fn place_record(
        &self,
        journal: &Rc<Journal>,
        record: &RecordBuilder,
    ) -> Result<Placed, Error> {
        // What was begun has its number, and no other record may get that.
        if self.journaled.unfinished_mark.borrow().is_none() {
            if let Some(placed) = journal.place(record, &self.flusher, false) {
                return Ok(placed);
            }
            journal.count(|statistics| statistics.checkpoints_forced += 1);
        }
        self.empty_journal(journal).await?;
        let placed = journal.place(record, &self.flusher, false);
        placed.ok_or_else(|| Error::Unsupported {
            path: self.storage.path().to_owned(),
            problem: "a transaction is larger than the journal".to_owned(),
        })
    }

    /// Brings everything home that the journal holds, and makes all but one block of it free.
    async fn empty_journal(&self, journal: &Rc<Journal>) -> Result<(), Error> {
        let unfinished = self.journaled.unfinished_mark.take();
        let mark = if let Some(mark) = unfinished {
            mark
        } else {
            self.checkpoint(journal).await?;
            self.flusher.flush(&self.storage).await?;
            let mark = journal.place(&RecordBuilder::new(self.file_end()), &self.flusher, true);
            mark.expect("there is always room for a mark")
        };
        if let Err(error) = self.write_durably(journal, &mark).await {
            self.journaled.unfinished_mark.replace(Some(mark));
            return Err(error);
        }
        journal.count(|statistics| statistics.marks += 1);
        journal.marked(&mark);
        Ok(())
    }

    async fn write_durably(&self, journal: &Journal, placed: &Placed) -> Result<(), Error> {
        if mutant("a sync begins before the record is written") {
            self.flusher.changed();
            self.flusher.flush(&self.storage).await?;
            return journal.write(&self.storage, placed).await;
        }
        journal.write(&self.storage, placed).await?;
        self.flusher.changed();
        self.flusher.flush(&self.storage).await
    }

    /// A transaction is durable.
    fn finish_journaled(&self, journal: &Journal, ready: Ready) {
        let is_mark = ready.record.is_empty();
        journal.count(|statistics| {
            statistics.transactions += u64::from(!is_mark);
            statistics.marks += u64::from(is_mark);
        });
        let placed = ready.placed.expect("it was written");
        let mut pages = self.journaled.pages.borrow_mut();
        pages.push_back((journal.next_sequence(), ready.pages));
        let fields = ready.sealed.header().cloned();
        let metadata = ready.sealed.sectors_to_write(!ready.fresh_in_place);
        let committed = Committed {
            metadata: metadata.collect(),
            data: ready.data,
            fields,
        };
        journal.committed(&placed, committed);
        let freed = ready.sealed.into_freed();
        self.committer.freed.borrow_mut().extend(freed);
    }

    /// Writes what durable records say to its places, with no sync: that of a later flush will do.
    /// If the host is full, what could be given back is first.
    pub(super) async fn checkpoint(&self, journal: &Rc<Journal>) -> Result<(), Error> {
        match self.write_home(journal).await {
            Err(error) if error.is_no_space() && self.has_spare() => {
                self.give_back_spare().await?;
                self.write_home(journal).await
            }
            written => written,
        }
    }

    async fn write_home(&self, journal: &Rc<Journal>) -> Result<(), Error> {
        let (_turn, batch) = journal.begin_checkpoint().await;
        let is_current = |current: Rc<Journal>| Rc::ptr_eq(&current, journal);
        if !self.journal().is_some_and(is_current) {
            return Ok(());
        }
        self.check_writable("checkpoint")?;
        let (metadata, data) = (batch.metadata(), batch.data());
        let count = |writes: &[(u64, Vec<u8>)]| -> u64 {
            writes.iter().map(|(_, bytes)| bytes.len() as u64).sum()
        };
        let (metadata_bytes, data_bytes) = (count(&metadata), count(&data));
        for (at, bytes) in &data {
            journal.detour.note_written(&(*at..at + bytes.len() as u64));
        }
        let writes = metadata.into_iter().chain(data);
        let writes = writes.map(|(at, bytes)| file::write(&self.storage, at, bytes));
        let results: Vec<_> = join_all(writes).await;
        self.flusher.changed();
        if let Err(error) = results.into_iter().collect::<Result<(), _>>() {
            journal.checkpoint_failed(batch);
            return Err(error);
        }
        self.count(|statistics| statistics.metadata_bytes += metadata_bytes);
        journal.count(|statistics| statistics.checkpoint_bytes += metadata_bytes + data_bytes);
        let upto = journal.checkpoint_written(&batch, self.flusher.mark());
        let mut pages = self.journaled.pages.borrow_mut();
        let behind = pages.partition_point(|(sequence, _)| *sequence <= upto);
        for (_, pages) in pages.drain(..behind) {
            self.metadata.written(pages);
        }
        Ok(())
    }

    /// The parts of a range whose new data should go into a record; none if the host might have no
    /// place for them in the end.
    pub(super) fn detours(&self, journal: &Journal, range: &Range<u64>) -> Vec<Range<u64>> {
        if journal.detour.is_unused() {
            let region = journal.region();
            let least = SPARE_REGIONS * (region.end - region.start);
            journal.detour.bar(self.storage.spare_bytes() < least);
        }
        journal.detour.parts(range)
    }

    /// Makes data free to be overwritten that the last transaction vouches for. If that is not
    /// enough, brings home what waits, so that it is free as well.
    pub(super) async fn lift_guard(
        &self,
        journal: &Rc<Journal>,
        thoroughly: bool,
    ) -> Result<(), Error> {
        self.commit_mark().await?;
        if thoroughly {
            self.checkpoint(journal).await?;
            self.flusher.flush(&self.storage).await?;
            self.commit_mark().await?;
        }
        Ok(())
    }
}
