//! What inodes and the blocks below them map. Chapters "Index Nodes" and "The Contents of
//! `inode.i_block`".

use std::ops::Range;

use zerocopy::byteorder::little_endian::{U16, U32};
use zerocopy::{FromBytes as _, IntoBytes as _};

use super::checksum;
use super::format::{
    EXTENT_BYTES, EXTENT_DEPTH_MAX, EXTENT_MAGIC, ExtentHeader, ExtentIndex, ExtentLeaf, Inode,
    inode_flag, kind,
};
use super::layout::Layout;

/// The longest extent that is initialised; a longer one says how much is not.
const EXTENT_BLOCKS_MAX: u16 = 1 << 15;
/// Blocks that an inode without extents maps itself.
const DIRECT_BLOCKS: usize = 12;
/// A symbolic link that is shorter is in its inode.
const FAST_SYMLINK_BYTES: u32 = 60;

/// The inode that has the blocks kept free for descriptors.
const RESIZE_INODE: u32 = 7;

/// What a part of a map says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Content, from a block of the file on.
    Blocks { logical: u64, place: Range<u64> },
    /// More of the map.
    Node { place: u64, tree: Tree },
}

/// How a node of a map is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tree {
    Extents,
    /// Numbers of blocks, so many levels above content, from a block of the file on.
    Pointers {
        levels: u8,
        logical: u64,
    },
}

/// Whose content a map maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    File,
    Directory,
    /// Content that is metadata and has no form to know it by: long symbolic links, values of
    /// extended attributes.
    Opaque,
    /// The file system itself: quotas, orphans.
    System,
    Journal,
}

/// An inode in use that has blocks.
pub(super) struct Owned {
    pub(super) owner: Owner,
    pub(super) attributes: Option<u64>,
    pub(super) parts: Vec<Part>,
}

/// What the inode `number` has, if it is in use.
pub(super) fn of_inode(layout: &Layout, number: u32, bytes: &[u8]) -> Option<Owned> {
    let (inode, _) = Inode::ref_from_prefix(bytes).ok()?;
    let in_use = inode.links_count.get() > 0 && inode.dtime.get() == 0;
    if !in_use || !has_good_checksum(layout, number, inode, bytes) {
        return None;
    }
    let flags = inode.flags.get();
    let file_kind = inode.mode.get() & kind::MASK;
    let journal = layout.journal.as_ref().map(|journal| journal.number);
    let owner = match file_kind {
        _ if journal == Some(number) => Owner::Journal,
        _ if number == RESIZE_INODE => Owner::System,
        _ if layout.own_inodes.contains(&number) && number != 0 => Owner::System,
        kind::DIRECTORY => Owner::Directory,
        kind::FILE if flags & inode_flag::EA_INODE != 0 => Owner::Opaque,
        kind::FILE => Owner::File,
        kind::SYMLINK => Owner::Opaque,
        _ => return None,
    };
    let is_short = file_kind == kind::SYMLINK && inode.size_lo.get() < FAST_SYMLINK_BYTES;
    let parts = if is_short || flags & inode_flag::INLINE_DATA != 0 {
        Vec::new()
    } else if flags & inode_flag::EXTENTS != 0 {
        extents(&inode.block)?
    } else {
        pointers_of_inode(layout, &inode.block)
    };
    let attributes =
        u64::from(inode.file_acl_lo.get()) | u64::from(inode.file_acl_high.get()) << 32;
    Some(Owned {
        owner,
        attributes: (attributes != 0).then_some(attributes),
        parts,
    })
}

/// What is not checked elsewhere may be what was on the disk before the file system.
fn has_good_checksum(layout: &Layout, number: u32, inode: &Inode, bytes: &[u8]) -> bool {
    const HIGH_AT: usize = 0x82;
    let Some(seed) = layout.checksum_seed else {
        return true;
    };
    let seed = checksum::raw(seed, U32::new(number).as_bytes());
    let seed = checksum::raw(seed, inode.generation.as_bytes());
    let mut own = bytes.to_vec();
    own[0x7C..0x7E].fill(0);
    let extra: U16 = read(bytes, 0x80).unwrap_or_default();
    let high: Option<U16> = read(bytes, HIGH_AT).filter(|_| extra.get() >= 4);
    if high.is_some() {
        own[HIGH_AT..HIGH_AT + 2].fill(0);
    }
    let found = checksum::raw(seed, &own).value();
    let stored = u32::from(inode.checksum_lo.get());
    match high {
        Some(high) => found == stored | u32::from(high.get()) << 16,
        None => found & 0xFFFF == stored,
    }
}

