//! The journal of the guest's file system (jbd2).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use ::disk::Error;
use futures_util::future::try_join_all;

use super::{BLOCK_BYTES, Group, Guest, JOURNAL};

/// Where metadata blocks are logged.
#[derive(Default)]
pub(super) struct Journal {
    /// The metadata blocks of the running transaction, by where they belong.
    running: RefCell<BTreeSet<u64>>,
    /// Those that are logged and not yet written to their places.
    logged: RefCell<BTreeSet<u64>>,
    /// Bytes logged since they were.
    used_bytes: Cell<u64>,
    /// Where the next transaction goes, from the journal's start.
    at: Cell<u64>,
    group: Group,
}

impl Journal {
    pub(super) fn add(&self, blocks: impl Iterator<Item = u64>) {
        self.running.borrow_mut().extend(blocks);
    }

    /// Waits until the running transaction is committed.
    pub(super) async fn commit(&self, guest: &Guest) -> Result<(), Error> {
        self.group
            .join(async || self.commit_running(guest).await)
            .await
    }

    async fn commit_running(&self, guest: &Guest) -> Result<(), Error> {
        let blocks = self.running.take();
        self.log(guest, 1 + blocks.len() as u64).await?;
        guest.flush().await?;
        self.log(guest, 1).await?;
        guest.flush().await?;
        self.logged.borrow_mut().extend(blocks);
        if self.used_bytes.get() < (JOURNAL.end - JOURNAL.start) / 4 {
            return Ok(());
        }
        self.used_bytes.set(0);
        let home = self.logged.take();
        try_join_all(home.iter().map(|offset| guest.write(*offset, BLOCK_BYTES))).await?;
        guest.flush().await
    }

    async fn log(&self, guest: &Guest, blocks: u64) -> Result<(), Error> {
        let len = blocks * BLOCK_BYTES;
        let at = self.at.get();
        let start = if at + len > JOURNAL.end - JOURNAL.start {
            0
        } else {
            at
        };
        self.at.set(start + len);
        self.used_bytes.set(self.used_bytes.get() + len);
        guest.write(JOURNAL.start + start, len).await
    }
}
