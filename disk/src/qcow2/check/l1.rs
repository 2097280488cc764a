//! L1 tables, and which L2 tables they lead to.

use std::collections::HashMap;

use super::metadata::Kind;
use super::pass::{Fix, Pass};
use crate::qcow2::file;
use crate::qcow2::format::{L1_BYTES_MAX, L1Entry};
use crate::{Error, Storage};

/// The L2 tables of all L1 tables. Snapshots share them: each is walked once.
#[derive(Default)]
pub(super) struct L2Tables {
    /// Those of the disk in its order, then the others.
    pub(super) order: Vec<u64>,
    pub(super) uses: HashMap<u64, Use>,
}

/// Who uses an L2 table.
#[derive(Clone, Copy, Default)]
pub(super) struct Use {
    pub(super) references: u64,
    /// Whether the disk does, and not only snapshots.
    pub(super) active: bool,
}

impl<S: Storage> Pass<'_, S> {
    /// Walks an L1 table; `active` is the disk's own.
    pub(super) async fn walk_l1(
        &mut self,
        offset: u64,
        entries: u32,
        active: bool,
    ) -> Result<(), Error> {
        let bytes = u64::from(entries) * 8;
        if bytes > L1_BYTES_MAX {
            let problem = "a snapshot's L1 table is larger than 32 MiB";
            self.report.corruption(offset, problem);
            self.fixes.lost_references = true;
            return Ok(());
        }
        if !self.claim_table(Kind::L1Table, offset, bytes)? {
            return Ok(());
        }
        let walked = file::for_each_word(self.storage, offset, entries.into(), |index, word| {
            self.l1_entry(offset + index * 8, L1Entry(word), active);
        })
        .await;
        self.note_unread(offset, "an L1 table", walked);
        Ok(())
    }

    /// What could not be read may refer to anything.
    pub(super) fn note_unread(&mut self, offset: u64, what: &str, walked: Result<(), Error>) {
        if let Err(error) = walked {
            let problem = format!("{what} cannot be read: {error}");
            self.report.unchecked(offset, problem);
            self.fixes.lost_references = true;
        }
    }

    fn l1_entry(&mut self, at: u64, entry: L1Entry, active: bool) {
        let table = entry.table_offset();
        if entry.has_reserved_bits() {
            self.report
                .corruption(at, "an L1 entry has reserved bits set");
            let mended = table.map_or(L1Entry(0), |table| L1Entry::new(table, entry.is_copied()));
            self.fixes.entries.push(Fix::word(at, mended.0));
        }
        let Some(table) = table else { return };
        if !self.use_l2_table(at, table, active) {
            return;
        }
        let refcount = self.refcount_of(table);
        if active && entry.is_copied() != (refcount == 1) {
            let problem = copied_problem("an L1 entry", entry.is_copied(), refcount);
            self.report.corruption(at, problem);
            let mended = L1Entry::new(table, refcount == 1);
            self.fixes.flags.push(Fix::word(at, mended.0));
        }
    }

    /// Takes note of an L2 table; false if there can be none.
    fn use_l2_table(&mut self, at: u64, table: u64, active: bool) -> bool {
        if let Some(known) = self.l2_tables.uses.get_mut(&table) {
            known.references += 1;
            known.active |= active;
            self.computed
                .add(self.header.layout.cluster_index(table), 1);
            return true;
        }
        if let Err(misplaced) = self.claim(Kind::L2Table, table, self.layout().cluster_bytes()) {
            self.report.corruption(at, misplaced.problem("an L2 table"));
            self.fixes.entries.push(Fix::word(at, 0));
            self.fixes.lost_references = true;
            return false;
        }
        let references = 1;
        self.l2_tables.order.push(table);
        self.l2_tables
            .uses
            .insert(table, Use { references, active });
        true
    }

    pub(super) fn refcount_of(&self, offset: u64) -> u64 {
        let cluster = self.layout().cluster_index(offset);
        self.recorded.counts.get(cluster)
    }
}

pub(super) fn copied_problem(what: &str, copied: bool, refcount: u64) -> String {
    let state = if copied { "set" } else { "not set" };
    format!("{what} has COPIED {state}, but the refcount is {refcount}")
}
