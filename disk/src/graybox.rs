//! Which blocks of a disk are metadata, told from nothing but the blocks that pass by: what the
//! guest reads and writes. docs/classes.md says what is told apart and how well.
//!
//! Everything that passes by may be made to deceive. It decides what is kept close, and nothing
//! else: all numbers are checked, all loops and all memory are bounded.

mod bits;
mod btrfs;
mod ext4;
mod partitions;
mod passing;
mod xfs;

use std::cell::RefCell;
use std::ops::Range;

use crate::{Buffers, Class, Classifier};
use btrfs::Btrfs;
use ext4::Ext4;
use partitions::Partitions;
use passing::Passing;
use xfs::Xfs;

/// Tells metadata of ext2, ext3, ext4, XFS and btrfs from everything else, on the whole disk or in
/// its partitions.
pub struct GrayBox {
    seen: RefCell<Seen>,
}

/// A file system, as a guest names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VolumeName {
    /// One whose addresses are those of its volume: that of a partition by its number, in the order of
    /// the disk from 1 on, or for 0 that of a disk without partitions.
    Partition(usize),
    /// A btrfs, whose addresses are its own, by `f_fsid` of statfs(2).
    Btrfs([u32; 2]),
}

struct Seen {
    size_bytes: u64,
    partitions: Partitions,
    /// In the order of the disk. They do not overlap.
    volumes: Vec<Volume>,
}

/// A partition, or all of a disk that has none.
struct Volume {
    range: Range<u64>,
    file_system: Option<FileSystem>,
}

enum FileSystem {
    Ext4(Box<Ext4>),
    Xfs(Box<Xfs>),
    Btrfs(Box<Btrfs>),
}

impl GrayBox {
    /// For a disk of `size_bytes` of which nothing has passed by.
    pub fn new(size_bytes: u64) -> Self {
        let seen = Seen {
            size_bytes,
            partitions: Partitions::new(size_bytes),
            volumes: vec![Volume::new(0..size_bytes)],
        };
        Self {
            seen: RefCell::new(seen),
        }
    }

    /// Where the bytes `addresses` of a file system are on the disk, in bytes from its start: nowhere
    /// if no such file system is known, or only in part where the rest is not known or is on another
    /// disk; and twice where btrfs keeps two copies. The places do not overlap.
    pub fn places(&self, name: VolumeName, addresses: &Range<u64>) -> Vec<Range<u64>> {
        let seen = self.seen.borrow();
        match name {
            VolumeName::Partition(number) => {
                let volume = seen.numbered(number);
                let place = volume.and_then(|volume| volume.place(addresses));
                place.into_iter().collect()
            }
            VolumeName::Btrfs(id) => {
                let volumes = seen.volumes.iter();
                let places = volumes.flat_map(|volume| volume.places_in_btrfs(id, addresses));
                places.collect()
            }
        }
    }

    /// Roughly what is remembered, in bytes.
    #[cfg(test)]
    fn memory_bytes(&self) -> usize {
        let seen = self.seen.borrow();
        let systems = seen.volumes.iter().flat_map(|volume| &volume.file_system);
        systems
            .map(|system| match system {
                FileSystem::Ext4(known) => known.memory_bytes(),
                FileSystem::Xfs(known) => known.memory_bytes(),
                FileSystem::Btrfs(known) => known.memory_bytes(),
            })
            .sum()
    }

    fn passed(&self, offset: u64, content: &Buffers, written: bool) {
        let passing = Passing::new(offset, content, written);
        let mut seen = self.seen.borrow_mut();
        if seen.partitions.passed(&passing) {
            seen.part();
        }
        for volume in seen.volumes_in(&passing.range()) {
            if let Some(passing) = passing.within(&volume.range) {
                volume.passed(&passing);
            }
        }
    }
}

/// Whether the bytes at `offset` are metadata, and how many of `len` are the same, where
/// `first_metadata` says which of some blocks is the first that is.
fn metadata_run(
    block_bytes: u64,
    offset: u64,
    len: u64,
    first_metadata: impl Fn(&Range<u64>) -> Option<u64>,
) -> (bool, u64) {
    let end = offset.saturating_add(len);
    let blocks = offset / block_bytes..end.div_ceil(block_bytes);
    let first = first_metadata(&blocks).unwrap_or(blocks.end);
    if first > blocks.start {
        return (false, (first * block_bytes).min(end) - offset);
    }
    let is_one = |block: &u64| first_metadata(&(*block..block + 1)).is_some();
    let other = blocks.clone().find(|block| !is_one(block));
    let other = other.unwrap_or(blocks.end);
    (true, other.saturating_mul(block_bytes).min(end) - offset)
}

impl Classifier for GrayBox {
    fn class_of(&self, offset: u64, len: u64) -> (Class, u64) {
        let (is_metadata, len) = self.seen.borrow().is_metadata(offset, len);
        let class = if is_metadata {
            Class::Metadata
        } else {
            Class::Other
        };
        (class, len)
    }

    fn written(&self, offset: u64, content: &Buffers) {
        self.passed(offset, content, true);
    }

    fn read(&self, offset: u64, content: &Buffers) {
        self.passed(offset, content, false);
    }

    fn discarded(&self, range: Range<u64>) {
        let mut seen = self.seen.borrow_mut();
        for volume in seen.volumes_in(&range) {
            let from = range.start.max(volume.range.start) - volume.range.start;
            let to = range.end.min(volume.range.end) - volume.range.start;
            volume.discarded(&(from..to));
        }
    }
}

