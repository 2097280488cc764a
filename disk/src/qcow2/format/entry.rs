//! Entries of L1 and L2 tables. Part "Cluster mapping" of the specification.

use super::Layout;

/// Bits 9 to 55: an offset in the file.
const OFFSET: u64 = 0x00FF_FFFF_FFFF_FE00;
/// The refcount of what is pointed to is exactly one.
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros (not with extended L2 entries).
const ZERO: u64 = 1;
const SECTOR_BYTES: u64 = 512;

/// An entry of an L1 table: where an L2 table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L1Entry(pub u64);

impl L1Entry {
    /// An entry for the table at `offset`.
    pub fn new(offset: u64, copied: bool) -> Self {
        debug_assert_eq!(offset & !OFFSET, 0);
        Self(offset | if copied { COPIED } else { 0 })
    }

    /// Where the L2 table is; absent if there is none. It may lie anywhere, and not on a cluster.
    pub fn table_offset(self) -> Option<u64> {
        match self.0 & OFFSET {
            0 => None,
            offset => Some(offset),
        }
    }

    /// Whether the table may be changed in place.
    pub fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }

    /// Whether bits are set that have no meaning.
    pub fn has_reserved_bits(self) -> bool {
        self.0 & !(OFFSET | COPIED) != 0
    }
}

/// An entry of an L2 table as it is on the disk. [`L2Entry::decode`] says what it means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct L2Entry {
    /// The first 64 bits.
    pub descriptor: u64,
    /// The last 64 bits with extended L2 entries; else 0.
    pub bitmap: u64,
}

/// The state of a cluster's subclusters: bit `n` of each is for subcluster `n`. In an image without
/// subclusters there is one, with bit 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subclusters {
    /// Read from the host cluster.
    pub allocated: u32,
    /// Read as zeros.
    pub zero: u32,
}

impl Subclusters {
    /// All of a cluster is read from the host cluster.
    pub fn whole(layout: Layout) -> Self {
        Self {
            allocated: u32::MAX >> (32 - layout.subclusters()),
            zero: 0,
        }
    }
}

/// What a guest cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cluster {
    /// Nothing of it is compressed.
    Standard {
        /// The host cluster it has, whether or not anything is read from it.
        host: Option<u64>,
        /// Whether the host cluster may be written in place.
        copied: bool,
        /// Which parts are read from where; those in neither set come from the backing file.
        subclusters: Subclusters,
    },
    /// Compressed data at any byte.
    Compressed {
        /// Where the data starts.
        offset: u64,
        /// Within how many bytes it ends.
        len: u64,
    },
}

impl Cluster {
    /// Nothing of its own.
    pub const UNALLOCATED: Self = Self::Standard {
        host: None,
        copied: false,
        subclusters: Subclusters {
            allocated: 0,
            zero: 0,
        },
    };

    /// The host clusters that it refers to, as offset and length of the bytes.
    pub fn host_range(&self, layout: Layout) -> Option<(u64, u64)> {
        match *self {
            Self::Standard { host, .. } => host.map(|host| (host, layout.cluster_bytes())),
            Self::Compressed { offset, len } => Some((offset, len)),
        }
    }
}

impl L2Entry {
    /// What the entry means. With `data_file`, a host offset of 0 exists.
    pub fn decode(self, layout: Layout, data_file: bool) -> Cluster {
        let Self { descriptor, bitmap } = self;
        if descriptor & COMPRESSED != 0 {
            return Self::decode_compressed(descriptor, layout);
        }
        let copied = descriptor & COPIED != 0;
        let host = match descriptor & OFFSET {
            0 if !(data_file && copied) => None,
            offset => Some(offset),
        };
        let subclusters = if layout.extended_l2 {
            let [z0, z1, z2, z3, a0, a1, a2, a3] = bitmap.to_be_bytes();
            Subclusters {
                allocated: u32::from_be_bytes([a0, a1, a2, a3]),
                zero: u32::from_be_bytes([z0, z1, z2, z3]),
            }
        } else {
            let zero = descriptor & ZERO != 0;
            Subclusters {
                allocated: u32::from(host.is_some() && !zero),
                zero: u32::from(zero),
            }
        };
        Cluster::Standard {
            host,
            copied,
            subclusters,
        }
    }

    fn decode_compressed(descriptor: u64, layout: Layout) -> Cluster {
        let bits = layout.compressed_offset_bits();
        let offset = descriptor & ((1 << bits) - 1);
        let sectors = 1 + ((descriptor & (COMPRESSED - 1)) >> bits);
        Cluster::Compressed {
            offset,
            len: sectors * SECTOR_BYTES - offset % SECTOR_BYTES,
        }
    }

    /// The entry that means `cluster`.
    ///
    /// # Panics
    /// When compressed data lies where no descriptor can point.
    pub fn encode(cluster: Cluster, layout: Layout) -> Self {
        match cluster {
            Cluster::Standard {
                host,
                copied,
                subclusters,
            } => {
                let mut descriptor = host.unwrap_or(0) | if copied { COPIED } else { 0 };
                if layout.extended_l2 {
                    let bitmap =
                        u64::from(subclusters.zero) << 32 | u64::from(subclusters.allocated);
                    return Self { descriptor, bitmap };
                }
                if subclusters.zero != 0 {
                    descriptor |= ZERO;
                }
                Self {
                    descriptor,
                    bitmap: 0,
                }
            }
            Cluster::Compressed { offset, len } => {
                let bits = layout.compressed_offset_bits();
                let sectors = (offset % SECTOR_BYTES + len).div_ceil(SECTOR_BYTES);
                assert!(offset >> bits == 0 && sectors >= 1, "no such descriptor");
                Self {
                    descriptor: COMPRESSED | (sectors - 1) << bits | offset,
                    bitmap: 0,
                }
            }
        }
    }

