//! What blocks of an XFS point to: the metadata that is read next.

use std::ops::Range;

use zerocopy::FromBytes as _;
use zerocopy::byteorder::big_endian::{U16, U32, U64};

use super::Layout;
use super::format::{
    CHUNK_INODES, EXTENT_BYTES, FORK_EXTENTS, FORK_TREE, FREE_SPACE_MAGIC, FreeSpace, INODE_BYTES,
    INODE_MAGIC, INODE_TREE, INODE_TREES_MAGIC, Inode, InodeChunk, InodeTrees, KEY_BYTES,
    LongHeader, MAP_TREE, MODE_DIRECTORY, MODE_KIND, MODE_SYMLINK, ROOT_BYTES, SHORT_TREES,
    ShortHeader,
};
use super::read;

impl Layout {
    /// The blocks of its group that a header of an allocation group points to.
    pub(super) fn roots(&self, bytes: &[u8; 512]) -> Vec<u64> {
        if let Some(found) = read::<FreeSpace>(bytes)
            && found.magic == FREE_SPACE_MAGIC
            && found.uuid == self.identity
        {
            let roots = found.roots.iter().chain([&found.refcount_root]);
            return roots.map(|root| root.get().into()).collect();
        }
        if let Some(found) = read::<InodeTrees>(bytes)
            && found.magic == INODE_TREES_MAGIC
            && found.uuid == self.identity
        {
            return vec![found.root.get().into(), found.free_root.get().into()];
        }
        Vec::new()
    }

    /// The blocks of metadata that one of them points to.
    pub(super) fn pointers(&self, block: u64, bytes: &[u8]) -> Vec<Range<u64>> {
        let Some(magic) = bytes.first_chunk::<4>() else {
            return Vec::new();
        };
        let short = SHORT_TREES.iter().find(|(kind, _)| kind == magic);
        if let Some((kind, key_bytes)) = short {
            self.short_tree(block / self.group_blocks, *kind, *key_bytes, bytes)
        } else if *magic == MAP_TREE {
            self.map_tree(bytes)
        } else if magic.starts_with(&INODE_MAGIC) {
            let inodes = bytes.chunks_exact(self.inode_bytes);
            inodes.flat_map(|inode| self.inode(inode)).collect()
        } else {
            Vec::new()
        }
    }

    fn short_tree(
        &self,
        group: u64,
        kind: [u8; 4],
        key_bytes: usize,
        bytes: &[u8],
    ) -> Vec<Range<u64>> {
        let Ok((header, rest)) = ShortHeader::ref_from_prefix(bytes) else {
            return Vec::new();
        };
        let count = usize::from(header.numrecs.get());
        if header.level.get() == 0 && kind == INODE_TREE {
            let chunks = rest.chunks_exact(size_of::<InodeChunk>()).take(count);
            return chunks
                .filter_map(|chunk| {
                    self.inode_chunk(group, InodeChunk::ref_from_bytes(chunk).ok()?)
                })
                .collect();
        }
        if header.level.get() == 0 {
            return Vec::new();
        }
        let most = rest.len() / (key_bytes + size_of::<U32>());
        let places = rest.get(most * key_bytes..).unwrap_or_default();
        places
            .chunks_exact(size_of::<U32>())
            .take(count.min(most))
            .filter_map(|place| {
                let place = U32::read_from_bytes(place).ok()?;
                let block = self.block_in(group, place.get().into())?;
                Some(block..block + 1)
            })
            .collect()
    }

    fn inode_chunk(&self, group: u64, chunk: &InodeChunk) -> Option<Range<u64>> {
        let first = u64::from(chunk.first.get());
        let start = self.block_in(group, first >> self.inode_bits)?;
        Some(start..start + (CHUNK_INODES >> self.inode_bits).max(1))
    }

    /// The nodes below a node of the map of a file.
    fn map_tree(&self, bytes: &[u8]) -> Vec<Range<u64>> {
        match LongHeader::ref_from_prefix(bytes) {
            Ok((header, rest)) if header.level.get() > 0 => {
                self.map_nodes(header.numrecs.get().into(), rest)
            }
            _ => Vec::new(),
        }
    }

    /// What `count` pointers behind as many keys as fit point to.
    fn map_nodes(&self, count: usize, bytes: &[u8]) -> Vec<Range<u64>> {
        let most = bytes.len() / (KEY_BYTES + size_of::<U64>());
        let places = bytes.get(most * KEY_BYTES..).unwrap_or_default();
        places
            .chunks_exact(size_of::<U64>())
            .take(count.min(most))
            .filter_map(|place| {
                let block = self.block(U64::read_from_bytes(place).ok()?.get())?;
                Some(block..block + 1)
            })
            .collect()
    }

    /// What an inode has that is metadata: the maps of all, the content of directories and of long
    /// symbolic links, attributes.
    fn inode(&self, bytes: &[u8]) -> Vec<Range<u64>> {
        let Ok((inode, forks)) = Inode::ref_from_prefix(bytes) else {
            return Vec::new();
        };
        if inode.magic != INODE_MAGIC || inode.uuid != self.identity || inode.mode.get() == 0 {
            return Vec::new();
        }
        let boundary = match usize::from(inode.forkoff) * 8 {
            0 => forks.len(),
            boundary => boundary
                .min(self.inode_bytes - INODE_BYTES)
                .min(forks.len()),
        };
        let (data, attributes) = forks.split_at(boundary);
        let kind = inode.mode.get() & MODE_KIND;
        let has_metadata = kind == MODE_DIRECTORY || kind == MODE_SYMLINK;
        let count = if has_metadata {
            inode.nextents.get()
        } else {
            0
        };
        let mut found = self.fork(inode.format, count as usize, data);
        let count = usize::from(inode.anextents.get());
        found.extend(self.fork(inode.aformat, count, attributes));
        found
    }

    /// The metadata of a fork: `extents` extents of content, or the nodes of its map.
    fn fork(&self, format: u8, extents: usize, bytes: &[u8]) -> Vec<Range<u64>> {
        match format {
            FORK_EXTENTS => {
                let extents = bytes.chunks_exact(EXTENT_BYTES).take(extents);
                extents.filter_map(|extent| self.extent(extent)).collect()
            }
            FORK_TREE => {
                let count = bytes.get(2..).and_then(|at| U16::read_from_prefix(at).ok());
                let nodes = bytes.get(ROOT_BYTES..).unwrap_or_default();
                self.map_nodes(count.map_or(0, |(count, _)| count.get().into()), nodes)
            }
            _ => Vec::new(),
        }
    }

    /// The blocks of an extent: 1 bit of state, 54 of where it is in the file, 52 of where it is on
    /// the disk, 21 of how long it is.
    fn extent(&self, bytes: &[u8]) -> Option<Range<u64>> {
        let (high, rest) = U64::read_from_prefix(bytes).ok()?;
        let (low, _) = U64::read_from_prefix(rest).ok()?;
        let start = (high.get() & 0x1FF) << 43 | low.get() >> 21;
        let start = self.block(start)?;
        Some(start..start + (low.get() & 0x1F_FFFF))
    }
}
