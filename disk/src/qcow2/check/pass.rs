//! One pass over an image: what it refers to, and how often.

use super::l1::L2Tables;
use super::metadata::{Kind, Metadata};
use super::refcounts::Recorded;
use crate::qcow2::counts::Counts;
use crate::qcow2::format::{AutoclearFeatures, Header, L1Entry, Layout, TABLE_CLUSTERS_MAX};
use crate::qcow2::snapshot;
use crate::{CheckReport, Error, Storage};

/// What a pass has found so far.
pub(super) struct Pass<'a, S> {
    pub(super) storage: &'a S,
    pub(super) header: Header,
    pub(super) report: CheckReport,
    /// How often each cluster is referred to.
    pub(super) computed: Counts,
    /// What the image says about that.
    pub(super) recorded: Recorded,
    pub(super) metadata: Metadata,
    pub(super) l2_tables: L2Tables,
    pub(super) fixes: Fixes,
    table_clusters: u64,
}

/// How to put single entries right.
#[derive(Default)]
pub(super) struct Fixes {
    /// Entries that are wrong in themselves.
    pub(super) entries: Vec<Fix>,
    /// COPIED flags, given that the recorded refcounts are right.
    pub(super) flags: Vec<Fix>,
    /// Whether the bitmaps are beyond repair.
    pub(super) drop_bitmaps: bool,
    /// Whether something is not referred to any more just because the way to it is damaged.
    pub(super) lost_references: bool,
}

/// What to write where in a table.
#[derive(Clone, Copy)]
pub(super) struct Fix {
    pub(super) offset: u64,
    pub(super) words: [u64; 2],
    /// How many of the words count.
    pub(super) len: usize,
}

impl Fix {
    pub(super) fn word(offset: u64, word: u64) -> Self {
        Self {
            offset,
            words: [word, 0],
            len: 1,
        }
    }

    /// For a fix of a flag: whether it is to be set.
    pub(super) fn sets_copied(&self) -> bool {
        L1Entry(self.words[0]).is_copied()
    }
}

/// What is wrong with where something is said to be.
pub(super) enum Misplaced {
    Unaligned,
    Outside,
    Overlaps(Kind),
}

impl Misplaced {
    pub(super) fn problem(&self, what: impl std::fmt::Display) -> String {
        match self {
            Self::Unaligned => format!("{what} does not start on a cluster"),
            Self::Outside => format!("{what} is not within the file"),
            Self::Overlaps(kind) => format!("{what} overlaps {kind}"),
        }
    }
}

impl<'a, S: Storage> Pass<'a, S> {
    /// Walks all of the image.
    pub(super) async fn run(storage: &'a S, header: Header) -> Result<Self, Error> {
        let layout = header.layout;
        let mut pass = Self {
            storage,
            report: CheckReport {
                total_clusters: layout.clusters_for(header.size_bytes),
                ..CheckReport::default()
            },
            header,
            computed: Counts::default(),
            recorded: Recorded::default(),
            metadata: Metadata::default(),
            l2_tables: L2Tables::default(),
            fixes: Fixes::default(),
            table_clusters: 0,
        };
        // The header's own tables are within the file, or there would be no header.
        pass.claim_table(Kind::Header, 0, layout.cluster_bytes())?;
        pass.load_refcounts().await?;
        pass.walk_tables().await?;
        pass.walk_l2_tables().await;
        pass.compare_refcounts();
        Ok(pass)
    }

    /// Walks what leads to L2 tables and bitmaps, so that all metadata is known before any data.
    async fn walk_tables(&mut self) -> Result<(), Error> {
        let (offset, entries) = (self.header.l1_offset, self.header.l1_entries);
        self.walk_l1(offset, entries, true).await?;
        let (snapshots, bytes) = snapshot::read_table(self.storage, &self.header).await?;
        self.claim_table(Kind::SnapshotTable, self.header.snapshots_offset, bytes)?;
        for snapshot in snapshots {
            self.walk_l1(snapshot.l1_offset, snapshot.l1_entries, false)
                .await?;
        }
        if self.header.autoclear.0 & AutoclearFeatures::BITMAPS != 0
            && let Some(bitmaps) = self.header.bitmaps
        {
            self.walk_bitmaps(bitmaps).await?;
        }
        Ok(())
    }

    pub(super) fn layout(&self) -> Layout {
        self.header.layout
    }

    /// Takes note of a table; false if it cannot be where it is, which is a corruption.
    pub(super) fn claim_table(
        &mut self,
        kind: Kind,
        offset: u64,
        bytes: u64,
    ) -> Result<bool, Error> {
        self.table_clusters += self.layout().clusters_for(bytes);
        if self.table_clusters > TABLE_CLUSTERS_MAX {
            return Err(Error::Unsupported {
                path: self.storage.path().to_owned(),
                problem: "has more and larger tables than can be checked".into(),
            });
        }
        match self.claim(kind, offset, bytes) {
            Ok(()) => Ok(true),
            Err(misplaced) => {
                self.report.corruption(offset, misplaced.problem(kind));
                self.fixes.lost_references = true;
                Ok(false)
            }
        }
    }

    /// Takes note of metadata and that it is referred to.
    pub(super) fn claim(&mut self, kind: Kind, offset: u64, bytes: u64) -> Result<(), Misplaced> {
        if bytes == 0 {
            return Ok(());
        }
        if !self.layout().is_aligned(offset) {
            return Err(Misplaced::Unaligned);
        }
        let (start, end) = self.clusters(offset, bytes)?;
        self.metadata.insert(start, end, kind);
        for cluster in start..end {
            self.computed.add(cluster, 1);
        }
        Ok(())
    }

    /// The clusters of a range, if it is within the file and holds no metadata.
    pub(super) fn clusters(&self, offset: u64, bytes: u64) -> Result<(u64, u64), Misplaced> {
        let layout = self.layout();
        let end = offset.checked_add(bytes).ok_or(Misplaced::Outside)?;
        // The file may end before its last cluster does.
        if end.saturating_sub(self.storage.size_bytes()) >= layout.cluster_bytes() {
            return Err(Misplaced::Outside);
        }
        let (start, end) = (layout.cluster_index(offset), layout.clusters_for(end));
        match self.metadata.overlapping(start, end) {
            Some(kind) => Err(Misplaced::Overlaps(kind)),
            None => Ok((start, end)),
        }
    }
}
