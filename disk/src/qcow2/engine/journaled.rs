//! Making changes durable by way of a journal: one record beside the data, and one sync.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use futures_util::future::join_all;

use super::image::Image;
use super::metadata::Page;
use super::reclaim::Reclaim;
use super::transaction::{Sealed, Transaction};
use crate::flush::Flusher;
use crate::journal::{Committed, Journal, Journaled, Placed, RecordBuilder, SealedData};
use crate::qcow2::file;
use crate::{Buffers, Error, Storage};

/// A part of the largest record that waits at most: what comes at once must fit beside it.
const PENDING_PART: u64 = 4;
/// A part of the largest record that one request makes at most.
const REQUEST_PART: u64 = 16;
/// What a cluster that is mapped takes of a record at most: two words and a refcount.
const CLUSTER_BYTES: u64 = 72;

/// What an image has beside its journal.
#[derive(Default)]
pub(super) struct JournalState {
    pub(super) journal: RefCell<Option<Rc<Journal>>>,
    /// A transaction that could not be written, which comes before any other.
    unfinished: RefCell<Option<Ready>>,
    /// Pages that must stay until a checkpoint has written them, by the record that changed them.
    pages: RefCell<VecDeque<(u64, Vec<Rc<Page>>)>>,
}

/// A transaction that is ready to be written.
struct Ready {
    sealed: Sealed,
    pages: Vec<Rc<Page>>,
    record: RecordBuilder,
    guarded: SealedData,
    /// Whether fresh tables go to their places, before, and not into the record.
    fresh_in_place: bool,
    /// Where it goes, once that is certain: it is written again to the same place.
    placed: Option<Placed>,
}

impl<S: Storage> Journaled for Image<S> {
    type Storage = S;

    fn storage(&self) -> &S {
        &self.storage
    }

    fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    fn journal(&self) -> Option<Rc<Journal>> {
        self.journaled.journal.borrow().clone()
    }

    /// A data file has its own sync, before.
    fn guarding_journal(&self) -> Option<Rc<Journal>> {
        self.journal().filter(|_| self.data_file.is_none())
    }

    /// Where the last cluster ends that something may point to.
    fn file_end(&self) -> u64 {
        self.free_space.end() << self.layout().cluster_bits
    }

    fn check_writable(&self, operation: &'static str) -> Result<(), Error> {
        let path = || self.storage.path().to_owned();
        if self.storage.geometry().read_only {
            return Err(Error::ReadOnly {
                path: path(),
                operation,
            });
        }
        if self.is_closed.get() {
            return Err(Error::Unsupported {
                path: path(),
                problem: format!("was closed, so there is nothing to {operation}"),
            });
        }
        if let Some((offset, problem)) = &*self.damage.borrow() {
            return Err(Error::Damaged {
                path: path(),
                offset: *offset,
                problem: problem.clone(),
            });
        }
        self.flusher.check(&self.storage)?;
        match &self.data_file {
            Some(data_file) => self.data_flusher.check(data_file),
            None => Ok(()),
        }
    }

    async fn commit_mark(&self) -> Result<(), Error> {
        self.commit_to(self.committer.commits.sealed() + 1).await
    }

    async fn write_host(&self, host: u64, buffers: Buffers) -> Result<(), Error> {
        if let Some(journal) = self.guarding_journal() {
            let range = host..host + buffers.len() as u64;
            journal.detour.note_written(&range);
        }
        let result = self.data_storage().write_at(host, buffers).await;
        self.data_changed();
        result
    }

    fn written_home(&self, upto: u64, metadata_bytes: u64) {
        self.count(|statistics| statistics.metadata_bytes += metadata_bytes);
        let mut pages = self.journaled.pages.borrow_mut();
        let behind = pages.partition_point(|(sequence, _)| *sequence <= upto);
        for (_, pages) in pages.drain(..behind) {
            self.metadata.written(pages);
        }
    }

    async fn give_back_spare(&self) -> Result<bool, Error> {
        let has_spare = self.growth.has_ahead() || !self.committer.freed.borrow().is_empty();
        if has_spare {
            self.shrink().await;
            self.reclaim(Reclaim::All).await?;
        }
        Ok(has_spare)
    }

    /// Brings everything home, and gives back what is ahead.
    async fn tidy(&self) -> Result<(), Error> {
        let _change = self.changes.shared(0, 0).await;
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        self.check_writable("tidy up")?;
        self.commit_all().await?;
        self.reclaim(Reclaim::All).await?;
        if !journal.is_at_rest() {
            journal.checkpoint(self).await?;
            self.make_durable().await?;
            self.commit_mark().await?;
        }
        self.shrink().await;
        Ok(())
    }
}

impl<S: Storage> Image<S> {
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
        self.committer.commits.committed();
        self.finish_journaled(journal, ready);
        Ok(())
    }

    /// Takes out all that is pending, as one transaction.
    async fn seal_journaled(&self, journal: &Journal) -> Result<Ready, Error> {
        let _closed = journal.checks.close(&self.storage).await?;
        self.committer.commits.seal();
        let (sealed, pages) = self.metadata.seal();
        let mut record = RecordBuilder::new(self.file_end());
        sealed
            .words()
            .for_each(|(at, words)| record.write(at, words));
        if let Some((at, words)) = sealed.header() {
            record.write(*at, words);
        }
        let guarded = journal.seal_data(&mut record);
        for freed in sealed.freed() {
            record.free(freed.offset, freed.len);
        }
        let fresh_bytes: usize = sealed.fresh().map(|(_, bytes)| bytes.len()).sum();
        let largest = usize::try_from(journal.record_bytes_max()).unwrap_or(usize::MAX);
        let fresh_in_place = record.len() + fresh_bytes + fresh_bytes / 16 > largest / 2;
        if !fresh_in_place {
            sealed
                .fresh()
                .for_each(|(at, bytes)| record.write(at, bytes));
        }
        Ok(Ready {
            sealed,
            pages,
            record,
            guarded,
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
        if ready.guarded.unchecked || has_fresh {
            journal.count(|statistics| statistics.data_syncs += 1);
            self.flusher.flush(&self.storage).await?;
        }
        journal
            .make_durable(self, &ready.record, &mut ready.placed)
            .await
    }

    /// A transaction is durable.
    fn finish_journaled(&self, journal: &Journal, ready: Ready) {
        let placed = ready.placed.expect("it was written");
        let mut pages = self.journaled.pages.borrow_mut();
        pages.push_back((journal.next_sequence(), ready.pages));
        let fields = ready.sealed.header().cloned();
        let metadata = ready.sealed.sectors_to_write(!ready.fresh_in_place);
        let committed = Committed {
            metadata: metadata.collect(),
            data: ready.guarded.data,
            fields,
        };
        journal.committed(&placed, committed);
        let freed = ready.sealed.into_freed();
        self.committer.freed.borrow_mut().extend(freed);
    }
}
