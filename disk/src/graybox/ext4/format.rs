//! The structures of ext2, ext3 and ext4 as they are on the disk. The chapters named are those of
//! "ext4 Data Structures and Algorithms" in the Linux kernel's documentation
//! (Documentation/filesystems/ext4).

use zerocopy::byteorder::big_endian;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Where the superblock is, in bytes.
pub(in super::super) const SUPERBLOCK_AT: u64 = 1024;
pub(in super::super) const SUPERBLOCK_BYTES: usize = 1024;
pub(super) const MAGIC: u16 = 0xEF53;

/// Flags of `feature_compat`.
pub(super) mod compatible {
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
}

/// Flags of `feature_incompat`.
pub(super) mod incompatible {
    /// The journal may hold something: the file system is mounted for writing, or was.
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const JOURNAL_DEV: u32 = 0x8;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const BITS_64: u32 = 0x80;
    pub(crate) const MMP: u32 = 0x100;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
}

/// Flags of `feature_ro_compat`.
pub(super) mod read_only_compatible {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
}

/// Chapter "Super Block".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Superblock {
    pub(super) inodes_count: U32,
    pub(super) blocks_count_lo: U32,
    _counts: [U32; 3],
    pub(super) first_data_block: U32,
    pub(super) log_block_size: U32,
    pub(super) log_cluster_size: U32,
    pub(super) blocks_per_group: U32,
    pub(super) clusters_per_group: U32,
    pub(super) inodes_per_group: U32,
    _times_and_mounts: [u8; 12],
    pub(super) magic: U16,
    _state: [u8; 18],
    pub(super) rev_level: U32,
    _owners: [u8; 4],
    _first_ino: U32,
    pub(super) inode_size: U16,
    pub(super) block_group_nr: U16,
    pub(super) feature_compat: U32,
    pub(super) feature_incompat: U32,
    pub(super) feature_ro_compat: U32,
    pub(super) uuid: [u8; 16],
    _names: [u8; 84],
    _prealloc: [u8; 2],
    pub(super) reserved_gdt_blocks: U16,
    _journal_uuid: [u8; 16],
    pub(super) journal_inum: U32,
    _journal_dev: [u8; 24],
    _def_hash_version: u8,
    /// 1 where `jnl_blocks` is what the journal's inode has.
    pub(super) jnl_backup_type: u8,
    pub(super) desc_size: U16,
    _mount_opts: U32,
    pub(super) first_meta_bg: U32,
    _mkfs_time: U32,
    pub(super) jnl_blocks: [u8; 60],
    _journal_size: [u8; 8],
    pub(super) blocks_count_hi: U32,
    _counts_hi: [u8; 20],
    pub(super) mmp_block: U64,
    _errors_and_more: [u8; 208],
    pub(super) usr_quota_inum: U32,
    pub(super) grp_quota_inum: U32,
    _overhead: U32,
    pub(super) backup_bgs: [U32; 2],
    _encryption: [u8; 24],
    pub(super) prj_quota_inum: U32,
    pub(super) checksum_seed: U32,
    _times_hi: [u8; 12],
    pub(super) orphan_file_inum: U32,
    _reserved: [u8; 376],
    pub(super) checksum: U32,
}
const _: () = assert!(size_of::<Superblock>() == SUPERBLOCK_BYTES);

/// The part of a descriptor that all file systems have. Chapter "Block Group Descriptors".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Descriptor {
    pub(super) block_bitmap_lo: U32,
    pub(super) inode_bitmap_lo: U32,
    pub(super) inode_table_lo: U32,
    _rest: [u8; 20],
}

/// What one of 64 bytes has more.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DescriptorHigh {
    pub(super) block_bitmap_hi: U32,
    pub(super) inode_bitmap_hi: U32,
    pub(super) inode_table_hi: U32,
    _rest: [u8; 20],
}

/// The part of an inode that all file systems have. Chapter "Index Nodes".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Inode {
    pub(super) mode: U16,
    _uid: U16,
    pub(super) size_lo: U32,
    _times: [u8; 12],
    pub(super) dtime: U32,
    _gid: U16,
    pub(super) links_count: U16,
    pub(super) blocks_lo: U32,
    pub(super) flags: U32,
    _version: U32,
    pub(super) block: [u8; 60],
    pub(super) generation: U32,
    pub(super) file_acl_lo: U32,
    _size_high: U32,
    _fragment: U32,
    _blocks_high: U16,
    pub(super) file_acl_high: U16,
    _owners_high: [u8; 4],
    pub(super) checksum_lo: U16,
    _reserved: U16,
}
/// What every inode has.
pub(super) const INODE_BYTES_MIN: usize = size_of::<Inode>();
const _: () = assert!(INODE_BYTES_MIN == 128);

