//! The partitions of a disk, from the tables that pass by: that of a master boot record with its
//! chain of logical partitions, or a GUID partition table (UEFI specification, chapter 5).

use std::collections::BTreeMap;
use std::ops::Range;

use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::passing::Passing;
use crate::ranges::Ranges;

const SECTOR: u64 = 512;
/// The start of the disk that is kept, with all of a usual table.
const HEAD_BYTES: usize = 32 << 10;
const HEAD_SECTORS: usize = HEAD_BYTES / 512;
/// More logical partitions are not followed.
const LOGICAL_MAX: usize = 128;
/// More partitions are not told apart.
const ENTRIES_MAX: u32 = 128;

/// Sizes that a logical block may have.
const BLOCK_BYTES: [u64; 2] = [512, 4096];

/// An entry of a master boot record.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Entry {
    status: u8,
    _first_chs: [u8; 3],
    kind: u8,
    _last_chs: [u8; 3],
    start: U32,
    sectors: U32,
}

/// A master boot record, and what each logical partition begins with.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct BootRecord {
    _code: [u8; 446],
    entries: [Entry; 4],
    signature: U16,
}
const _: () = assert!(size_of::<BootRecord>() == 512);
const SIGNATURE: u16 = 0xAA55;
/// The kinds of an entry for all that logical partitions are in.
const EXTENDED: [u8; 3] = [0x05, 0x0F, 0x85];
/// The status of an entry that is booted from.
const ACTIVE: u8 = 0x80;
/// The kind of the one entry beside a GUID partition table.
const PROTECTIVE: u8 = 0xEE;

/// UEFI specification, table 5-5.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct GptHeader {
    signature: [u8; 8],
    revision: U32,
    header_bytes: U32,
    crc: U32,
    reserved: U32,
    own: U64,
    other: U64,
    first_usable: U64,
    last_usable: U64,
    disk: [u8; 16],
    entries: U64,
    entry_count: U32,
    entry_bytes: U32,
    entries_crc: U32,
}
const GPT_SIGNATURE: [u8; 8] = *b"EFI PART";
const GPT_HEADER_BYTES: usize = size_of::<GptHeader>();
const _: () = assert!(GPT_HEADER_BYTES == 92);

/// How an entry begins. UEFI specification, table 5-6.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct GptEntry {
    kind: [u8; 16],
    _own: [u8; 16],
    first: U64,
    last: U64,
}

/// The tables, as far as they passed by.
pub(super) struct Partitions {
    size_bytes: u64,
    head: Box<[u8]>,
    /// Sectors of `head` that passed by.
    known: u64,
    /// The first sectors of logical partitions, by where they are; absent where they did not pass.
    logical: BTreeMap<u64, Option<[u8; 512]>>,
    /// What the tables take.
    tables: Ranges,
    /// Partitions, in order; they do not overlap.
    found: Vec<Range<u64>>,
}

impl Partitions {
    pub(super) fn new(size_bytes: u64) -> Self {
        Self {
            size_bytes,
            head: vec![0; HEAD_BYTES].into(),
            known: 0,
            logical: BTreeMap::new(),
            tables: Ranges::default(),
            found: Vec::new(),
        }
    }

    /// All that are known, in order.
    pub(super) fn found(&self) -> &[Range<u64>] {
        &self.found
    }

    /// What the tables take, in bytes.
    pub(super) fn tables(&self) -> &Ranges {
        &self.tables
    }

    /// Learns from what passes by; whether the partitions are others now.
    pub(super) fn passed(&mut self, passing: &Passing) -> bool {
        let mut changed = false;
        let range = passing.range();
        let last = range.end.min(HEAD_BYTES as u64);
        for sector in range.start / SECTOR..last.div_ceil(SECTOR).max(range.start / SECTOR) {
            changed |= self.keep(sector, passing);
        }
        for (at, kept) in self.logical.range_mut(range) {
            let bytes = passing.bytes(*at);
            changed |= bytes.is_some() && bytes != *kept;
            *kept = bytes.or(*kept);
        }
        changed && self.parse()
    }

    /// Keeps a sector of the head; whether it is another now.
    fn keep(&mut self, sector: u64, passing: &Passing) -> bool {
        let Some(bytes) = passing.bytes::<512>(sector * SECTOR) else {
            return false;
        };
        let place = usize::try_from(sector).ok();
        let place = place.filter(|place| *place < HEAD_SECTORS);
        let kept = place.and_then(|place| self.head.get_mut(place * 512..(place + 1) * 512));
        let Some(kept) = kept else {
            return false;
        };
        let known = self.known | 1 << sector;
        let changed = *kept != bytes || known != self.known;
        kept.copy_from_slice(&bytes);
        self.known = known;
        changed
    }

    fn parse(&mut self) -> bool {
        let before = std::mem::take(&mut self.found);
        self.tables = Ranges::default();
        let sector = self.head.first_chunk::<512>().copied();
        let record = sector.and_then(|sector| BootRecord::read_from_bytes(&sector).ok());
        if let Some(record) = record.filter(|record| record.is_sane(self.size_bytes)) {
            self.tables.insert(0..SECTOR);
            if record.entries.iter().any(|entry| entry.kind == PROTECTIVE) {
                self.parse_gpt();
            } else {
                self.parse_entries(&record);
            }
        }
        self.found.sort_unstable_by_key(|range| range.start);
        let overlap = |pair: &[Range<u64>]| pair[0].end > pair[1].start;
        if self.found.windows(2).any(overlap) {
            self.found.clear();
        }
        self.found != before
    }

