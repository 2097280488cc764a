//! Making a cache file durable, and what it says about its slots.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use futures_util::future::join_all;

use super::Shared;
use super::blocks::Sealed;
use super::format::{
    Entry, Header, SECTOR_BYTES, TABLE_OFFSET, data_offset, table_sector, table_sectors,
};
use super::store::Store;
use crate::commits::Commits;
use crate::flush::Flusher;
use crate::mutant::mutant;
use crate::{Buffers, CLASS_BLOCK_BYTES, Error, Storage};

/// So many sectors of the table are written at once.
const SECTORS_MAX: u32 = 2048;

/// The table of a cache file, beside what `Blocks` knows of it.
pub(super) struct Table {
    pub(super) path: PathBuf,
    pub(super) header: RefCell<Header>,
    pub(super) flusher: Flusher,
    commits: Commits,
    /// The header must be written whatever the disk's file is like.
    is_renamed: Cell<bool>,
}

impl Table {
    pub(super) fn new(path: PathBuf, header: Header) -> Self {
        Self {
            path,
            header: RefCell::new(header),
            flusher: Flusher::new(false, false),
            commits: Commits::default(),
            is_renamed: Cell::new(false),
        }
    }

    /// Something was written to the file.
    pub(super) fn changed(&self) {
        self.flusher.changed();
    }

    /// How often the host was asked to make the file durable.
    pub(super) fn syncs(&self) -> u64 {
        self.flusher.syncs()
    }

    /// Where a slot is in the file.
    pub(super) fn slot_offset(&self, slot: u32) -> u64 {
        data_offset(self.header.borrow().slots) + u64::from(slot) * CLASS_BLOCK_BYTES
    }

    /// Writes sectors of the table, durable with the next sync.
    pub(super) async fn write(
        &self,
        storage: &impl Storage,
        sectors: &BTreeMap<u32, Vec<Entry>>,
        durable_sequence: u64,
    ) -> Result<(), Error> {
        let identity = self.header.borrow().identity;
        let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
        for (number, entries) in sectors {
            let bytes = table_sector(&identity, *number, durable_sequence, entries);
            let offset = TABLE_OFFSET + u64::from(*number) * SECTOR_BYTES as u64;
            match writes.last_mut() {
                Some((start, run))
                    if *start + run.len() as u64 == offset
                        && run.len() < SECTORS_MAX as usize * SECTOR_BYTES =>
                {
                    run.extend(bytes);
                }
                _ => writes.push((offset, bytes)),
            }
        }
        let writes = writes
            .into_iter()
            .map(|(offset, bytes)| storage.write_at(offset, Buffers::from_vec(bytes)));
        let written = join_all(writes).await.into_iter().collect();
        self.changed();
        written
    }

    /// Writes another header, durable with the next sync.
    async fn write_header(&self, storage: &impl Storage, header: Header) -> Result<(), Error> {
        let bytes = header.to_bytes();
        let written = storage.write_at(0, Buffers::from_vec(bytes)).await;
        self.changed();
        written?;
        self.header.replace(header);
        Ok(())
    }
}

impl<S: Storage> Shared<S> {
    /// Makes all durable that was complete before this call. Whoever comes meanwhile shares the
    /// next commit.
    pub(super) async fn commit(self: &Rc<Self>, table: &Table) -> Result<(), Error> {
        let wanted = table.commits.sealed() + 1;
        table
            .commits
            .reach(wanted, async || self.commit_once(table).await)
            .await
    }

    async fn commit_once(&self, table: &Table) -> Result<(), Error> {
        table.commits.seal();
        self.home.flush_to(self.home.owed()).await?;
        let home_durable = |mark| self.home.is_durable(mark);
        let sealed = self.blocks.borrow_mut().seal(home_durable);
        // What was dirty when this began may have gone to the disk since, under something newer.
        let owed = self.home.owed();
        if let Err(error) = self.write_sealed(table, &sealed).await {
            self.blocks.borrow_mut().not_committed(&sealed);
            return Err(error);
        }
        self.blocks.borrow_mut().committed(&sealed);
        if !mutant("a flush forgets what replaced a dirty block on the disk") {
            self.home.flush_to(owed).await?;
        }
        table.commits.committed();
        Ok(())
    }

    async fn write_sealed(&self, table: &Table, sealed: &Sealed) -> Result<(), Error> {
        let Store::File { storage, .. } = &self.store else {
            return Ok(());
        };
        table.flusher.check(storage)?;
        if sealed.sectors.is_empty() && !table.is_renamed.get() {
            return Ok(());
        }
        self.note_stamp(table, storage).await?;
        if mutant("a cache file is made durable before its table is written") {
            table.flusher.flush(storage).await?;
            return table.write(storage, &sealed.sectors, 0).await;
        }
        let durable = sealed.durable_sequence;
        table.write(storage, &sealed.sectors, durable).await?;
        table.flusher.flush(storage).await
    }

    /// Notes what the disk's file is like, if it has changed.
    async fn note_stamp(&self, table: &Table, storage: &S) -> Result<(), Error> {
        let mut header = table.header.borrow().clone();
        let stamp = self.home.look();
        if stamp == header.stamp && !table.is_renamed.get() {
            return Ok(());
        }
        header.stamp = stamp;
        header.path = super::open::path_bytes(&self.home.path());
        table.write_header(storage, header).await?;
        table.is_renamed.set(false);
        Ok(())
    }

    /// The disk is in another file from now on.
    pub(super) async fn rename(self: &Rc<Self>, table: &Table) -> Result<(), Error> {
        table.is_renamed.set(true);
        self.commit(table).await
    }

    /// Lets go of the file. If all is home, what is clean counts when it is opened again.
    pub(super) async fn end(&self, table: &Table, is_whole: bool) -> Result<(), Error> {
        let Store::File { storage, .. } = &self.store else {
            return Ok(());
        };
        let ended = if is_whole {
            self.write_clean(table, storage).await
        } else {
            Ok(())
        };
        storage.close();
        ended
    }

    async fn write_clean(&self, table: &Table, storage: &S) -> Result<(), Error> {
        let durable = self.blocks.borrow().durable_sequence();
        let sectors = table_sectors(self.slots);
        let mut first = 0;
        while first < sectors {
            let end = sectors.min(first + SECTORS_MAX);
            let piece = self.blocks.borrow().clean_table(first..end);
            table.write(storage, &piece, durable).await?;
            first = end;
        }
        table.flusher.flush(storage).await?;
        let header = Header {
            is_clean: true,
            stamp: self.home.look(),
            ..table.header.borrow().clone()
        };
        table.write_header(storage, header).await?;
        table.flusher.flush(storage).await
    }
}
