//! What is metadata in an ext4, ext3 or ext2, learnt from the blocks that pass by.
//!
//! Three things tell it. The superblock and the group descriptors say where bitmaps, tables of inodes
//! and the journal are. Inodes say which blocks directories, extended attributes, long symbolic
//! links and maps have. And the journal names each block that a transaction changes, before it is
//! written in its place, and each that is metadata no more. Chapters named are those of
//! Documentation/filesystems/ext4 of the Linux kernel.

mod checksum;
pub(super) mod format;
mod journal;
mod layout;
mod mapping;
mod shape;

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;

use zerocopy::FromBytes as _;

use super::bits::Bits;
use super::metadata_run;
use super::passing::Passing;
use crate::mutant::mutant;
use crate::ranges::Ranges;
use format::{Descriptor, DescriptorHigh, JOURNAL_MAGIC};
use journal::{Copied, Journal, News};
pub(super) use layout::Found;
use layout::Layout;
use mapping::{Owner, Part, Tree};
use shape::Shape;

/// Nodes of maps of directories and the like that are remembered with what they are of.
const NODES_MAX: usize = 1 << 16;
/// Ranges that the file system keeps for itself; more are forgotten.
const FIXED_MAX: usize = 1 << 20;

/// A file system, as far as it was seen.
pub(super) struct Ext4 {
    layout: Layout,
    /// Whether it is mounted for writing with a journal, which then names all metadata.
    live: bool,
    /// Blocks that stay metadata.
    fixed: Ranges,
    /// Blocks that are metadata now, and look like it.
    moving: Bits,
    /// The same, of content that looks like any other.
    opaque: Bits,
    /// Places where more is to be learnt, by their first block, with how many there are.
    roles: BTreeMap<u64, (u64, Role)>,
    groups: BTreeMap<u64, Group>,
    /// Nodes of maps other than of files.
    nodes: BTreeMap<u64, (Owner, Tree)>,
    journal: Journal,
    /// Where blocks are looked at.
    scratch: Vec<u8>,
}

/// What is learnt from a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Descriptors, from that of a group on.
    Descriptors(u64),
    BlockBitmap(u64),
    /// The inodes of a group.
    Inodes(u64),
}

/// Where a group has what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Group {
    block_bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
}

impl Ext4 {
    pub(super) fn new(found: Found) -> Self {
        let Found { layout, live } = found;
        let mut new = Self {
            live,
            fixed: Ranges::default(),
            moving: Bits::default(),
            opaque: Bits::default(),
            roles: BTreeMap::new(),
            groups: BTreeMap::new(),
            nodes: BTreeMap::new(),
            journal: Journal::default(),
            scratch: vec![0; usize::try_from(layout.block_bytes).unwrap_or(0)],
            layout,
        };
        new.place_heads();
        if let Some(blocks) = new.layout.journal.as_ref().and_then(|inode| inode.blocks) {
            let parts = mapping::extents(&blocks)
                .unwrap_or_else(|| mapping::pointers_of_inode(&new.layout, &blocks));
            new.learn_parts(Owner::Journal, &parts);
        }
        new
    }

    /// What its superblock says now. One of another file system takes its place.
    pub(super) fn superblock(&mut self, found: Found) {
        if found.layout == self.layout {
            self.live = found.live;
        } else {
            *self = Self::new(found);
        }
    }

    /// Superblocks, their copies, descriptors.
    fn place_heads(&mut self) {
        let layout = self.layout.clone();
        self.fix(0..format::SUPERBLOCK_AT / layout.block_bytes + 1);
        for group in 0..layout.groups {
            self.fix(layout.head(group));
        }
        for number in 0..layout.descriptor_blocks() {
            let first = number * layout.descriptors_per_block();
            let role = (1, Role::Descriptors(first));
            self.roles.insert(layout.descriptor_block(number), role);
        }
        if let Some(block) = layout.mmp_block {
            self.fix(block..block.saturating_add(1));
        }
    }