    fn parse_entries(&mut self, record: &BootRecord) {
        let mut wanted = BTreeMap::new();
        for entry in record.entries.iter().filter(|entry| entry.is_used()) {
            let range = entry.range(0);
            if EXTENDED.contains(&entry.kind) {
                self.parse_logical(&range, &mut wanted);
            } else {
                self.found.push(range);
            }
        }
        self.logical = wanted;
    }

    /// Follows the chain of logical partitions in `extended`, as far as it passed by.
    fn parse_logical(
        &mut self,
        extended: &Range<u64>,
        wanted: &mut BTreeMap<u64, Option<[u8; 512]>>,
    ) {
        let mut at = extended.start;
        while wanted.len() < LOGICAL_MAX && !wanted.contains_key(&at) {
            let bytes = self.logical.get(&at).copied().flatten();
            wanted.insert(at, bytes);
            let record = bytes.and_then(|bytes| BootRecord::read_from_bytes(&bytes).ok());
            let Some(record) = record.filter(|record| record.signature.get() == SIGNATURE) else {
                return;
            };
            self.tables.insert(at..at + SECTOR);
            let [own, next, ..] = record.entries;
            let range = own.range(at);
            if own.is_used() && range.end <= extended.end {
                self.found.push(range);
            }
            at = next.range(extended.start).start;
            if !next.is_used() || at >= extended.end {
                return;
            }
        }
    }

    fn parse_gpt(&mut self) {
        for block_bytes in BLOCK_BYTES {
            if let Some((header, found)) = self.gpt(block_bytes) {
                let entries = u64::from(header.entry_count.get() * header.entry_bytes.get());
                let first = header.entries.get().saturating_mul(block_bytes);
                let end = first.saturating_add(entries).min(self.size_bytes);
                self.tables.insert(0..end);
                // The copy at the end: the entries, and then the header.
                let copied = entries.next_multiple_of(block_bytes) + block_bytes;
                let copy = self.size_bytes.saturating_sub(copied);
                self.tables.insert(copy..self.size_bytes);
                self.found = found;
                return;
            }
        }
    }

    /// The table, if all of it passed by and its checksums are right.
    fn gpt(&self, block_bytes: u64) -> Option<(GptHeader, Vec<Range<u64>>)> {
        let bytes = self.known_bytes(block_bytes, GPT_HEADER_BYTES as u64)?;
        let header = GptHeader::read_from_bytes(bytes).ok()?;
        let plain = GptHeader {
            crc: 0.into(),
            ..header
        };
        let is_good = header.signature == GPT_SIGNATURE
            && header.header_bytes.get() as usize == GPT_HEADER_BYTES
            && crc32(plain.as_bytes()) == header.crc.get();
        let (count, each) = (header.entry_count.get(), header.entry_bytes.get());
        if !is_good || count > ENTRIES_MAX || !(128..=512).contains(&each) {
            return None;
        }
        let at = header.entries.get().checked_mul(block_bytes)?;
        let entries = self.known_bytes(at, u64::from(count * each))?;
        if crc32(entries) != header.entries_crc.get() {
            return None;
        }
        let entries = entries.chunks_exact(each as usize);
        let found = entries.filter_map(|entry| self.gpt_range(entry, block_bytes));
        Some((header, found.collect()))
    }

    fn gpt_range(&self, entry: &[u8], block_bytes: u64) -> Option<Range<u64>> {
        let (entry, _) = GptEntry::read_from_prefix(entry).ok()?;
        let start = entry.first.get().checked_mul(block_bytes)?;
        let end = entry.last.get().checked_add(1)?.checked_mul(block_bytes)?;
        let is_used = entry.kind != [0; 16] && start < end && end <= self.size_bytes;
        is_used.then_some(start..end)
    }

    /// What is at `offset`, if all of it passed by.
    fn known_bytes(&self, offset: u64, len: u64) -> Option<&[u8]> {
        let end = offset.checked_add(len)?;
        let mut sectors = offset / SECTOR..end.div_ceil(SECTOR);
        let is_known = end <= HEAD_BYTES as u64 && sectors.all(|at| self.known >> at & 1 == 1);
        let (start, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        self.head.get(start..end).filter(|_| is_known)
    }
}

impl BootRecord {
    /// Whether it is one, and not what a file system has at its start.
    fn is_sane(&self, size_bytes: u64) -> bool {
        let is_good = |entry: &Entry| {
            let range = entry.range(0);
            let fits = range.start > 0 && range.end > range.start && range.end <= size_bytes;
            // One beside a GUID partition table may say too much.
            !entry.is_used() || fits || entry.kind == PROTECTIVE
        };
        self.signature.get() == SIGNATURE
            && self
                .entries
                .iter()
                .all(|entry| matches!(entry.status, 0 | ACTIVE))
            && self.entries.iter().all(is_good)
            && self.entries.iter().any(Entry::is_used)
    }
}

impl Entry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors.get() != 0
    }

    /// In bytes, where `base` is what it counts from.
    fn range(&self, base: u64) -> Range<u64> {
        let start = base + u64::from(self.start.get()) * SECTOR;
        start..start + u64::from(self.sectors.get()) * SECTOR
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
