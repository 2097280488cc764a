//! What is metadata in a btrfs, learnt from the blocks that pass by.
//!
//! Space is given out in chunks, each of which holds content or nodes of trees, and the tree of chunks
//! says which. Where a chunk is not known yet, or holds both, nodes are known by what they begin
//! with: the file system's own identity, which no other content has but on purpose.

mod chunks;
pub(super) mod format;

use std::ops::Range;

use zerocopy::FromBytes as _;

use super::bits::Bits;
use super::passing::Passing;
use chunks::{Chunks, Holds};
use format::{
    CHECKSUM_BYTES, CHECKSUM_CRC32C, CHUNK_ITEM, CHUNK_TREE, HEADER_BYTES, Header,
    INCOMPATIBLE_METADATA_UUID, Item, LEVEL_MAX, MAGIC, SUPERBLOCK_BYTES, SUPERBLOCKS_AT,
    Superblock,
};

/// The unit in which nodes are remembered.
const BLOCK_BYTES: u64 = 4096;

/// A file system, or this disk's part of one.
pub(super) struct Btrfs {
    layout: Layout,
    chunks: Chunks,
    /// Blocks of nodes outside of chunks that tell.
    nodes: Bits,
}

/// What does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    node_bytes: u64,
    /// The file system's identity to its users.
    fsid: [u8; 16],
    /// What nodes begin with.
    identity: [u8; 16],
    device: u64,
    checksum_kind: u16,
}

/// What a superblock says.
pub(super) struct Found {
    layout: Layout,
    system_chunks: Vec<u8>,
}

impl Found {
    /// Reads the superblock at `offset`.
    pub(super) fn parse(bytes: &[u8; SUPERBLOCK_BYTES], offset: u64) -> Option<Self> {
        let fields = Superblock::ref_from_bytes(bytes).ok()?;
        let node_bytes = fields.nodesize.get();
        let is_sane = fields.magic == MAGIC
            && fields.bytenr.get() == offset
            && node_bytes.is_power_of_two()
            && (4096..=65536).contains(&node_bytes)
            && has_good_checksum(fields.csum_type.get(), &fields.checksum, bytes);
        let has_own = fields.incompat.get() & INCOMPATIBLE_METADATA_UUID != 0;
        let len = usize::try_from(fields.sys_chunk_array_size.get()).ok()?;
        let system_chunks = fields.sys_chunk_array.get(..len)?.to_vec();
        is_sane.then(|| Self {
            layout: Layout {
                node_bytes: node_bytes.into(),
                fsid: fields.fsid,
                identity: if has_own {
                    fields.metadata_uuid
                } else {
                    fields.fsid
                },
                device: fields.devid.get(),
                checksum_kind: fields.csum_type.get(),
            },
            system_chunks,
        })
    }
}

/// Of the other kinds, nothing is verified.
fn has_good_checksum(kind: u16, stored: &[u8; CHECKSUM_BYTES], bytes: &[u8]) -> bool {
    let covered = bytes.get(CHECKSUM_BYTES..).unwrap_or_default();
    kind != CHECKSUM_CRC32C || stored[..4] == crc32c::crc32c(covered).to_le_bytes()
}

impl Btrfs {
    pub(super) fn new(found: &Found) -> Self {
        let mut new = Self {
            layout: found.layout.clone(),
            chunks: Chunks::default(),
            nodes: Bits::default(),
        };
        new.superblock(found);
        new
    }

    /// What its superblock says now. One of another file system takes its place.
    pub(super) fn superblock(&mut self, found: &Found) {
        if found.layout != self.layout {
            *self = Self::new(found);
            return;
        }
        let mut rest = &found.system_chunks[..];
        while let Ok((key, after)) = format::Key::ref_from_prefix(rest) {
            let len = self
                .chunks
                .learn(self.layout.device, key.offset.get(), after);
            match len.and_then(|len| after.get(len..)) {
                Some(after) if key.kind == CHUNK_ITEM => rest = after,
                _ => break,
            }
        }
    }

    /// Whether statfs(2) says `f_fsid` of it: what `btrfs_statfs` makes of the identity (Linux,
    /// `fs/btrfs/super.c`). The second number has that of the subvolume mixed in, which is nowhere else
    /// here. The first would have its upper half, which is zero: there are no 2^32 subvolumes.
    pub(super) fn is_named(&self, f_fsid: [u32; 2]) -> bool {
        let fsid = u128::from_be_bytes(self.layout.fsid);
        let words = [fsid >> 96, fsid >> 32 & u128::from(u32::MAX)];
        words[0] ^ words[1] == u128::from(f_fsid[0])
    }

