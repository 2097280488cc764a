//! The sizes that follow from an image's header: clusters, tables, subclusters.

use std::ops::RangeInclusive;

use super::refcount::RefcountWidth;

/// QEMU's limit on an L1 table, and ours.
pub const L1_BYTES_MAX: u64 = 32 << 20;

/// QEMU's limit on a refcount table, and ours.
pub const REFCOUNT_TABLE_BYTES_MAX: u64 = 8 << 20;

/// The most clusters of tables that are kept track of: far more than an image has in which they
/// are not made up.
pub(crate) const TABLE_CLUSTERS_MAX: u64 = 1 << 24;

/// Subclusters in a cluster of an image with extended L2 entries.
const SUBCLUSTERS: u32 = 32;

/// How an image is divided. Part "Cluster mapping" and "Host cluster management" of the
/// specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The cluster size as a power of two, 9 to 21.
    pub cluster_bits: u32,
    /// Whether L2 entries have subclusters.
    pub extended_l2: bool,
    /// How wide refcounts are.
    pub refcount_width: RefcountWidth,
}

impl Layout {
    /// The cluster sizes there are, as powers of two: 512 bytes to 2 MiB.
    pub const CLUSTER_BITS: RangeInclusive<u32> = 9..=21;

    /// Bytes in a cluster.
    pub fn cluster_bytes(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Where in its cluster a byte is.
    pub fn in_cluster(self, offset: u64) -> u64 {
        offset & (self.cluster_bytes() - 1)
    }

    /// Where the cluster of a byte starts.
    pub fn cluster_start(self, offset: u64) -> u64 {
        offset & !(self.cluster_bytes() - 1)
    }

    /// The number of the cluster of a byte.
    pub fn cluster_index(self, offset: u64) -> u64 {
        offset >> self.cluster_bits
    }

    /// How many clusters it takes to hold `bytes`.
    pub fn clusters_for(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_bytes())
    }

    /// Whether a cluster starts at `offset`.
    pub fn is_aligned(self, offset: u64) -> bool {
        self.in_cluster(offset) == 0
    }

    /// Bytes of an L2 entry: 8, or 16 with subclusters.
    pub fn l2_entry_bytes(self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Entries of an L2 table, which is one cluster.
    pub fn l2_entries(self) -> u64 {
        self.cluster_bytes() / self.l2_entry_bytes()
    }

    /// Bytes of the disk that one L2 table maps.
    pub fn l2_coverage_bytes(self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    /// The index in the L1 table of a byte of the disk.
    pub fn l1_index(self, guest_offset: u64) -> u64 {
        guest_offset / self.l2_coverage_bytes()
    }

    /// The index in its L2 table of a byte of the disk.
    pub fn l2_index(self, guest_offset: u64) -> u64 {
        self.cluster_index(guest_offset) % self.l2_entries()
    }

    /// L1 entries that a disk of `size_bytes` needs.
    pub fn l1_entries_for(self, size_bytes: u64) -> u64 {
        size_bytes.div_ceil(self.l2_coverage_bytes())
    }

    /// Refcounts in a refcount block, which is one cluster.
    pub fn refcount_block_entries(self) -> u64 {
        self.cluster_bytes() * 8 / self.refcount_width.bits()
    }

    /// Subclusters of a cluster; 1 without extended L2 entries.
    pub fn subclusters(self) -> u32 {
        if self.extended_l2 { SUBCLUSTERS } else { 1 }
    }

    /// Bytes of a subcluster: the unit that is allocated as a whole.
    pub fn subcluster_bytes(self) -> u64 {
        self.cluster_bytes() / u64::from(self.subclusters())
    }

    /// The subcluster in its cluster that a byte is in.
    pub fn subcluster_index(self, offset: u64) -> u32 {
        let index = self.in_cluster(offset) / self.subcluster_bytes();
        u32::try_from(index).unwrap_or(0)
    }

    /// How many bits of a compressed cluster's descriptor are its offset.
    pub(super) fn compressed_offset_bits(self) -> u32 {
        62 - (self.cluster_bits - 8)
    }
}