    /// The largest offset of compressed data, exclusive.
    pub fn compressed_offset_max(layout: Layout) -> u64 {
        1 << layout.compressed_offset_bits().min(56)
    }

    /// What the specification forbids, in words; `version` is the image's.
    pub fn problem(self, layout: Layout, version: u32) -> Option<&'static str> {
        if self.descriptor & COMPRESSED != 0 {
            return (self.descriptor & COPIED != 0)
                .then_some("a compressed cluster has COPIED set");
        }
        let zero_allowed = version >= 3 && !layout.extended_l2;
        let known = OFFSET | COPIED | if zero_allowed { ZERO } else { 0 };
        let [z, a] = [self.bitmap >> 32, self.bitmap & 0xFFFF_FFFF];
        if self.descriptor & !known != 0 {
            Some("an L2 entry has reserved bits set")
        } else if self.descriptor & OFFSET & (layout.cluster_bytes() - 1) != 0 {
            Some("a data cluster is not aligned to the cluster size")
        } else if z & a != 0 {
            Some("a subcluster is both allocated and zero")
        } else if a != 0 && self.descriptor & (OFFSET | COPIED) == 0 {
            Some("a subcluster is allocated without a host cluster")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::RefcountWidth;
    use super::*;

    fn layout(cluster_bits: u32, extended_l2: bool) -> Layout {
        Layout {
            cluster_bits,
            extended_l2,
            refcount_width: RefcountWidth::from_order(4).unwrap(),
        }
    }

    #[test]
    fn standard_entries_round_trip() {
        let plain = layout(16, false);
        for (host, copied, allocated, zero) in [
            (None, false, 0, 0),
            (None, false, 0, 1),
            (Some(0x50000), true, 1, 0),
            (Some(0x50000), false, 1, 0),
            (Some(0x50000), true, 0, 1),
        ] {
            let subclusters = Subclusters { allocated, zero };
            let cluster = Cluster::Standard {
                host,
                copied,
                subclusters,
            };
            let entry = L2Entry::encode(cluster, plain);
            assert_eq!(entry.decode(plain, false), cluster);
            assert_eq!(entry.problem(plain, 3), None);
        }
    }

    #[test]
    fn subclusters_round_trip() {
        let extended = layout(16, true);
        let cluster = Cluster::Standard {
            host: Some(0x70000),
            copied: true,
            subclusters: Subclusters {
                allocated: 0x8000_0001,
                zero: 2,
            },
        };
        let entry = L2Entry::encode(cluster, extended);
        assert_eq!(entry.bitmap, 0x0000_0002_8000_0001);
        assert_eq!(entry.decode(extended, false), cluster);
    }

    /// The examples follow from the specification's formula `x = 62 - (cluster_bits - 8)`.
    #[test]
    fn compressed_descriptors_count_sectors_from_the_one_of_the_offset() {
        let plain = layout(16, false);
        let entry = L2Entry {
            descriptor: 1 << 62 | 1 << 54 | 0x1234,
            bitmap: 0,
        };
        let cluster = Cluster::Compressed {
            offset: 0x1234,
            len: 1024 - 0x34,
        };
        assert_eq!(entry.decode(plain, false), cluster);
        assert_eq!(L2Entry::encode(cluster, plain), entry);
        let short = Cluster::Compressed {
            offset: 0x1234,
            len: 513,
        };
        assert_eq!(L2Entry::encode(short, plain), entry);
    }

    #[test]
    fn data_files_have_a_cluster_at_0() {
        let plain = layout(16, false);
        let entry = L2Entry {
            descriptor: 1 << 63,
            bitmap: 0,
        };
        let host = |cluster| match cluster {
            Cluster::Standard { host, .. } => host,
            Cluster::Compressed { .. } => None,
        };
        assert_eq!(host(entry.decode(plain, true)), Some(0));
        assert_eq!(host(entry.decode(plain, false)), None);
    }

    #[test]
    fn names_what_is_forbidden() {
        let plain = layout(16, false);
        let problem = |descriptor, bitmap, layout, version| {
            L2Entry { descriptor, bitmap }.problem(layout, version)
        };
        assert!(problem(0x1200, 0, plain, 3).unwrap().contains("aligned"));
        assert!(problem(1, 0, plain, 2).unwrap().contains("reserved"));
        assert!(problem(1 << 57, 0, plain, 3).unwrap().contains("reserved"));
        assert!(problem(3 << 62, 0, plain, 3).unwrap().contains("COPIED"));
        let extended = layout(16, true);
        assert!(
            problem(0x10000, 1 << 32 | 1, extended, 3)
                .unwrap()
                .contains("both")
        );
        assert!(problem(0, 1, extended, 3).unwrap().contains("without"));
        assert_eq!(problem(1, 0, plain, 3), None);
    }
}