impl Seen {
    /// Keeps what is known of partitions that are as they were.
    fn part(&mut self) {
        let found = self.partitions.found();
        let whole = 0..self.size_bytes;
        let ranges = if found.is_empty() {
            std::slice::from_ref(&whole)
        } else {
            found
        };
        let mut before = std::mem::take(&mut self.volumes);
        self.volumes = ranges
            .iter()
            .map(|range| {
                let same = before.iter_mut().find(|volume| volume.range == *range);
                Volume {
                    range: range.clone(),
                    file_system: same.and_then(|volume| volume.file_system.take()),
                }
            })
            .collect();
    }

    /// The volume of a partition by its number, or for 0 that of a disk without partitions.
    fn numbered(&self, partition: usize) -> Option<&Volume> {
        let parted = !self.partitions.found().is_empty();
        match partition.checked_sub(1) {
            Some(index) if parted => self.volumes.get(index),
            None if !parted => self.volumes.first(),
            _ => None,
        }
    }

    fn volumes_in(&mut self, range: &Range<u64>) -> &mut [Volume] {
        let first = self
            .volumes
            .partition_point(|at| at.range.end <= range.start);
        let end = self
            .volumes
            .partition_point(|at| at.range.start < range.end);
        &mut self.volumes[first..end.max(first)]
    }

    fn is_metadata(&self, offset: u64, len: u64) -> (bool, u64) {
        let next = self.volumes.partition_point(|at| at.range.end <= offset);
        let volume = self.volumes.get(next);
        let start = volume.map_or(u64::MAX, |volume| volume.range.start);
        if let Some(volume) = volume.filter(|_| start <= offset) {
            return volume.is_metadata(offset - start, len.min(volume.range.end - offset));
        }
        // Beside all volumes.
        let range = offset..offset.saturating_add(len).min(start);
        match self.partitions.tables().within(&range).next() {
            Some(part) if part.start == offset => (true, part.end - offset),
            Some(part) => (false, part.start - offset),
            None => (false, range.end - offset),
        }
    }
}

impl Volume {
    fn new(range: Range<u64>) -> Self {
        Self {
            range,
            file_system: None,
        }
    }

    fn size_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn passed(&mut self, passing: &Passing) {
        self.find(passing);
        match &mut self.file_system {
            Some(FileSystem::Ext4(known)) => known.passed(passing),
            Some(FileSystem::Xfs(known)) => known.passed(passing),
            Some(FileSystem::Btrfs(known)) => known.passed(passing),
            None => {}
        }
    }

    /// Looks for superblocks. A newer one of another kind has replaced the older.
    fn find(&mut self, passing: &Passing) {
        let size_bytes = self.size_bytes();
        let bytes = passing.bytes(ext4::format::SUPERBLOCK_AT);
        if let Some(found) = bytes.and_then(|bytes| ext4::Found::parse(&bytes, size_bytes)) {
            match &mut self.file_system {
                Some(FileSystem::Ext4(known)) => known.superblock(found),
                other => *other = Some(FileSystem::Ext4(Box::new(Ext4::new(found)))),
            }
        }
        let bytes = passing.bytes(0);
        if let Some(layout) = bytes.and_then(|bytes| xfs::Layout::parse(&bytes, size_bytes)) {
            match &mut self.file_system {
                Some(FileSystem::Xfs(known)) => known.superblock(layout),
                other => *other = Some(FileSystem::Xfs(Box::new(Xfs::new(layout)))),
            }
        }
        for at in btrfs::format::SUPERBLOCKS_AT {
            let bytes = passing.bytes(at);
            if let Some(found) = bytes.and_then(|bytes| btrfs::Found::parse(&bytes, at)) {
                match &mut self.file_system {
                    Some(FileSystem::Btrfs(known)) => known.superblock(&found),
                    // A copy may be what is left of an earlier one.
                    other if at == btrfs::format::SUPERBLOCKS_AT[0] => {
                        *other = Some(FileSystem::Btrfs(Box::new(Btrfs::new(&found))));
                    }
                    _ => {}
                }
            }
        }
    }

    /// Where the bytes `addresses` of this volume are on the disk, if its file system has no other
    /// addresses.
    fn place(&self, addresses: &Range<u64>) -> Option<Range<u64>> {
        match self.file_system.as_ref()? {
            FileSystem::Ext4(_) | FileSystem::Xfs(_) => self.on_disk(addresses),
            FileSystem::Btrfs(_) => None,
        }
    }

    /// Where the bytes `addresses` of the btrfs with this `f_fsid` are on the disk, as far as they are
    /// in this volume.
    fn places_in_btrfs(&self, id: [u32; 2], addresses: &Range<u64>) -> Vec<Range<u64>> {
        match &self.file_system {
            Some(FileSystem::Btrfs(known)) if known.is_named(id) => {
                let places = known.places(addresses);
                places.filter_map(|place| self.on_disk(&place)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What of `range` is in this volume, from the start of the disk.
    fn on_disk(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let start = self.range.start.checked_add(range.start)?;
        let end = self.range.start.saturating_add(range.end);
        let end = end.min(self.range.end);
        (start < end).then_some(start..end)
    }

    fn is_metadata(&self, offset: u64, len: u64) -> (bool, u64) {
        match &self.file_system {
            Some(FileSystem::Ext4(known)) => known.is_metadata(offset, len),
            Some(FileSystem::Xfs(known)) => known.is_metadata(offset, len),
            Some(FileSystem::Btrfs(known)) => known.is_metadata(offset, len),
            None => (false, len),
        }
    }

    fn discarded(&mut self, range: &Range<u64>) {
        let size_bytes = self.size_bytes();
        match &mut self.file_system {
            // It is about to be another, or none.
            Some(_) if range.start == 0 && range.end >= size_bytes => self.file_system = None,
            Some(FileSystem::Ext4(known)) => known.discarded(range),
            Some(FileSystem::Xfs(known)) => known.discarded(range),
            Some(FileSystem::Btrfs(known)) => known.discarded(range),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests;
