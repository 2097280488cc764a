//! The structures of version 5 of XFS as they are on the disk, all of them big-endian: "XFS Algorithms
//! & Data Structures", and `fs/xfs/libxfs/xfs_format.h` and `xfs_da_format.h` of the Linux kernel.

use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

pub(in super::super) const SUPERBLOCK_BYTES: usize = size_of::<Superblock>();
pub(super) const MAGIC: [u8; 4] = *b"XFSB";
/// The bits of `versionnum` with the version.
pub(super) const VERSION_MASK: u16 = 0xF;
/// Metadata has an identity other than the file system's.
pub(super) const INCOMPATIBLE_META_UUID: u32 = 1 << 2;

/// `struct xfs_dsb`, up to what is used.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    pub(super) magic: [u8; 4],
    pub(super) blocksize: U32,
    pub(super) dblocks: U64,
    _realtime: [U64; 2],
    pub(super) uuid: [u8; 16],
    pub(super) logstart: U64,
    _inodes: [U64; 3],
    _rextsize: U32,
    pub(super) agblocks: U32,
    pub(super) agcount: U32,
    _rbmblocks: U32,
    pub(super) logblocks: U32,
    pub(super) versionnum: U16,
    pub(super) sectsize: U16,
    pub(super) inodesize: U16,
    pub(super) inopblock: U16,
    _fname: [u8; 12],
    _logs: [u8; 3],
    pub(super) inopblog: u8,
    pub(super) agblklog: u8,
    _counts: [u8; 67],
    pub(super) dirblklog: u8,
    _log_and_features: [u8; 23],
    pub(super) features_incompat: U32,
    _rest: [u8; 28],
    pub(super) meta_uuid: [u8; 16],
}
const _: () = assert!(SUPERBLOCK_BYTES == 264);

/// `struct xfs_agf`, up to what is used: where the trees of free space begin.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FreeSpace {
    pub(super) magic: [u8; 4],
    _version: U32,
    pub(super) seqno: U32,
    _length: U32,
    pub(super) roots: [U32; 3],
    _counts: [U32; 9],
    pub(super) uuid: [u8; 16],
    _blocks: [U32; 2],
    pub(super) refcount_root: U32,
}
pub(super) const FREE_SPACE_MAGIC: [u8; 4] = *b"XAGF";

/// `struct xfs_agi`: where the trees of inodes begin.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct InodeTrees {
    pub(super) magic: [u8; 4],
    _version: U32,
    pub(super) seqno: U32,
    _counts: [U32; 2],
    pub(super) root: U32,
    _more: [u8; 272],
    pub(super) uuid: [u8; 16],
    _crc_and_lsn: [u8; 16],
    pub(super) free_root: U32,
}
pub(super) const INODE_TREES_MAGIC: [u8; 4] = *b"XAGI";
const _: () = assert!(size_of::<InodeTrees>() == 332);

/// `struct xfs_btree_block` within an allocation group.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ShortHeader {
    pub(super) magic: [u8; 4],
    pub(super) level: U16,
    pub(super) numrecs: U16,
    _siblings: [U32; 2],
    pub(super) blkno: U64,
    _lsn: U64,
    pub(super) uuid: [u8; 16],
    _owner: U32,
    _crc: U32,
}
const _: () = assert!(size_of::<ShortHeader>() == 56);

/// The kinds of those trees, with the bytes of a key.
pub(super) const SHORT_TREES: [([u8; 4], usize); 6] = [
    (*b"AB3B", 8),
    (*b"AB3C", 8),
    (INODE_TREE, 4),
    (*b"FIB3", 4),
    (*b"RMB3", 40),
    (*b"R3FC", 4),
];
pub(super) const INODE_TREE: [u8; 4] = *b"IAB3";

/// `struct xfs_inobt_rec`: a chunk of 64 inodes.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct InodeChunk {
    pub(super) first: U32,
    _free: [u8; 12],
}
pub(super) const CHUNK_INODES: u64 = 64;

