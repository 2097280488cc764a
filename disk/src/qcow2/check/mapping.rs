//! L1 and L2 tables, and the data that they lead to.

use std::collections::HashMap;

use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U64;

use super::metadata::Kind;
use super::pass::{Fix, Pass};
use crate::qcow2::file;
use crate::qcow2::format::{Cluster, L1_BYTES_MAX, L1Entry, L2Entry, Layout, Subclusters};
use crate::{Error, Storage};

/// The L2 tables of all L1 tables. Snapshots share them: each is walked once.
#[derive(Default)]
pub(super) struct L2Tables {
    /// Those of the disk in its order, then the others.
    order: Vec<u64>,
    uses: HashMap<u64, Use>,
}

/// Who uses an L2 table.
#[derive(Clone, Copy, Default)]
struct Use {
    references: u64,
    /// Whether the disk does, and not only snapshots.
    active: bool,
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

    /// Walks all L2 tables.
    pub(super) async fn walk_l2_tables(&mut self) {
        let layout = self.layout();
        for table in std::mem::take(&mut self.l2_tables.order) {
            let mut walk = Walk {
                cluster_bytes: layout.cluster_bytes(),
                next: None,
            };
            let used = self.l2_tables.uses.get(&table).copied().unwrap_or_default();
            let bytes = layout.cluster_bytes();
            let walked = file::for_each_piece(self.storage, table, bytes, |at, piece| {
                for (n, entry) in (0..).zip(entries(piece, layout)) {
                    if entry != L2Entry::default() {
                        let at = table + at + n * layout.l2_entry_bytes();
                        self.l2_entry(&mut walk, at, entry, used);
                    }
                }
            })
            .await;
            self.note_unread(table, "an L2 table", walked);
        }
    }

    fn l2_entry(&mut self, walk: &mut Walk, at: u64, entry: L2Entry, used: Use) {
        let cluster = self.sound_entry(at, entry);
        let Some((offset, bytes)) = cluster.host_range(self.layout()) else {
            return;
        };
        if used.active {
            walk.follow(&mut self.report, &cluster);
        }
        match self.data_clusters(&cluster, offset, bytes) {
            Ok((start, end)) => {
                for host in start..end {
                    self.computed.add(host, used.references);
                }
            }
            Err(problem) => {
                self.report.corruption(at, problem);
                self.fixes.lost_references = true;
                let emptied = L2Entry::encode(emptied(cluster), self.layout());
                self.push_entry(at, emptied);
                return;
            }
        }
        if used.active {
            self.check_copied(at, cluster);
        }
    }

    /// What an entry means, once what is wrong with itself is put right.
    fn sound_entry(&mut self, at: u64, entry: L2Entry) -> Cluster {
        let (layout, version) = (self.layout(), self.header.version);
        let cluster = entry.decode(layout, self.header.has_data_file());
        let compressed = matches!(cluster, Cluster::Compressed { .. });
        let problem = match entry.problem(layout, version) {
            None if compressed && entry.bitmap != 0 => Some("a compressed cluster has subclusters"),
            problem => problem,
        };
        let Some(problem) = problem else {
            return cluster;
        };
        self.report.corruption(at, problem);
        let mended = mended(cluster, layout, version);
        self.fixes.lost_references |=
            cluster.host_range(layout).is_some() && mended.host_range(layout).is_none();
        self.push_entry(at, L2Entry::encode(mended, layout));
        mended
    }

    /// The clusters of the image that data lies in; none if it lies in the data file.
    fn data_clusters(
        &self,
        cluster: &Cluster,
        offset: u64,
        bytes: u64,
    ) -> Result<(u64, u64), String> {
        let what = match cluster {
            Cluster::Standard { .. } if self.header.has_data_file() => return Ok((0, 0)),
            Cluster::Compressed { .. } if self.header.has_data_file() => {
                return Err("a cluster is compressed, but data is in another file".into());
            }
            Cluster::Standard { .. } => "a data cluster",
            Cluster::Compressed { .. } => "compressed data",
        };
        self.clusters(offset, bytes)
            .map_err(|misplaced| misplaced.problem(what))
    }

