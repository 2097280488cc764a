//! Which clusters hold metadata, for nothing else may lie there.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

/// What metadata is in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header,
    RefcountTable,
    RefcountBlock,
    L1Table,
    L2Table,
    SnapshotTable,
    BitmapDirectory,
    BitmapTable,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "the header",
            Self::RefcountTable => "the refcount table",
            Self::RefcountBlock => "a refcount block",
            Self::L1Table => "an L1 table",
            Self::L2Table => "an L2 table",
            Self::SnapshotTable => "the snapshot table",
            Self::BitmapDirectory => "the bitmap directory",
            Self::BitmapTable => "a bitmap table",
        })
    }
}

/// Areas of metadata, which do not overlap each other.
#[derive(Default)]
pub(super) struct Metadata {
    /// By the first cluster: the first after it, and what it is.
    areas: BTreeMap<u64, (u64, Kind)>,
    /// Clusters around the last ones asked for, between which there is no metadata.
    gap: Cell<(u64, u64)>,
}

impl Metadata {
    /// What lies in one of the clusters from `start` to below `end`.
    pub(super) fn overlapping(&self, start: u64, end: u64) -> Option<Kind> {
        let (gap_start, gap_end) = self.gap.get();
        if gap_start <= start && end <= gap_end {
            return None;
        }
        let before = self.areas.range(..end).next_back();
        let gap_start = match before {
            Some((_, (area_end, kind))) if *area_end > start => return Some(*kind),
            Some((_, (area_end, _))) => *area_end,
            None => 0,
        };
        let after = self.areas.range(end..).next();
        self.gap
            .set((gap_start, after.map_or(u64::MAX, |(start, _)| *start)));
        None
    }

    /// Adds an area that overlaps none.
    pub(super) fn insert(&mut self, start: u64, end: u64, kind: Kind) {
        self.gap.set((0, 0));
        self.areas.insert(start, (end, kind));
    }

    /// The clusters of the refcount structures.
    pub(super) fn of_refcounts(&self) -> impl Iterator<Item = u64> {
        let areas = self
            .areas
            .iter()
            .filter(|(_, (_, kind))| matches!(kind, Kind::RefcountTable | Kind::RefcountBlock));
        areas.flat_map(|(start, (end, _))| *start..*end)
    }
}