/// `struct xfs_btree_block` of the map of a file.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct LongHeader {
    pub(super) magic: [u8; 4],
    pub(super) level: U16,
    pub(super) numrecs: U16,
    _siblings: [U64; 2],
    pub(super) blkno: U64,
    _lsn: U64,
    pub(super) uuid: [u8; 16],
    _owner: U64,
    _crc: [U32; 2],
}
const _: () = assert!(size_of::<LongHeader>() == 72);
/// Of files, and of the real-time device's own.
pub(super) const LONG_TREES: [[u8; 4]; 3] = [MAP_TREE, *b"MAPR", *b"RCNT"];
pub(super) const MAP_TREE: [u8; 4] = *b"BMA3";

/// `struct xfs_dir3_blk_hdr`: a block of entries, or of free space of a directory.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct EntriesHeader {
    pub(super) magic: [u8; 4],
    _crc: U32,
    pub(super) blkno: U64,
    _lsn: U64,
    pub(super) uuid: [u8; 16],
}
pub(super) const ENTRIES: [[u8; 4]; 3] = [*b"XDB3", *b"XDD3", *b"XDF3"];

/// `struct xfs_da3_blkinfo`: an index of names of a directory or of attributes.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct NamesHeader {
    _siblings: [U32; 2],
    pub(super) magic: U16,
    _pad: U16,
    _crc: U32,
    pub(super) blkno: U64,
    _lsn: U64,
    pub(super) uuid: [u8; 16],
    _owner: U64,
    /// Of a node: its entries, of 8 bytes each, behind 64 bytes.
    pub(super) count: U16,
}
/// Of a directory only: a leaf.
pub(super) const DIRECTORY_LEAVES: [u16; 2] = [0x3DF1, 0x3DFF];
/// A node of either: that of attributes has one block.
pub(super) const NAMES_NODE: u16 = 0x3EBE;
pub(super) const ATTRIBUTES_LEAF: u16 = 0x3BEE;

/// `struct xfs_dsymlink_hdr`, and `struct xfs_attr3_rmt_hdr`, which is alike.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RemoteHeader {
    pub(super) magic: [u8; 4],
    _place: [U32; 3],
    pub(super) uuid: [u8; 16],
    _owner: U64,
    pub(super) blkno: U64,
}
pub(super) const REMOTE: [[u8; 4]; 2] = [*b"XSLM", *b"XARM"];

/// `struct xfs_dinode`.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    pub(super) magic: [u8; 2],
    pub(super) mode: U16,
    pub(super) version: u8,
    pub(super) format: u8,
    _owners: [u8; 70],
    pub(super) nextents: U32,
    pub(super) anextents: U16,
    /// Where the fork of attributes begins, in 8 bytes from the end of this.
    pub(super) forkoff: u8,
    pub(super) aformat: u8,
    _more: [u8; 68],
    pub(super) ino: U64,
    pub(super) uuid: [u8; 16],
}
pub(super) const INODE_MAGIC: [u8; 2] = *b"IN";
pub(super) const INODE_BYTES: usize = size_of::<Inode>();
const _: () = assert!(INODE_BYTES == 176);
pub(super) const MODE_KIND: u16 = 0xF000;
pub(super) const MODE_DIRECTORY: u16 = 0x4000;
pub(super) const MODE_SYMLINK: u16 = 0xA000;
/// A fork is a list of extents, or the root of a tree of them.
pub(super) const FORK_EXTENTS: u8 = 2;
pub(super) const FORK_TREE: u8 = 3;
/// A root in an inode: the level and the number of records, before keys of 8 bytes.
pub(super) const ROOT_BYTES: usize = 4;
pub(super) const KEY_BYTES: usize = 8;
/// An extent of a fork.
pub(super) const EXTENT_BYTES: usize = 16;

/// `struct xfs_dqblk`: what a block of quotas begins with.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Quota {
    pub(super) magic: [u8; 2],
    _rest: [u8; 118],
    pub(super) uuid: [u8; 16],
}
pub(super) const QUOTA_MAGIC: [u8; 2] = *b"DQ";
