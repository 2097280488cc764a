//! The structures of btrfs as they are on the disk, all of them little-endian: "On-disk Format" of the
//! btrfs documentation, and `include/uapi/linux/btrfs_tree.h` of the Linux kernel.

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// Where the superblock and its copies are.
pub(in super::super) const SUPERBLOCKS_AT: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
pub(in super::super) const SUPERBLOCK_BYTES: usize = 4096;
pub(super) const MAGIC: [u8; 8] = *b"_BHRfS_M";
/// The checksum before a superblock and before each node of a tree.
pub(super) const CHECKSUM_BYTES: usize = 32;
/// The one kind of checksum that is verified: CRC-32C.
pub(super) const CHECKSUM_CRC32C: u16 = 0;
/// Nodes have an identity other than the file system's.
pub(super) const INCOMPATIBLE_METADATA_UUID: u64 = 1 << 10;

/// `struct btrfs_super_block`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    pub(super) checksum: [u8; CHECKSUM_BYTES],
    pub(super) fsid: [u8; 16],
    pub(super) bytenr: U64,
    _flags: U64,
    pub(super) magic: [u8; 8],
    _generation: U64,
    _root: U64,
    _chunk_root: U64,
    _log_root: U64,
    _log_root_transid: U64,
    _total_bytes: U64,
    _bytes_used: U64,
    _root_dir: U64,
    _num_devices: U64,
    _sectorsize: U32,
    pub(super) nodesize: U32,
    _leafsize: U32,
    _stripesize: U32,
    pub(super) sys_chunk_array_size: U32,
    _chunk_root_generation: U64,
    _compat: U64,
    _compat_ro: U64,
    pub(super) incompat: U64,
    pub(super) csum_type: U16,
    _levels: [u8; 3],
    /// The start of `struct btrfs_dev_item`.
    pub(super) devid: U64,
    _dev_item: [u8; 90],
    _label: [u8; 256],
    _generations: [U64; 2],
    pub(super) metadata_uuid: [u8; 16],
    _reserved: [u8; 224],
    pub(super) sys_chunk_array: [u8; 2048],
    _rest: [u8; 1237],
}
const _: () = assert!(size_of::<Superblock>() == SUPERBLOCK_BYTES);

/// `struct btrfs_header`, which each node begins with.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Header {
    pub(super) checksum: [u8; CHECKSUM_BYTES],
    pub(super) fsid: [u8; 16],
    pub(super) bytenr: U64,
    _flags: U64,
    _chunk_tree_uuid: [u8; 16],
    _generation: U64,
    pub(super) owner: U64,
    pub(super) nritems: U32,
    pub(super) level: u8,
}
pub(super) const HEADER_BYTES: usize = size_of::<Header>();
const _: () = assert!(HEADER_BYTES == 101);
/// The highest node of a tree.
pub(super) const LEVEL_MAX: u8 = 7;
/// The tree of chunks, as the owner of a node.
pub(super) const CHUNK_TREE: u64 = 3;

/// `struct btrfs_disk_key`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Key {
    _objectid: U64,
    pub(super) kind: u8,
    pub(super) offset: U64,
}
/// The kind of a chunk's key, whose offset is where it is among all addresses.
pub(super) const CHUNK_ITEM: u8 = 228;

/// `struct btrfs_item`: where an item of a leaf is, from the end of the header.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) offset: U32,
    pub(super) size: U32,
}

/// `struct btrfs_chunk` without its stripes, which follow.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Chunk {
    pub(super) length: U64,
    _owner: U64,
    pub(super) stripe_len: U64,
    pub(super) kind: U64,
    _alignments: [U32; 3],
    pub(super) num_stripes: U16,
    pub(super) sub_stripes: U16,
}

/// What a chunk is for, and how it is spread.
pub(super) mod chunk_kind {
    pub(crate) const DATA: u64 = 1;
    pub(crate) const SYSTEM: u64 = 2;
    pub(crate) const METADATA: u64 = 4;
    pub(crate) const RAID0: u64 = 1 << 3;
    pub(crate) const RAID10: u64 = 1 << 6;
    pub(crate) const RAID5: u64 = 1 << 7;
    pub(crate) const RAID6: u64 = 1 << 8;
}

/// `struct btrfs_stripe`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Stripe {
    pub(super) devid: U64,
    pub(super) offset: U64,
    _dev_uuid: [u8; 16],
}
