//! What is metadata in an XFS of version 5, learnt from the blocks that pass by.
//!
//! Each block of metadata says what it is, where it is and of which file system. So content takes
//! itself for metadata only if somebody knows the file system's identity and where the content
//! will be. Headers of allocation groups and the log have places that the superblock tells. What
//! trees and inodes point to is expected to be metadata, so that it is known before it is read.

pub(super) mod format;
mod pointers;

use std::ops::Range;

use zerocopy::{FromBytes as _, Immutable, KnownLayout};

use super::bits::Bits;
use super::metadata_run;
use super::passing::Passing;
use format::{
    ATTRIBUTES_LEAF, DIRECTORY_LEAVES, ENTRIES, EntriesHeader, INCOMPATIBLE_META_UUID, INODE_BYTES,
    INODE_MAGIC, Inode, LONG_TREES, LongHeader, MAGIC, NAMES_NODE, NamesHeader, QUOTA_MAGIC, Quota,
    REMOTE, RemoteHeader, SHORT_TREES, SUPERBLOCK_BYTES, ShortHeader, Superblock, VERSION_MASK,
};

/// The unit in which blocks say where they are.
const SECTOR: u64 = 512;
/// More allocation groups are not told apart.
const GROUPS_MAX: u32 = 1 << 20;
/// Sectors of the headers of an allocation group.
const HEADER_SECTORS: u64 = 4;

/// A file system, as far as it was seen.
pub(super) struct Xfs {
    layout: Layout,
    /// Blocks that said what they are, or are expected to.
    blocks: Bits,
    /// Where blocks are looked at.
    scratch: Vec<u8>,
}

/// What a superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    block_bytes: u64,
    blocks: u64,
    group_blocks: u64,
    groups: u64,
    group_bits: u32,
    inode_bits: u32,
    inode_bytes: usize,
    sector_bytes: u64,
    /// Blocks of a block of a directory.
    directory_blocks: u64,
    log: Range<u64>,
    identity: [u8; 16],
}

impl Layout {
    /// Reads the superblock of a file system that has `size_bytes` to itself.
    pub(super) fn parse(bytes: &[u8; SUPERBLOCK_BYTES], size_bytes: u64) -> Option<Self> {
        let fields = Superblock::ref_from_bytes(bytes).ok()?;
        let (block, sector) = (fields.blocksize.get(), fields.sectsize.get());
        let is_sane = fields.magic == MAGIC
            && fields.versionnum.get() & VERSION_MASK == 5
            && block.is_power_of_two()
            && (1024..=65536).contains(&block)
            && sector.is_power_of_two()
            && (512..=32768).contains(&sector)
            && (1..=GROUPS_MAX).contains(&fields.agcount.get())
            && (1..32).contains(&fields.agblklog)
            && fields.inopblog <= 8
            && fields.dirblklog <= 6
            && u64::from(fields.agblocks.get()) <= 1 << fields.agblklog
            && u32::from(fields.inodesize.get()) << fields.inopblog == block
            && fields.agblocks.get() > 0;
        if !is_sane || usize::from(fields.inodesize.get()) < INODE_BYTES {
            return None;
        }
        let has_own = fields.features_incompat.get() & INCOMPATIBLE_META_UUID != 0;
        let mut layout = Self {
            block_bytes: block.into(),
            blocks: fields.dblocks.get().min(size_bytes / u64::from(block)),
            group_blocks: fields.agblocks.get().into(),
            groups: fields.agcount.get().into(),
            group_bits: fields.agblklog.into(),
            inode_bits: fields.inopblog.into(),
            inode_bytes: fields.inodesize.get().into(),
            sector_bytes: sector.into(),
            directory_blocks: 1 << fields.dirblklog,
            log: 0..0,
            identity: if has_own {
                fields.meta_uuid
            } else {
                fields.uuid
            },
        };
        if fields.logstart.get() != 0 {
            let start = layout.block(fields.logstart.get())?;
            layout.log = start..start.saturating_add(fields.logblocks.get().into());
        }
        Some(layout)
    }

    /// Which block of the disk a number among the file system's is.
    fn block(&self, number: u64) -> Option<u64> {
        let (group, place) = (
            number >> self.group_bits,
            number & ((1 << self.group_bits) - 1),
        );
        self.block_in(group, place)
    }

    /// Which block of the disk a block of a group is.
    fn block_in(&self, group: u64, place: u64) -> Option<u64> {
        let block = group.checked_mul(self.group_blocks)?.checked_add(place)?;
        (group < self.groups && place < self.group_blocks && block < self.blocks).then_some(block)
    }

    /// Whether an inode with this number is where `block` begins.
    fn inode_is_at(&self, number: u64, block: u64) -> bool {
        number & ((1 << self.inode_bits) - 1) == 0
            && self.block(number >> self.inode_bits) == Some(block)
    }