    fn check_copied(&mut self, at: u64, cluster: Cluster) {
        let Cluster::Standard {
            host: Some(host),
            copied,
            subclusters,
        } = cluster
        else {
            return;
        };
        let refcount = if self.header.has_data_file() {
            1
        } else {
            self.refcount_of(host)
        };
        if copied == (refcount == 1) {
            return;
        }
        let problem = copied_problem("an L2 entry", copied, refcount);
        self.report.corruption(at, problem);
        let mended = Cluster::Standard {
            host: Some(host),
            copied: refcount == 1,
            subclusters,
        };
        let fix = self.entry_fix(at, L2Entry::encode(mended, self.layout()));
        self.fixes.flags.push(fix);
    }

    fn refcount_of(&self, offset: u64) -> u64 {
        let cluster = self.layout().cluster_index(offset);
        self.recorded.counts.get(cluster)
    }

    fn push_entry(&mut self, at: u64, entry: L2Entry) {
        let fix = self.entry_fix(at, entry);
        self.fixes.entries.push(fix);
    }

    fn entry_fix(&self, at: u64, entry: L2Entry) -> Fix {
        Fix {
            offset: at,
            words: [entry.descriptor, entry.bitmap],
            len: if self.layout().extended_l2 { 2 } else { 1 },
        }
    }
}

/// How the clusters of an L2 table follow each other in the file.
struct Walk {
    cluster_bytes: u64,
    /// What follows the last one.
    next: Option<u64>,
}

impl Walk {
    fn follow(&mut self, report: &mut super::CheckReport, cluster: &Cluster) {
        report.allocated_clusters += 1;
        let fragmented = match *cluster {
            // Those that are compressed never lie on clusters of their own.
            Cluster::Compressed { .. } => {
                report.compressed_clusters += 1;
                true
            }
            Cluster::Standard { host, .. } => {
                let follows = self.next.is_none() || self.next == host;
                self.next = host.and_then(|host| host.checked_add(self.cluster_bytes));
                !follows
            }
        };
        report.fragmented_clusters += u64::from(fragmented);
    }
}

fn copied_problem(what: &str, copied: bool, refcount: u64) -> String {
    let state = if copied { "set" } else { "not set" };
    format!("{what} has COPIED {state}, but the refcount is {refcount}")
}

fn entries(piece: &[u8], layout: Layout) -> impl Iterator<Item = L2Entry> {
    let word = |bytes: Option<&[u8]>| {
        bytes.map_or(0, |bytes| U64::ref_from_bytes(bytes).map_or(0, |w| w.get()))
    };
    piece
        .chunks_exact(file::len(layout.l2_entry_bytes()))
        .map(move |entry| L2Entry {
            descriptor: word(entry.get(..8)),
            bitmap: word(entry.get(8..16)),
        })
}

/// The cluster without what contradicts itself.
fn mended(cluster: Cluster, layout: Layout, version: u32) -> Cluster {
    let Cluster::Standard {
        host,
        copied,
        subclusters,
    } = cluster
    else {
        return cluster;
    };
    let host = host.filter(|host| layout.is_aligned(*host));
    let zero = if version >= 3 { subclusters.zero } else { 0 };
    let allocated = match host {
        None => 0,
        Some(_) if layout.extended_l2 => subclusters.allocated,
        Some(_) => u32::from(zero == 0),
    };
    Cluster::Standard {
        host,
        copied: copied && host.is_some(),
        subclusters: Subclusters {
            allocated,
            zero: zero & !allocated,
        },
    }
}

/// The cluster without its data.
fn emptied(cluster: Cluster) -> Cluster {
    match cluster {
        Cluster::Compressed { .. } => Cluster::UNALLOCATED,
        Cluster::Standard { subclusters, .. } => Cluster::Standard {
            host: None,
            copied: false,
            subclusters: Subclusters {
                allocated: 0,
                zero: subclusters.zero,
            },
        },
    }
}
