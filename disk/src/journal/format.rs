//! The journal's bytes. docs/journal.md specifies each of them.
//!
//! All numbers are little-endian. A region begins with the superblock; records follow, each on
//! blocks of its own.

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What records are padded to, and what a checksum of data covers at most.
pub(crate) const BLOCK_BYTES: u64 = 4096;
/// The most that a region has.
pub(crate) const REGION_BYTES_MAX: u64 = 16 << 20;
/// The least: the superblock, and room for a record while the one before is needed.
pub(crate) const REGION_BYTES_MIN: u64 = 8 * BLOCK_BYTES;

pub(super) const SUPERBLOCK_MAGIC: [u8; 8] = *b"mvjrnl\0\x01";
pub(super) const RECORD_MAGIC: [u8; 4] = *b"MVJR";
/// Where a record's checksum is, and a superblock's.
pub(super) const RECORD_CRC_AT: usize = 4;
pub(super) const SUPERBLOCK_CRC_AT: usize = 8;

/// What no other journal has: a record of an earlier one is not taken for one of this.
pub type Identity = [u8; 16];

/// The start of a region.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct Superblock {
    pub(super) magic: [u8; 8],
    /// CRC-32C of the block, with this field 0.
    pub(super) crc: U32,
    /// How many bytes follow that the format wants to have back.
    pub(super) kept_bytes: U32,
    pub(super) identity: Identity,
    pub(super) region_bytes: U64,
}
const _: () = assert!(size_of::<Superblock>() == 40);

/// The start of a record.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct RecordHead {
    pub(super) magic: [u8; 4],
    /// CRC-32C of `bytes` bytes, with this field 0.
    pub(super) crc: U32,
    pub(super) identity: Identity,
    /// One more than that of the record before.
    pub(super) sequence: U64,
    /// The first record that recovery needs if this is the last one.
    pub(super) tail: U64,
    /// Where the file ends at least: what lies before may be pointed to, and is zeros if it was
    /// never written.
    pub(super) file_end: U64,
    /// Bytes of the record, this head included and padding not.
    pub(super) bytes: U32,
    /// How many items follow.
    pub(super) items: U32,
}
const _: () = assert!(size_of::<RecordHead>() == 56);

/// The start of an item.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
pub(super) struct ItemHead {
    /// Where in the file.
    pub(super) offset: U64,
    /// How many bytes of the file.
    pub(super) len: U32,
    pub(super) kind: U32,
}
const _: () = assert!(size_of::<ItemHead>() == 16);

pub(super) mod kind {
    /// `len` bytes follow, which belong there.
    pub(in super::super) const WRITE: u32 = 1;
    /// Zeros belong there.
    pub(in super::super) const ZERO: u32 = 2;
    /// What this record and those before say of the range does not count any more.
    pub(in super::super) const FREE: u32 = 3;
    /// The CRC-32C of each part of the range follows, 4 bytes each. Parts end with blocks of the
    /// file.
    pub(in super::super) const CHECK: u32 = 4;
}

/// What items are padded to.
pub(super) const ITEM_ALIGNMENT: usize = 8;

/// How many parts a check of `len` bytes at `offset` has.
pub(super) fn parts(offset: u64, len: u64) -> u64 {
    if len == 0 {
        return 0;
    }
    (offset + len).div_ceil(BLOCK_BYTES) - offset / BLOCK_BYTES
}

/// Where the part that begins at `offset` ends, within `end`.
pub(super) fn part_end(offset: u64, end: u64) -> u64 {
    (offset / BLOCK_BYTES + 1)
        .saturating_mul(BLOCK_BYTES)
        .min(end)
}

/// CRC-32C of `bytes`, in which the four bytes at `at` count as zeros.
pub(super) fn crc_without(bytes: &[u8], at: usize) -> u32 {
    let crc = crc32c::crc32c(&bytes[..at]);
    let crc = crc32c::crc32c_append(crc, &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[at + 4..])
}