fn read<T: zerocopy::FromBytes>(bytes: &[u8], at: usize) -> Option<T> {
    bytes
        .get(at..)
        .and_then(|rest| Some(T::read_from_prefix(rest).ok()?.0))
}

/// What a node of an extent tree says, wherever it is; nothing if it is none.
pub(super) fn extents(bytes: &[u8]) -> Option<Vec<Part>> {
    let (header, rest) = ExtentHeader::ref_from_prefix(bytes).ok()?;
    let (entries, max) = (header.entries.get(), header.max.get());
    let fits = usize::from(max) <= rest.len() / EXTENT_BYTES && entries <= max;
    let depth = header.depth.get();
    if header.magic.get() != EXTENT_MAGIC || !fits || depth > EXTENT_DEPTH_MAX {
        return None;
    }
    let entries = rest.chunks_exact(EXTENT_BYTES).take(entries.into());
    Some(
        entries
            .filter_map(|entry| {
                if depth == 0 {
                    leaf(entry)
                } else {
                    index(entry)
                }
            })
            .collect(),
    )
}

fn leaf(entry: &[u8]) -> Option<Part> {
    let leaf = ExtentLeaf::ref_from_bytes(entry).ok()?;
    let len = match leaf.len.get() {
        len if len > EXTENT_BLOCKS_MAX => len - EXTENT_BLOCKS_MAX,
        len => len,
    };
    let start = u64::from(leaf.start_lo.get()) | u64::from(leaf.start_hi.get()) << 32;
    Some(Part::Blocks {
        logical: leaf.block.get().into(),
        place: start..start + u64::from(len),
    })
}

fn index(entry: &[u8]) -> Option<Part> {
    let index = ExtentIndex::ref_from_bytes(entry).ok()?;
    Some(Part::Node {
        place: u64::from(index.leaf_lo.get()) | u64::from(index.leaf_hi.get()) << 32,
        tree: Tree::Extents,
    })
}

/// What an inode without extents maps: twelve blocks, and three nodes of one to three levels.
pub(super) fn pointers_of_inode(layout: &Layout, block: &[u8; 60]) -> Vec<Part> {
    let (direct, nodes) = block.split_at(DIRECT_BLOCKS * 4);
    let mut parts = pointers(layout, 1, 0, direct);
    let per_node = layout.block_bytes / 4;
    let mut logical = DIRECT_BLOCKS as u64;
    for (levels, place) in (1..).zip(nodes.chunks_exact(4)) {
        let place: U32 = read(place, 0).unwrap_or_default();
        if place.get() != 0 {
            parts.push(Part::Node {
                place: place.get().into(),
                tree: Tree::Pointers { levels, logical },
            });
        }
        logical += per_node.pow(levels.into());
    }
    parts
}

/// What a block of numbers says; runs of blocks that follow each other are one part.
pub(super) fn pointers(layout: &Layout, levels: u8, logical: u64, bytes: &[u8]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let step = (layout.block_bytes / 4).pow(u32::from(levels.clamp(1, 3)) - 1);
    for (number, place) in (0..).zip(bytes.chunks_exact(4)) {
        let place: U32 = read(place, 0).unwrap_or_default();
        let place = u64::from(place.get());
        let logical = logical + number * step;
        match parts.last_mut() {
            _ if place == 0 => {}
            Some(Part::Blocks { place: last, .. }) if levels <= 1 && last.end == place => {
                last.end += 1;
            }
            _ if levels <= 1 => parts.push(Part::Blocks {
                logical,
                place: place..place + 1,
            }),
            _ => parts.push(Part::Node {
                place,
                tree: Tree::Pointers {
                    levels: levels - 1,
                    logical,
                },
            }),
        }
    }
    parts
}
