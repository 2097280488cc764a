//! An open image: what all its requests share.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::commit::Ready;
use super::growth::Growth;
use super::pace::Pace;
use crate::commits::Commits;
use crate::flat::bitmap::Bitmap;
use crate::flat::format::Header;
use crate::flat::snapshots::Snapshot;
use crate::flat::table::Table;
use crate::flush::Flusher;
use crate::journal::{Journal, Journaled};
use crate::latch::Latch;
use crate::range_locks::RangeLocks;
use crate::{Buffers, Disk, Error, JournalStatistics, Order, Statistics, Storage};

/// A flat image in use.
pub(super) struct Image<S> {
    pub(super) storage: S,
    /// What is not local comes from here.
    pub(super) base: RefCell<Option<Rc<dyn Disk>>>,
    pub(super) header: RefCell<Header>,
    pub(super) bitmap: RefCell<Bitmap>,
    /// Where the chunks of a compact image are; absent if the image is not compact.
    pub(super) table: RefCell<Option<Table>>,
    /// The snapshots, the oldest first.
    pub(super) snapshots: RefCell<Rc<[Snapshot]>>,
    /// How the bitmap is kept in order with data.
    pub(super) order: Cell<Order>,
    /// Whether an image that cannot have a journal is refused.
    pub(super) needs_journal: bool,
    pub(super) journal: RefCell<Option<Rc<Journal>>>,
    /// A transaction that could not be written, which comes before any other.
    pub(super) unfinished: RefCell<Option<Ready>>,
    pub(super) commits: Commits,
    /// What journals have done that are over.
    pub(super) past_journals: Cell<JournalStatistics>,
    /// Requests hold the blocks that they touch: exclusively while those become local.
    pub(super) blocks: RangeLocks,
    /// Whoever changes anything shares it, until that is over, whether or not its sender waits.
    pub(super) changes: RangeLocks,
    /// Held while a place is looked for.
    pub(super) allocating: RangeLocks,
    pub(super) growth: Growth<S>,
    /// Held while what must precede the first write is done.
    pub(super) preparing: RangeLocks,
    pub(super) flusher: Flusher,
    /// Whether what is read from the base is kept.
    pub(super) copies: Cell<bool>,
    /// How much had been copied when bits of it last went to the file.
    pub(super) recorded_bytes: Cell<u64>,
    /// How fast to copy what nobody has read.
    pub(super) pace: Pace,
    /// Whether what must precede the first write is done.
    pub(super) is_prepared: Cell<bool>,
    /// Set when it is about to be closed: nothing more is copied, and no device made larger.
    pub(super) is_closing: Latch,
    /// Whether the file may be another's.
    pub(super) is_closed: Cell<bool>,
    pub(super) statistics: RefCell<Statistics>,
}

impl<S: Storage> Image<S> {
    pub(super) fn size_bytes(&self) -> u64 {
        self.header.borrow().size_bytes
    }

    pub(super) fn block_bytes(&self) -> u64 {
        self.header.borrow().block_bytes()
    }

    /// Whether there are snapshots in the image.
    pub(super) fn has_snapshots(&self) -> bool {
        !self.snapshots.borrow().is_empty()
    }

    /// Whether all of a range of the disk is local.
    pub(super) fn is_local(&self, range: &Range<u64>) -> bool {
        self.bitmap.borrow().is_local(range)
    }

    /// Whether the first byte of a range of the disk is local, and up to where the next are alike.
    pub(super) fn run(&self, range: &Range<u64>) -> (bool, u64) {
        let bitmap = self.bitmap.borrow();
        if bitmap.is_full() {
            return (true, range.end);
        }
        let (local, end) = bitmap.run(&bitmap.blocks(range));
        let bits = self.header.borrow().block_bits;
        (local, (end << bits).min(range.end))
    }

    /// Counts something.
    pub(super) fn count(&self, count: impl FnOnce(&mut Statistics)) {
        count(&mut self.statistics.borrow_mut());
    }
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
        self.journal.borrow().clone()
    }

    fn guarding_journal(&self) -> Option<Rc<Journal>> {
        self.journal()
    }

    fn file_end(&self) -> u64 {
        let table = self.table.borrow();
        let end = table.as_ref().map_or(0, Table::end);
        self.header.borrow().file_end().max(end)
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
        self.flusher.check(&self.storage)
    }

    async fn commit_mark(&self) -> Result<(), Error> {
        self.commit_to(self.commits.sealed() + 1).await
    }

    async fn write_host(&self, host: u64, buffers: Buffers) -> Result<(), Error> {
        let written = self.storage.write_at(host, buffers).await;
        self.flusher.changed();
        written
    }

    fn written_home(&self, _upto: u64, metadata_bytes: u64) {
        self.count(|statistics| statistics.metadata_bytes += metadata_bytes);
    }

    /// Nothing is set aside.
    async fn give_back_spare(&self) -> Result<bool, Error> {
        Ok(false)
    }

    async fn tidy(&self) -> Result<(), Error> {
        let _change = self.changes.shared(0, 0).await;
        let Some(journal) = self.journal() else {
            return Ok(());
        };
        self.check_writable("tidy up")?;
        self.commit_all().await?;
        if !journal.is_at_rest() {
            journal.checkpoint(self).await?;
            self.flusher.flush(&self.storage).await?;
            self.commit_mark().await?;
        }
        Ok(())
    }
}
