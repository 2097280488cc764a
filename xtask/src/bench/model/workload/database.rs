//! Transactions like those of TPC-C, in a database that logs ahead as `PostgreSQL` does.

use std::cell::Cell;

use ::disk::Error;
use futures_util::future::try_join_all;

use super::super::guest::{Group, Guest, Metadata, TABLES};
use super::super::random::Random;

const PAGE_BYTES: u64 = 8 << 10;
/// What a transaction adds to the write-ahead log, at most; half of it on average.
const LOGGED_BYTES_MAX: u64 = 12 << 10;
/// The log is written in files of this size.
const SEGMENT_BYTES: u64 = 4 << 20;
/// A checkpoint comes after so many transactions, and writes so many pages.
const TRANSACTIONS_A_CHECKPOINT: u64 = 128;
const PAGES_A_CHECKPOINT: u64 = 256;
/// Of those, one in so many is new on a new file system: orders come and are kept.
const NEW_IN: u64 = 4;
const PAGES_AT_ONCE: usize = 32;
/// The numbers of the files.
const LOG: u64 = 0;
const TABLE: u64 = 16;

/// A transaction reads a page that is not in memory, and waits until its part of the log is
/// durable; those that end together share a sync. The last page of the log is written again with
/// what follows. From time to time the changed pages go to their places.
///
/// On a new file system, log and tables grow. On an aged one, the log's files are used again, and
/// pages are overwritten, so that a sync of the log changes no metadata.
pub(in super::super) struct Database {
    aged: bool,
    transactions: Cell<u64>,
    log: Log,
}

#[derive(Default)]
struct Log {
    /// How far the log goes, and how far it is durable, in bytes since it began.
    end: Cell<u64>,
    durable: Cell<u64>,
    /// Where the segment is that is written, and which it is.
    segment: Cell<Option<(u64, u64)>>,
    group: Group,
}

impl Database {
    pub(super) fn new(aged: bool) -> Self {
        Self {
            aged,
            transactions: Cell::new(0),
            log: Log::default(),
        }
    }

    pub(super) async fn operation(&self, guest: &Guest, random: &mut Random) -> Result<(), Error> {
        guest.read(any_page(random), PAGE_BYTES).await?;
        let end = &self.log.end;
        end.set(end.get() + 1 + random.below(LOGGED_BYTES_MAX));
        self.log
            .group
            .join(async || self.sync_log(guest).await)
            .await?;
        let count = self.transactions.get() + 1;
        self.transactions.set(count);
        if count.is_multiple_of(TRANSACTIONS_A_CHECKPOINT) {
            self.checkpoint(guest, random).await?;
        }
        Ok(())
    }

    async fn sync_log(&self, guest: &Guest) -> Result<(), Error> {
        let end = self.log.end.get();
        let mut at = self.log.durable.get() / PAGE_BYTES * PAGE_BYTES;
        while at < end {
            let segment_end = (at / SEGMENT_BYTES + 1) * SEGMENT_BYTES;
            let stop = end.next_multiple_of(PAGE_BYTES).min(segment_end);
            guest.write(self.log.place(at, guest), stop - at).await?;
            at = stop;
        }
        self.log.durable.set(end);
        if self.aged {
            guest.flush().await
        } else {
            guest.commit(Metadata::appended(LOG)).await
        }
    }

    async fn checkpoint(&self, guest: &Guest, random: &mut Random) -> Result<(), Error> {
        let pages: Vec<u64> = (0..PAGES_A_CHECKPOINT)
            .map(|_| {
                if !self.aged && random.below(NEW_IN) == 0 {
                    guest.allocate(PAGE_BYTES)
                } else {
                    any_page(random)
                }
            })
            .collect();
        for pages in pages.chunks(PAGES_AT_ONCE) {
            try_join_all(pages.iter().map(|page| guest.write(*page, PAGE_BYTES))).await?;
        }
        guest.commit(Metadata::appended(TABLE)).await
    }
}

impl Log {
    /// Where a byte of the log is, of the segment that is written or the next.
    fn place(&self, at: u64, guest: &Guest) -> u64 {
        let number = at / SEGMENT_BYTES;
        let start = match self.segment.get() {
            Some((current, start)) if current == number => start,
            _ => guest.allocate(SEGMENT_BYTES),
        };
        self.segment.set(Some((number, start)));
        start + at % SEGMENT_BYTES
    }
}

fn any_page(random: &mut Random) -> u64 {
    TABLES.start + random.below((TABLES.end - TABLES.start) / PAGE_BYTES) * PAGE_BYTES
}