/// Flags of an inode.
pub(super) mod inode_flag {
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const EA_INODE: u32 = 0x20_0000;
    pub(crate) const INLINE_DATA: u32 = 0x1000_0000;
}

/// The kinds of files, in the top bits of a mode.
pub(super) mod kind {
    pub(crate) const MASK: u16 = 0xF000;
    pub(crate) const DIRECTORY: u16 = 0x4000;
    pub(crate) const FILE: u16 = 0x8000;
    pub(crate) const SYMLINK: u16 = 0xA000;
}

/// How a node of an extent tree begins. Chapter "The Contents of `inode.i_block`".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentHeader {
    pub(super) magic: U16,
    pub(super) entries: U16,
    pub(super) max: U16,
    pub(super) depth: U16,
    _generation: U32,
}
pub(super) const EXTENT_MAGIC: u16 = 0xF30A;
/// What a header takes, and each entry after it.
pub(super) const EXTENT_BYTES: usize = 12;
/// The deepest tree.
pub(super) const EXTENT_DEPTH_MAX: u16 = 5;

/// An entry of a leaf.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentLeaf {
    pub(super) block: U32,
    /// Above 32768: so many more, which are not initialised.
    pub(super) len: U16,
    pub(super) start_hi: U16,
    pub(super) start_lo: U32,
}

/// An entry of a node that is no leaf.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct ExtentIndex {
    _block: U32,
    pub(super) leaf_lo: U32,
    pub(super) leaf_hi: U16,
    _unused: U16,
}

/// How an entry of a directory begins. Chapter "Directory Entries".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct DirectoryEntry {
    pub(super) inode: U32,
    pub(super) rec_len: U16,
    pub(super) name_len: u8,
    _file_type: u8,
}

/// How a block of extended attributes begins. Chapter "Extended Attributes".
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct AttributesHeader {
    pub(super) magic: U32,
    _refcount: U32,
    pub(super) blocks: U32,
    _rest: [U32; 5],
}
pub(super) const ATTRIBUTES_MAGIC: u32 = 0xEA02_0000;

/// How a block of the journal's own begins. Chapter "Journal (jbd2)"; all of it is big-endian.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct JournalHeader {
    pub(super) magic: big_endian::U32,
    pub(super) block_type: big_endian::U32,
    pub(super) sequence: big_endian::U32,
}
pub(super) const JOURNAL_MAGIC: u32 = 0xC03B_3998;

/// What a block of the journal's own is.
pub(super) mod journal_block {
    pub(crate) const DESCRIPTOR: u32 = 1;
    pub(crate) const SUPERBLOCK_V2: u32 = 4;
    pub(crate) const REVOKE: u32 = 5;
}

/// The start of the journal's superblock.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct JournalSuperblock {
    pub(super) header: JournalHeader,
    pub(super) blocksize: big_endian::U32,
    pub(super) maxlen: big_endian::U32,
    pub(super) first: big_endian::U32,
    pub(super) sequence: big_endian::U32,
    _start: big_endian::U32,
    _errno: big_endian::U32,
    _feature_compat: big_endian::U32,
    pub(super) feature_incompat: big_endian::U32,
    _feature_ro_compat: big_endian::U32,
    _uuid: [u8; 16],
    _users: [big_endian::U32; 4],
    _checksum: [u8; 4],
    pub(super) num_fc_blocks: big_endian::U32,
}

/// Flags of the journal's `feature_incompat`.
pub(super) mod journal_feature {
    pub(crate) const BITS_64: u32 = 0x2;
    pub(crate) const CSUM_V2: u32 = 0x8;
    pub(crate) const CSUM_V3: u32 = 0x10;
    pub(crate) const FAST_COMMIT: u32 = 0x20;
}

/// A tag in a journal with checksums of version 3.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Tag3 {
    pub(super) block_lo: big_endian::U32,
    pub(super) flags: big_endian::U32,
    pub(super) block_hi: big_endian::U32,
    _checksum: big_endian::U32,
}

/// A tag in any other journal; without 64 bits, `block_hi` is not there.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Tag {
    pub(super) block_lo: big_endian::U32,
    _checksum: big_endian::U16,
    pub(super) flags: big_endian::U16,
}

/// Flags of a tag.
pub(super) mod tag_flag {
    /// The copy began with the journal's magic, which is zeros there.
    pub(crate) const ESCAPED: u32 = 1;
    /// No UUID follows.
    pub(crate) const SAME_UUID: u32 = 2;
    pub(crate) const LAST: u32 = 8;
}

/// How a block of revoke records begins.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct RevokeHeader {
    _header: JournalHeader,
    /// Bytes that are in use, this header included.
    pub(super) count: big_endian::U32,
}