    fn fix(&mut self, blocks: Range<u64>) {
        if self.fixed.len() < FIXED_MAX {
            self.fixed
                .insert(blocks.start..blocks.end.min(self.layout.blocks));
        }
    }

    /// Learns from what passes by.
    pub(super) fn passed(&mut self, passing: &Passing) {
        let blocks = passing.whole_blocks(self.layout.block_bytes);
        if !self.is_interesting(&blocks, passing.written) {
            return;
        }
        let mut bytes = mem::take(&mut self.scratch);
        for block in blocks {
            let one = block..block + 1;
            if self.is_interesting(&one, passing.written)
                && passing.copy(block * self.layout.block_bytes, &mut bytes)
            {
                if let Some(logical) = self.journal.logical(block) {
                    self.journal_block((block, logical), &mut bytes, passing.written);
                } else {
                    self.learn(block, &bytes, passing.written);
                }
            }
        }
        self.scratch = bytes;
    }

    /// Whether there is anything to learn from one of these blocks.
    fn is_interesting(&self, blocks: &Range<u64>, written: bool) -> bool {
        let in_role = |(start, (len, _)): (&u64, &(u64, Role))| start + len > blocks.start;
        // Without a journal, what is written is known by its looks alone.
        (written && !self.live)
            || self.moving.first_in(blocks).is_some()
            || self
                .roles
                .range(..blocks.end)
                .next_back()
                .is_some_and(in_role)
            || self.journal.overlaps(blocks)
            || self.nodes.range(blocks.clone()).next().is_some()
    }

    fn journal_block(&mut self, at: (u64, u64), bytes: &mut [u8], written: bool) {
        match self.journal.passed(at, bytes, written) {
            News::Tagged(homes) => {
                for home in homes {
                    self.mark(home..home.saturating_add(1));
                }
            }
            News::Revoked(_) if mutant("revoked blocks stay metadata") => {}
            News::Revoked(blocks) => {
                for block in blocks {
                    self.forget(block..block.saturating_add(1));
                }
            }
            News::Copy(Copied { home, escaped }) => {
                if escaped && let Some(start) = bytes.get_mut(..4) {
                    start.copy_from_slice(&JOURNAL_MAGIC.to_be_bytes());
                }
                self.learn(home, bytes, true);
            }
            News::Nothing => {}
        }
    }

    /// Learns from the content that a block has, or is about to have.
    fn learn(&mut self, block: u64, bytes: &[u8], written: bool) {
        let role = self.roles.range(..=block).next_back();
        match role.map(|(start, (len, role))| (block - start, *len, *role)) {
            Some((place, len, role)) if place < len => match role {
                Role::Descriptors(first) => self.learn_descriptors(first, bytes),
                Role::BlockBitmap(group) => self.learn_bitmap(group, bytes),
                Role::Inodes(group) => self.learn_inodes(group, place, bytes),
            },
            _ => self.learn_moving(block, bytes, written),
        }
    }

    fn learn_descriptors(&mut self, first: u64, bytes: &[u8]) {
        let Ok(each) = usize::try_from(self.layout.descriptor_bytes) else {
            return;
        };
        for (group, bytes) in (first..self.layout.groups).zip(bytes.chunks_exact(each)) {
            if let Some(new) = Group::parse(bytes) {
                self.learn_group(group, new);
            }
        }
    }

    fn learn_group(&mut self, number: u64, new: Group) {
        if self.groups.get(&number) == Some(&new) {
            return;
        }
        if let Some(old) = self.groups.insert(number, new) {
            for (start, len, _) in old.parts(number, &self.layout) {
                self.fixed.remove(&(start..start.saturating_add(len)));
                self.roles.remove(&start);
            }
        }
        for (start, len, role) in new.parts(number, &self.layout) {
            let end = start.saturating_add(len);
            if end > self.layout.blocks {
                continue;
            }
            self.fix(start..end);
            if let Some(role) = role {
                self.roles.insert(start, (len, role));
            }
        }
    }

