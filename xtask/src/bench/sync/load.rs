//! What the guest of a server does before each of its flushes.

use std::fmt;

use super::places::CLUSTER_BYTES;
use crate::bench::contender::Format;

/// What is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A new cluster each time, anywhere.
    NewClusters,
    /// Behind the write before, in new clusters.
    NewInOrder,
    /// A new cluster each time, anywhere, of which a backing file holds the rest.
    OverBacking,
    /// An allocated cluster, anywhere.
    Allocated,
    /// An allocated cluster, anywhere, that is discarded first.
    Discarded,
}

/// Writes of a kind, each followed by a flush that waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) target: Target,
    pub(super) block_bytes: usize,
    /// How many clients do so at a time, each for itself.
    pub(super) connections: usize,
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
    const fn new(target: Target, kib: usize) -> Self {
        Self {
            target,
            block_bytes: kib << 10,
            connections: 1,
        }
    }

    /// Whether images of a format can be put under it.
    pub(super) fn suits(&self, format: Format) -> bool {
        match (format, self.target) {
            (Format::Qcow2 { .. }, _) => true,
            (_, Target::OverBacking) | (Format::RawFilled, Target::Discarded) => false,
            (Format::Raw | Format::RawFilled, _) => true,
        }
    }

    /// The distance of the places that are written to.
    pub(super) fn step_bytes(&self) -> u64 {
        match self.target {
            Target::NewInOrder => self.block_bytes as u64,
            _ => CLUSTER_BYTES,
        }
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
            Target::Discarded => write!(f, "trim + write {kib}K")?,
        }
        if self.connections > 1 {
            write!(f, ", {} clients", self.connections)?;
        }
        Ok(())
    }
}
