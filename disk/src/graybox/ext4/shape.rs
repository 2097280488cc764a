//! Whether a block looks like metadata that may be anywhere.

use zerocopy::FromBytes as _;
use zerocopy::byteorder::little_endian::U32;

use super::format::{ATTRIBUTES_MAGIC, AttributesHeader, DirectoryEntry};
use super::layout::Layout;
use super::mapping::{self, Part};

/// What a block looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Extents,
    Directory,
    Attributes,
    /// Numbers of blocks: the weakest, for it has no magic number.
    Pointers,
}

/// What `bytes`, a block, looks like, if like metadata.
pub(super) fn of(layout: &Layout, bytes: &[u8]) -> Option<Shape> {
    if are_extents(layout, bytes) {
        Some(Shape::Extents)
    } else if is_directory(layout, bytes) {
        Some(Shape::Directory)
    } else if are_attributes(bytes) {
        Some(Shape::Attributes)
    } else if !layout.has_extents && are_pointers(layout, bytes) {
        Some(Shape::Pointers)
    } else {
        None
    }
}

/// A node beside an inode is a block of its own, and has as many entries as fit.
fn are_extents(layout: &Layout, bytes: &[u8]) -> bool {
    mapping::extents(bytes).is_some_and(|parts| {
        parts.iter().all(|part| match part {
            Part::Blocks { place, .. } => !place.is_empty() && place.end <= layout.blocks,
            Part::Node { place, .. } => *place < layout.blocks,
        })
    })
}

/// A chain of entries, each of which says where the next is, to the end of the block.
fn is_directory(layout: &Layout, bytes: &[u8]) -> bool {
    const HEAD: usize = size_of::<DirectoryEntry>();
    let mut rest = bytes;
    while !rest.is_empty() {
        let Ok((entry, _)) = DirectoryEntry::ref_from_prefix(rest) else {
            return false;
        };
        let len = match usize::from(entry.rec_len.get()) {
            // Of blocks of 64 KiB.
            0 | 0xFFFF if bytes.len() == 1 << 16 => bytes.len(),
            len => len,
        };
        let name = usize::from(entry.name_len);
        let is_named = entry.inode.get() == 0 || name > 0;
        let is_sane = len >= HEAD + 4
            && len.is_multiple_of(4)
            && len >= HEAD + name
            && is_named
            && entry.inode.get() <= layout.inodes;
        match rest.get(len..) {
            Some(next) if is_sane => rest = next,
            _ if is_tail(rest) => return true,
            _ => return false,
        }
    }
    true
}

/// The checksum at the end of a directory's block looks like an entry of its own, whose name would
/// be longer than it.
fn is_tail(bytes: &[u8]) -> bool {
    bytes.len() == 12 && bytes.starts_with(&[0, 0, 0, 0, 12, 0, 0, 0xDE])
}

fn are_attributes(bytes: &[u8]) -> bool {
    AttributesHeader::ref_from_prefix(bytes)
        .is_ok_and(|(header, _)| header.magic.get() == ATTRIBUTES_MAGIC && header.blocks.get() == 1)
}

fn are_pointers(layout: &Layout, bytes: &[u8]) -> bool {
    let mut is_empty = true;
    let all = bytes.chunks_exact(4).all(|number| {
        let number = U32::read_from_bytes(number).map_or(0, U32::get);
        is_empty &= number == 0;
        u64::from(number) < layout.blocks
    });
    all && !is_empty
}
