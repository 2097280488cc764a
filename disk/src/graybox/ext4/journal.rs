//! The journal of an ext4, whose blocks pass by before those at home do. Chapter "Journal (jbd2)".

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use zerocopy::FromBytes as _;
use zerocopy::byteorder::big_endian;

use super::format::{
    JOURNAL_MAGIC, JournalHeader, JournalSuperblock, RevokeHeader, Tag, Tag3, journal_block,
    journal_feature, tag_flag,
};

/// More pieces of a journal are not followed.
const PIECES_MAX: usize = 1 << 16;
/// More copies are not waited for.
const COPIES_MAX: usize = 1 << 16;

/// Where the journal is, and what is in it.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// By their first block in the journal: where it is, and how many follow it.
    pieces: BTreeMap<u64, (u64, u64)>,
    /// The same, by where they are.
    places: BTreeMap<u64, (u64, u64)>,
    superblock: Option<Features>,
    /// Blocks in which a copy is yet to come, with what it is of.
    copies: HashMap<u64, Copied>,
}

#[derive(Clone, Copy, Debug)]
struct Features {
    flags: u32,
    /// The first block behind the superblock's.
    first: u64,
    /// The one behind the last that transactions use.
    end: u64,
    /// The first transaction that matters.
    sequence: u32,
}

/// What is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) home: u64,
    /// It begins with the journal's magic number, though the copy does not.
    pub(super) escaped: bool,
}

/// What a block of the journal says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// These blocks are in a transaction: they are metadata, or content is journaled too.
    Tagged(Vec<u64>),
    /// These are metadata no more.
    Revoked(Vec<u64>),
    /// It is what another block is about to be.
    Copy(Copied),
    Nothing,
}

impl Journal {
    /// Adds a piece of the journal, from its block `logical` on.
    pub(super) fn add(&mut self, logical: u64, place: &Range<u64>) {
        let len = place.end.saturating_sub(place.start);
        if len > 0 && self.pieces.len() < PIECES_MAX {
            self.pieces.insert(logical, (place.start, len));
            self.places.insert(place.start, (logical, len));
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pieces.len() + self.places.len() + self.copies.len()
    }

    /// What number in the journal a block has.
    pub(super) fn logical(&self, block: u64) -> Option<u64> {
        let (start, (logical, len)) = self.places.range(..=block).next_back()?;
        let distance = block - start;
        (distance < *len).then(|| logical + distance)
    }

    /// Whether any of these blocks is in it.
    pub(super) fn overlaps(&self, blocks: &Range<u64>) -> bool {
        let before = self.places.range(..blocks.end).next_back();
        before.is_some_and(|(start, (_, len))| start + len > blocks.start)
    }

    fn place(&self, logical: u64) -> Option<u64> {
        let (first, (start, len)) = self.pieces.range(..=logical).next_back()?;
        let distance = logical - first;
        (distance < *len).then(|| start + distance)
    }

    /// What a block of the journal says, which is `logical` there.
    pub(super) fn passed(
        &mut self,
        (block, logical): (u64, u64),
        bytes: &[u8],
        written: bool,
    ) -> News {
        let header = JournalHeader::ref_from_prefix(bytes).map(|(header, _)| header);
        let Some(header) = header
            .ok()
            .filter(|header| header.magic.get() == JOURNAL_MAGIC)
        else {
            return self.copies.remove(&block).map_or(News::Nothing, News::Copy);
        };
        self.copies.remove(&block);
        // What is read may be of any time, and only what recovery would use counts.
        let sequence = header.sequence.get();
        let oldest = self.superblock.map_or(sequence, |all| all.sequence);
        let counts = written || sequence.wrapping_sub(oldest) < 1 << 31;
        match header.block_type.get() {
            journal_block::SUPERBLOCK_V2 if logical == 0 => self.superblock = features(bytes),
            journal_block::DESCRIPTOR if counts => return self.descriptor(logical, bytes),
            journal_block::REVOKE if counts => return News::Revoked(self.revoked(bytes)),
            _ => {}
        }
        News::Nothing
    }

    /// Notes which copies follow.
    fn descriptor(&mut self, logical: u64, bytes: &[u8]) -> News {
        let mut at = logical;
        let mut homes = Vec::new();
        for copied in tags(self.flags(), bytes) {
            at = self.behind(at);
            if let Some(place) = self.place(at)
                && (self.copies.len() < COPIES_MAX || self.copies.contains_key(&place))
            {
                self.copies.insert(place, copied);
            }
            homes.push(copied.home);
        }
        News::Tagged(homes)
    }

    /// Where a transaction goes on: at the end, it starts over.
    fn behind(&self, logical: u64) -> u64 {
        match self.superblock {
            Some(Features { first, end, .. }) if logical + 1 >= end => first,
            _ => logical + 1,
        }
    }

    /// If the superblock did not pass by, those that today's kernels use.
    fn flags(&self) -> u32 {
        self.superblock
            .map_or(journal_feature::CSUM_V3 | journal_feature::BITS_64, |all| {
                all.flags
            })
    }

    fn revoked(&self, bytes: &[u8]) -> Vec<u64> {
        let Ok((header, _)) = RevokeHeader::ref_from_prefix(bytes) else {
            return Vec::new();
        };
        let end = bytes.len().min(header.count.get() as usize);
        let records = bytes.get(size_of::<RevokeHeader>()..end);
        let records = records.unwrap_or_default();
        let width = if self.flags() & journal_feature::BITS_64 == 0 {
            4
        } else {
            8
        };
        records.chunks_exact(width).map(number).collect()
    }
}

/// A big-endian number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |all, byte| all << 8 | u64::from(*byte))
}

