//! What the guest of a server does before each of its flushes.

use std::fmt;

use crate::bench::contender::{Contender, Format};
use crate::bench::places::Places;

/// The cluster size of every image.
pub(super) const CLUSTER_BYTES: u64 = 64 << 10;

/// What is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) enum Target {
    /// A new cluster each time, anywhere.
    NewClusters,
    /// Behind the write before, in new clusters.
    NewInOrder,
    /// A new cluster each time, anywhere, of which a backing file holds the rest.
    OverBacking,
    /// An allocated cluster, anywhere.
    Allocated,
    /// Behind the write before, in allocated clusters.
    AllocatedInOrder,
    /// An allocated cluster, anywhere, that is discarded first.
    Discarded,
}

impl Target {
    /// Whether nothing of the image's own may be there before.
    pub(super) fn is_new(self) -> bool {
        matches!(
            self,
            Self::NewClusters | Self::NewInOrder | Self::OverBacking
        )
    }
}

/// Writes of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::bench) struct Load {
    pub(in crate::bench) target: Target,
    pub(in crate::bench) block_bytes: usize,
    /// Whether each is followed by a flush that waits for it.
    pub(in crate::bench) flush: bool,
    /// How many clients do so at a time, each for itself.
    pub(in crate::bench) connections: usize,
}

/// Every load, in the order of the table's rows.
pub(super) const LOADS: [Load; 9] = [
    Load::new(Target::NewClusters, 4),
    Load::new(Target::NewClusters, 16),
    Load::new(Target::NewClusters, 64),
    Load::new(Target::NewInOrder, 4),
    Load::new(Target::NewInOrder, 64),
    Load::new(Target::OverBacking, 4),
    Load::new(Target::Allocated, 4),
    Load::new(Target::Discarded, 4),
    Load {
        connections: 4,
        ..Load::new(Target::NewClusters, 4)
    },
];

impl Load {
    /// Writes of so many KiB, by one client that flushes after each.
    pub(in crate::bench) const fn new(target: Target, kib: usize) -> Self {
        Self {
            target,
            block_bytes: kib << 10,
            flush: true,
            connections: 1,
        }
    }

    /// Whether an image of a contender can be put under it.
    pub(super) fn suits(&self, contender: &Contender) -> bool {
        match (contender.format, self.target) {
            (Format::Qcow2 { .. } | Format::Flat | Format::FlatCompact, _) => true,
            (_, Target::OverBacking) | (Format::RawFilled, Target::Discarded) => false,
            (Format::Raw | Format::RawFilled, _) => true,
        }
    }

    /// The distance of the places that are written to.
    pub(super) fn step_bytes(&self) -> u64 {
        if self.is_in_order() {
            self.block_bytes as u64
        } else {
            CLUSTER_BYTES
        }
    }

    /// The places that it writes to, of the first `size_bytes` of a disk.
    pub(super) fn places(&self, size_bytes: u64) -> Places {
        let places = if self.is_in_order() {
            Places::in_order
        } else {
            Places::random
        };
        places(size_bytes, self.step_bytes())
    }

    fn is_in_order(&self) -> bool {
        matches!(self.target, Target::NewInOrder | Target::AllocatedInOrder)
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.block_bytes >> 10;
        match self.target {
            Target::NewClusters => write!(f, "alloc random {kib}K")?,
            Target::NewInOrder => write!(f, "alloc sequential {kib}K")?,
            Target::OverBacking => write!(f, "alloc over backing {kib}K")?,
            Target::Allocated => write!(f, "overwrite {kib}K")?,
            Target::AllocatedInOrder => write!(f, "overwrite sequential {kib}K")?,
            Target::Discarded => write!(f, "trim + write {kib}K")?,
        }
        if self.connections > 1 {
            write!(f, ", {} clients", self.connections)?;
        }
        Ok(())
    }
}
