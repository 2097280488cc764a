//! A store of records that appends, as Cassandra does under YCSB.

use std::cell::Cell;

use ::disk::Error;

use super::super::guest::{Group, Guest, Metadata};

const RECORD_BYTES: u64 = 64 << 10;
/// The log is synced from time to time, not for each record.
const RECORDS_A_SYNC: u64 = 16;
/// So many are then written out as a table, in order, and synced.
const RECORDS_A_TABLE: u64 = 128;
const TABLE_REQUEST_BYTES: u64 = 1 << 20;
/// The numbers of the files.
const LOG: u64 = 0;
const TABLE: u64 = 16;

/// A record goes to the end of the commit log. Inserts and updates do the same; the latter find
/// the blocks of older logs and tables.
#[derive(Default)]
pub(in super::super) struct Records {
    count: Cell<u64>,
    sync: Group,
}

impl Records {
    pub(super) async fn operation(&self, guest: &Guest) -> Result<(), Error> {
        guest
            .write(guest.allocate(RECORD_BYTES), RECORD_BYTES)
            .await?;
        let count = self.count.get() + 1;
        self.count.set(count);
        if count.is_multiple_of(RECORDS_A_SYNC) {
            self.sync
                .join(async || guest.commit(Metadata::appended(LOG)).await)
                .await?;
        }
        if count.is_multiple_of(RECORDS_A_TABLE) {
            for _ in 0..RECORDS_A_TABLE * RECORD_BYTES / TABLE_REQUEST_BYTES {
                let start = guest.allocate(TABLE_REQUEST_BYTES);
                guest.write(start, TABLE_REQUEST_BYTES).await?;
            }
            guest.commit(Metadata::appended(TABLE)).await?;
        }
        Ok(())
    }
}
