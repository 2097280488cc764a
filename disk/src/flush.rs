//! Flushes that share host syncs.
//!
//! A sync covers the writes that completed before it began. So flushes that arrive while one is
//! running wait for its end, and then all share the next; and a flush with nothing new to make
//! durable needs none, unless it is the first.

use std::cell::Cell;

use crate::mutant::mutant;
use crate::wait_queue::WaitQueue;
use crate::{Error, Storage};

/// What has been changed, and up to where that is durable.
#[derive(Default)]
pub(crate) struct Flusher {
    /// Counts changes, when they complete.
    changes: Cell<u64>,
    /// The changes that are known to be durable.
    durable: Cell<u64>,
    syncing: Cell<bool>,
    /// A failed sync may have dropped dirty pages on the host, and the next one would say that all
    /// is well: from then on nothing can be promised.
    failed: Cell<bool>,
    syncs: Cell<u64>,
    never_syncs: bool,
    waiting: WaitQueue,
}

/// Lets the next flush go on, even if the one that syncs is dropped.
struct Syncing<'a>(&'a Flusher);

impl Drop for Syncing<'_> {
    fn drop(&mut self) {
        self.0.syncing.set(false);
        self.0.waiting.wake_all();
    }
}

impl Flusher {
    /// For a storage that was just opened. What a writer before us left (a program that was killed,
    /// for example) may still be in the host's cache only. A guest reads it, and a flush promises
    /// that it stays: so unless the storage is read-only, the first flush syncs.
    ///
    /// One that `never_syncs` promises nothing.
    pub(crate) fn new(read_only: bool, never_syncs: bool) -> Self {
        Self {
            changes: Cell::new(u64::from(!read_only)),
            never_syncs,
            ..Self::default()
        }
    }

    /// A change has completed.
    pub(crate) fn changed(&self) {
        self.changes.set(self.changes.get() + 1);
    }

    /// The number of host syncs done.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.get()
    }

    /// How far changes have come, for [`Flusher::flush_to`].
    pub(crate) fn mark(&self) -> u64 {
        self.changes.get()
    }

    /// Whether the changes are durable that completed before `mark` was taken.
    pub(crate) fn is_durable(&self, mark: u64) -> bool {
        self.durable.get() >= mark
    }

    /// Nothing can be promised any more.
    pub(crate) fn fail(&self) {
        self.failed.set(true);
    }

    /// Has the host keep what is written from now on behind what was written before. What came of
    /// writes that were to be ordered and were not, nobody knows.
    pub(crate) async fn barrier(&self, storage: &impl Storage) -> Result<(), Error> {
        storage.barrier().await.inspect_err(|_| self.fail())
    }

    /// An error, if a flush has failed.
    pub(crate) fn check(&self, storage: &impl Storage) -> Result<(), Error> {
        if self.failed.get() {
            return Err(Error::FlushFailedBefore {
                path: storage.path().to_owned(),
            });
        }
        Ok(())
    }

    /// Makes the changes durable that completed before this call.
    pub(crate) async fn flush(&self, storage: &impl Storage) -> Result<(), Error> {
        self.flush_to(storage, self.mark()).await
    }

    /// Makes the changes durable that completed before `wanted` was taken.
    pub(crate) async fn flush_to(&self, storage: &impl Storage, wanted: u64) -> Result<(), Error> {
        loop {
            self.check(storage)?;
            if self.never_syncs || self.durable.get() >= wanted {
                return Ok(());
            }
            if !self.syncing.replace(true) {
                return self.sync(storage).await;
            }
            self.waiting.wait().await;
        }
    }

    async fn sync(&self, storage: &impl Storage) -> Result<(), Error> {
        let _syncing = Syncing(self);
        let covered = self.changes.get();
        self.syncs.set(self.syncs.get() + 1);
        match storage.sync().await {
            Ok(()) => {
                self.durable.set(covered);
                Ok(())
            }
            Err(error) => {
                if !mutant("a failed sync is forgotten") {
                    self.fail();
                }
                Err(error)
            }
        }
    }
}