fn features(bytes: &[u8]) -> Option<Features> {
    let (fields, _) = JournalSuperblock::ref_from_prefix(bytes).ok()?;
    let flags = fields.feature_incompat.get();
    let fast = match fields.num_fc_blocks.get() {
        _ if flags & journal_feature::FAST_COMMIT == 0 => 0,
        // What the kernel takes where none is given.
        0 => 256,
        blocks => blocks,
    };
    let matches = fields.blocksize.get() as usize == bytes.len();
    matches.then(|| Features {
        flags,
        first: fields.first.get().into(),
        end: fields.maxlen.get().saturating_sub(fast).into(),
        sequence: fields.sequence.get(),
    })
}

/// The tags of a descriptor block.
fn tags(flags: u32, bytes: &[u8]) -> Vec<Copied> {
    const UUID_BYTES: usize = 16;
    let has = |flag| flags & flag != 0;
    let wide = has(journal_feature::BITS_64);
    let checksums = has(journal_feature::CSUM_V2) || has(journal_feature::CSUM_V3);
    let tail = if checksums { 4 } else { 0 };
    let end = bytes.len().saturating_sub(tail);
    let mut rest = bytes
        .get(size_of::<JournalHeader>()..end)
        .unwrap_or_default();
    let bytes_each = match (has(journal_feature::CSUM_V3), wide) {
        (true, _) => size_of::<Tag3>(),
        // So it is in the kernel, where a tag of version 2 has two bytes more than it needs.
        (false, true) => 12 + usize::from(has(journal_feature::CSUM_V2)) * 2,
        (false, false) => 8 + usize::from(has(journal_feature::CSUM_V2)) * 2,
    };
    let mut tags = Vec::new();
    while let Some((tag, next)) = rest.split_at_checked(bytes_each) {
        let Some((home, flags)) = tag_of(tag, has(journal_feature::CSUM_V3), wide) else {
            break;
        };
        let escaped = flags & tag_flag::ESCAPED != 0;
        tags.push(Copied { home, escaped });
        let skipped = if flags & tag_flag::SAME_UUID == 0 {
            UUID_BYTES
        } else {
            0
        };
        rest = next.get(skipped..).unwrap_or_default();
        if flags & tag_flag::LAST != 0 {
            break;
        }
    }
    tags
}

/// The block and the flags of a tag.
fn tag_of(tag: &[u8], version_3: bool, wide: bool) -> Option<(u64, u32)> {
    let (low, high, flags) = if version_3 {
        let (tag, _) = Tag3::ref_from_prefix(tag).ok()?;
        (tag.block_lo, tag.block_hi.get(), tag.flags.get())
    } else {
        let (fields, rest) = Tag::ref_from_prefix(tag).ok()?;
        let high = big_endian::U32::read_from_prefix(rest).map_or(0, |(high, _)| high.get());
        (fields.block_lo, high, fields.flags.get().into())
    };
    let high = if wide { u64::from(high) << 32 } else { 0 };
    Some((u64::from(low.get()) | high, flags))
}
