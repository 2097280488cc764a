//! L2 tables, and the data that they lead to.

use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U64;

use super::l1::{Use, copied_problem};
use super::mend::{emptied, mended};
use super::pass::{Fix, Pass};
use crate::CheckReport;
use crate::Storage;
use crate::qcow2::file;
use crate::qcow2::format::{Cluster, L2Entry, Layout};

impl<S: Storage> Pass<'_, S> {
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
    fn follow(&mut self, report: &mut CheckReport, cluster: &Cluster) {
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