    /// How many blocks of metadata begin with `head`, the first of which is `block`.
    fn recognize(&self, block: u64, head: &[u8]) -> Option<u64> {
        let own = |uuid: [u8; 16], blkno: u64| {
            let here = block.checked_mul(self.block_bytes / SECTOR);
            uuid == self.identity && here == Some(blkno)
        };
        let magic: [u8; 4] = *head.first_chunk()?;
        if SHORT_TREES.iter().any(|(kind, _)| *kind == magic) {
            let header: &ShortHeader = read(head)?;
            return own(header.uuid, header.blkno.get()).then_some(1);
        }
        if LONG_TREES.contains(&magic) {
            let header: &LongHeader = read(head)?;
            return own(header.uuid, header.blkno.get()).then_some(1);
        }
        if ENTRIES.contains(&magic) {
            let header: &EntriesHeader = read(head)?;
            return own(header.uuid, header.blkno.get()).then_some(self.directory_blocks);
        }
        if REMOTE.contains(&magic) {
            let header: &RemoteHeader = read(head)?;
            return own(header.uuid, header.blkno.get()).then_some(1);
        }
        if magic.starts_with(&INODE_MAGIC) {
            let inode: &Inode = read(head)?;
            let is_own = inode.uuid == self.identity && inode.version == 3;
            return (is_own && self.inode_is_at(inode.ino.get(), block)).then_some(1);
        }
        if magic.starts_with(&QUOTA_MAGIC) {
            // The one kind that does not say where it is.
            let quota: &Quota = read(head)?;
            return (quota.uuid == self.identity).then_some(1);
        }
        let names: &NamesHeader = read(head)?;
        let is_own = own(names.uuid, names.blkno.get());
        match names.magic.get() {
            kind if DIRECTORY_LEAVES.contains(&kind) => is_own.then_some(self.directory_blocks),
            NAMES_NODE if is_own => {
                let used = 64 + u64::from(names.count.get()) * 8;
                let is_larger = used > self.block_bytes;
                Some(if is_larger { self.directory_blocks } else { 1 })
            }
            ATTRIBUTES_LEAF => is_own.then_some(1),
            _ => None,
        }
    }
}

fn read<T: zerocopy::FromBytes + Immutable + KnownLayout + zerocopy::Unaligned>(
    bytes: &[u8],
) -> Option<&T> {
    T::ref_from_prefix(bytes).ok().map(|(value, _)| value)
}

impl Xfs {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            blocks: Bits::default(),
            scratch: vec![0; usize::try_from(layout.block_bytes).unwrap_or(0)],
            layout,
        }
    }

    /// What its superblock says now. One of another file system takes its place.
    pub(super) fn superblock(&mut self, layout: Layout) {
        if layout.identity == self.layout.identity && layout.block_bytes == self.layout.block_bytes
        {
            // It may have grown.
            self.layout = layout;
        } else {
            *self = Self::new(layout);
        }
    }

    /// Learns from what passes by.
    pub(super) fn passed(&mut self, passing: &Passing) {
        let range = passing.range();
        self.headers_passed(passing);
        let bytes = self.layout.block_bytes;
        let mut block = range.start.div_ceil(bytes);
        while block < range.end / bytes {
            let head = passing.bytes::<INODE_BYTES>(block * bytes);
            let recognized = head.and_then(|head| self.layout.recognize(block, &head));
            if let Some(count) = recognized {
                self.expect(block..block.saturating_add(count));
                self.block_passed(block, passing);
            } else {
                self.blocks.remove(block..block + 1);
            }
            block += recognized.unwrap_or(1);
        }
    }

    fn expect(&mut self, blocks: Range<u64>) {
        let end = blocks.end.min(self.layout.blocks);
        if blocks.start < end {
            self.blocks.insert(blocks.start..end);
        }
    }

    /// Learns where the trees of the groups begin.
    fn headers_passed(&mut self, passing: &Passing) {
        let range = passing.range();
        let group_bytes = self.layout.group_blocks * self.layout.block_bytes;
        let first = range.start / group_bytes;
        for group in first..range.end.div_ceil(group_bytes).min(self.layout.groups) {
            for sector in 1..HEADER_SECTORS {
                let at = group * group_bytes + sector * self.layout.sector_bytes;
                if let Some(bytes) = passing.bytes::<512>(at) {
                    for place in self.layout.roots(&bytes) {
                        self.expect_in(group, place);
                    }
                }
            }
        }
    }

    fn expect_in(&mut self, group: u64, place: u64) {
        if let Some(block) = self.layout.block_in(group, place) {
            self.expect(block..block + 1);
        }
    }

    /// Learns what a block of metadata points to.
    fn block_passed(&mut self, block: u64, passing: &Passing) {
        let mut bytes = std::mem::take(&mut self.scratch);
        if passing.copy(block * self.layout.block_bytes, &mut bytes) {
            for blocks in self.layout.pointers(block, &bytes) {
                self.expect(blocks);
            }
        }
        self.scratch = bytes;
    }

    /// Whether the bytes at `offset` are metadata, and how many of `len` are the same.
    pub(super) fn is_metadata(&self, offset: u64, len: u64) -> (bool, u64) {
        metadata_run(self.layout.block_bytes, offset, len, |blocks| {
            self.first_metadata(blocks)
        })
    }

    fn first_metadata(&self, blocks: &Range<u64>) -> Option<u64> {
        let layout = &self.layout;
        let log = blocks.start.max(layout.log.start);
        let log = (log < blocks.end.min(layout.log.end)).then_some(log);
        // The headers of the group that the first block is in, or of the next.
        let headers = (HEADER_SECTORS * layout.sector_bytes).div_ceil(layout.block_bytes);
        let place = blocks.start % layout.group_blocks;
        let header = if place < headers {
            blocks.start
        } else {
            blocks.start - place + layout.group_blocks
        };
        let header = (header < blocks.end.min(layout.blocks)).then_some(header);
        let found = self.blocks.first_in(blocks);
        [log, header, found].into_iter().flatten().min()
    }

    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.blocks.memory_bytes()
    }

    /// Nothing is needed of what is in `range`, in bytes.
    pub(super) fn discarded(&mut self, range: &Range<u64>) {
        let bytes = self.layout.block_bytes;
        let first = range.start.div_ceil(bytes);
        self.blocks.remove(first..(range.end / bytes).max(first));
    }
}