    /// What is free is not metadata.
    fn learn_bitmap(&mut self, group: u64, bytes: &[u8]) {
        let all = self.layout.group_blocks(group);
        if self.moving.first_in(&all).is_none() && self.opaque.first_in(&all).is_none() {
            return;
        }
        let ratio = self.layout.cluster_blocks;
        let place = |bit: u64| {
            all.start
                .saturating_add(bit.saturating_mul(ratio))
                .min(all.end)
        };
        let mut free = 0..0;
        for (number, byte) in (0..).zip(bytes) {
            for bit in (0..8).filter(|bit| byte >> bit & 1 == 0) {
                let bit = number * 8 + bit;
                if free.end != bit {
                    self.forget(place(free.start)..place(free.end));
                    free.start = bit;
                }
                free.end = bit + 1;
            }
        }
        self.forget(place(free.start)..place(free.end));
    }

    fn learn_inodes(&mut self, group: u64, place: u64, bytes: &[u8]) {
        let per_block = self.layout.block_bytes / self.layout.inode_bytes as u64;
        let first = group * self.layout.inodes_per_group + place * per_block;
        let inodes = bytes.chunks_exact(self.layout.inode_bytes);
        for (number, bytes) in (first + 1..).zip(inodes) {
            let number = u32::try_from(number).ok();
            let number = number.filter(|number| *number <= self.layout.inodes);
            if let Some(number) = number
                && let Some(owned) = mapping::of_inode(&self.layout, number, bytes)
            {
                if let Some(block) = owned.attributes {
                    self.mark(block..block.saturating_add(1));
                }
                self.learn_parts(owned.owner, &owned.parts);
            }
        }
    }

    /// Learns what a map says of whose content is where.
    fn learn_parts(&mut self, owner: Owner, parts: &[Part]) {
        for part in parts {
            match part {
                Part::Blocks { logical, place } => {
                    let end = place.end.min(self.layout.blocks);
                    let place = place.start..end.max(place.start);
                    match owner {
                        Owner::File => self.forget(place),
                        Owner::Directory => self.mark(place),
                        Owner::Opaque => self.opaque.insert(place),
                        Owner::System => self.fix(place),
                        Owner::Journal => {
                            self.journal.add(*logical, &place);
                            self.fix(place);
                        }
                    }
                }
                Part::Node { place, tree } => self.learn_node(owner, *place, *tree),
            }
        }
    }

    /// Learns that there is a node of a map.
    fn learn_node(&mut self, owner: Owner, place: u64, tree: Tree) {
        if matches!(owner, Owner::System | Owner::Journal) {
            self.fix(place..place.saturating_add(1));
        }
        self.mark(place..place.saturating_add(1));
        // Of the maps of files, only blocks of content are below: those are known by nothing else.
        let is_last = matches!(tree, Tree::Pointers { levels: 1, .. });
        if owner == Owner::File && (is_last || tree == Tree::Extents) {
            self.nodes.remove(&place);
        } else if self.nodes.len() < NODES_MAX || self.nodes.contains_key(&place) {
            self.nodes.insert(place, (owner, tree));
        }
    }

    /// Learns from a block that may be anywhere.
    fn learn_moving(&mut self, block: u64, bytes: &[u8], written: bool) {
        let known = self.moving.contains(block) || self.nodes.contains_key(&block);
        let shape = shape::of(&self.layout, bytes);
        match shape {
            Some(shape) if known => self.learn_shape(block, shape, bytes),
            // Numbers of blocks look like many other numbers.
            Some(shape) if written && !self.live && shape != Shape::Pointers => {
                self.mark(block..block + 1);
                self.learn_shape(block, shape, bytes);
            }
            None if known && written => self.forget_looks(block),
            // In a file system that is in use, the journal has not named it: it is content.
            Some(_) | None => {}
        }
    }