    /// Where the bytes `logical` of its addresses are in this volume, as far as that is known.
    pub(super) fn places(&self, logical: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.chunks.places(logical)
    }

    /// Learns from what passes by.
    pub(super) fn passed(&mut self, passing: &Passing) {
        let blocks = passing.whole_blocks(BLOCK_BYTES);
        // A node is written whole, so that what begins with none has none.
        let mut at = blocks.start;
        while at < blocks.end {
            let offset = at * BLOCK_BYTES;
            let (holds, reach) = self.chunks.holds(offset);
            if holds == Holds::Content {
                let next = (reach / BLOCK_BYTES).clamp(at + 1, blocks.end);
                self.nodes.remove(at..next);
                at = next;
                continue;
            }
            let node = self.node_at(passing, offset);
            let len = if node {
                self.layout.node_bytes
            } else {
                BLOCK_BYTES
            };
            let next = at + len / BLOCK_BYTES;
            if node && holds == Holds::Unknown {
                self.nodes.insert(at..next);
            } else if passing.written {
                self.nodes.remove(at..next);
            }
            at = next;
        }
    }

    /// Whether a node begins at `offset`. One of the tree of chunks is learnt from.
    fn node_at(&mut self, passing: &Passing, offset: u64) -> bool {
        let bytes = passing.bytes::<HEADER_BYTES>(offset);
        let Some(header) = bytes.and_then(|bytes| Header::read_from_bytes(&bytes).ok()) else {
            return false;
        };
        let items_max = self.layout.node_bytes / 25;
        let is_node = header.fsid == self.layout.identity
            && header.level <= LEVEL_MAX
            && u64::from(header.nritems.get()) <= items_max
            && self.chunks.is_at(header.bytenr.get(), offset);
        if is_node && header.owner.get() == CHUNK_TREE && header.level == 0 {
            self.learn_chunks(passing, offset);
        }
        is_node
    }

    fn learn_chunks(&mut self, passing: &Passing, offset: u64) {
        let mut bytes = vec![0; usize::try_from(self.layout.node_bytes).unwrap_or(0)];
        let Ok((header, items)) = passing
            .copy(offset, &mut bytes)
            .then_some(bytes.as_slice())
            .map_or(Err(()), |bytes| {
                Header::ref_from_prefix(bytes).map_err(drop)
            })
        else {
            return;
        };
        if !has_good_checksum(self.layout.checksum_kind, &header.checksum, &bytes) {
            return;
        }
        let count = header.nritems.get() as usize;
        for item in items.chunks_exact(size_of::<Item>()).take(count) {
            let Ok(item) = Item::ref_from_bytes(item) else {
                return;
            };
            let start = item.offset.get() as usize;
            let end = start.saturating_add(item.size.get() as usize);
            if item.key.kind == CHUNK_ITEM
                && let Some(chunk) = items.get(start..end)
            {
                self.chunks
                    .learn(self.layout.device, item.key.offset.get(), chunk);
            }
        }
    }

    /// Whether the bytes at `offset` are metadata, and how many of `len` are the same.
    pub(super) fn is_metadata(&self, offset: u64, len: u64) -> (bool, u64) {
        let end = offset.saturating_add(len);
        for start in SUPERBLOCKS_AT {
            let own = start..start + SUPERBLOCK_BYTES as u64;
            if own.contains(&offset) {
                return (true, own.end.min(end) - offset);
            }
        }
        let next = SUPERBLOCKS_AT.into_iter().find(|start| *start > offset);
        let end = next.map_or(end, |start| start.min(end));
        let (holds, reach) = self.chunks.holds(offset);
        let end = reach.min(end);
        match holds {
            Holds::Nodes => (true, end - offset),
            Holds::Content => (false, end - offset),
            Holds::Unknown => self.is_node(&(offset..end)),
        }
    }

    fn is_node(&self, range: &Range<u64>) -> (bool, u64) {
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        let first = self.nodes.first_in(&blocks).unwrap_or(blocks.end);
        let is_node = first == blocks.start;
        let end = if is_node {
            let mut all = blocks;
            all.find(|block| !self.nodes.contains(*block))
                .unwrap_or(all.end)
        } else {
            first
        };
        (
            is_node,
            end.saturating_mul(BLOCK_BYTES).min(range.end) - range.start,
        )
    }

    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.memory_bytes() + self.chunks.len() * 80
    }

    /// Nothing is needed of what is in `range`, in bytes.
    pub(super) fn discarded(&mut self, range: &Range<u64>) {
        let first = range.start.div_ceil(BLOCK_BYTES);
        self.nodes
            .remove(first..(range.end / BLOCK_BYTES).max(first));
    }
}