    fn learn_shape(&mut self, block: u64, shape: Shape, bytes: &[u8]) {
        let node = self.nodes.get(&block).copied();
        let parts = match (node, shape) {
            (Some((_, Tree::Pointers { levels, logical })), Shape::Pointers) => {
                mapping::pointers(&self.layout, levels, logical, bytes)
            }
            (_, Shape::Extents) => mapping::extents(bytes).unwrap_or_default(),
            _ => return,
        };
        if let Some((owner, _)) = node {
            self.learn_parts(owner, &parts);
        } else {
            // Of a file, as far as is known: only more of its map is metadata.
            let is_node = |part: &&Part| matches!(part, Part::Node { .. });
            let nodes: Vec<_> = parts.iter().filter(is_node).cloned().collect();
            self.learn_parts(Owner::File, &nodes);
        }
    }

    /// These are metadata, and look like it.
    fn mark(&mut self, blocks: Range<u64>) {
        let end = blocks.end.min(self.layout.blocks);
        // What stays metadata needs no bit.
        for part in self.fixed.missing(&(blocks.start..end.max(blocks.start))) {
            self.moving.insert(part);
        }
    }

    /// These are metadata no more, unless they always are.
    fn forget(&mut self, blocks: Range<u64>) {
        self.moving.remove(blocks.clone());
        self.opaque.remove(blocks);
    }

    /// A block does not look like what it was.
    fn forget_looks(&mut self, block: u64) {
        self.moving.remove(block..block + 1);
        self.nodes.remove(&block);
    }

    /// Whether the bytes at `offset` are metadata, and how many of `len` are the same.
    pub(super) fn is_metadata(&self, offset: u64, len: u64) -> (bool, u64) {
        metadata_run(self.layout.block_bytes, offset, len, |blocks| {
            self.first_metadata(blocks)
        })
    }

    fn first_metadata(&self, blocks: &Range<u64>) -> Option<u64> {
        let fixed = self.fixed.within(blocks).next().map(|part| part.start);
        let moving = self.moving.first_in(blocks);
        let opaque = self.opaque.first_in(blocks);
        [fixed, moving, opaque].into_iter().flatten().min()
    }

    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        let maps = self.roles.len() + self.groups.len() + self.nodes.len() + self.fixed.len();
        self.moving.memory_bytes() + self.opaque.memory_bytes() + (maps + self.journal.len()) * 48
    }

    /// Nothing is needed of what is in `range`, in bytes.
    pub(super) fn discarded(&mut self, range: &Range<u64>) {
        let bytes = self.layout.block_bytes;
        let first = range.start.div_ceil(bytes);
        self.forget(first..(range.end / bytes).max(first));
    }
}

impl Group {
    /// Nothing if it has no place yet.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (low, rest) = Descriptor::ref_from_prefix(bytes).ok()?;
        let high = DescriptorHigh::ref_from_prefix(rest).map(|(high, _)| high);
        let high = |field: fn(&DescriptorHigh) -> u32| high.as_ref().map_or(0, |high| field(high));
        let whole = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let group = Self {
            block_bitmap: whole(
                low.block_bitmap_lo.get(),
                high(|all| all.block_bitmap_hi.get()),
            ),
            inode_bitmap: whole(
                low.inode_bitmap_lo.get(),
                high(|all| all.inode_bitmap_hi.get()),
            ),
            inode_table: whole(
                low.inode_table_lo.get(),
                high(|all| all.inode_table_hi.get()),
            ),
        };
        (group.inode_table != 0).then_some(group)
    }

    /// Where its parts begin, how many blocks they have, and what is learnt from them.
    fn parts(&self, number: u64, layout: &Layout) -> [(u64, u64, Option<Role>); 3] {
        [
            (self.block_bitmap, 1, Some(Role::BlockBitmap(number))),
            (self.inode_bitmap, 1, None),
            (
                self.inode_table,
                layout.inode_table_blocks(),
                Some(Role::Inodes(number)),
            ),
        ]
    }
}
