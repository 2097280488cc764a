//! The bytes of a flat image's header, without any I/O. docs/flat-format.md specifies them.
//!
//! All numbers are little-endian. The header is one sector, which no disk tears: whatever changes in
//! an image as a whole changes with one write of it.

use std::ops::Range;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::snapshots::DIRECTORY_BYTES_MAX;
use crate::format_error::FormatError;
use crate::journal::{Identity, REGION_BYTES_MAX, REGION_BYTES_MIN};
use crate::request::SECTOR_BYTES;

/// How every flat image begins.
pub const MAGIC: [u8; 8] = *b"mvflat\0\x01";
/// The size of the header.
pub(super) const HEADER_BYTES: u64 = SECTOR_BYTES;
/// The sizes that a block may have, as powers of two.
pub const BLOCK_BITS: Range<u32> = 12..21;
/// The size of a block where nothing else is asked for, as a power of two.
pub const BLOCK_BITS_DEFAULT: u32 = 16;
/// The most that a bitmap has: 128 TiB of base with blocks of 64 KiB.
pub(super) const BITMAP_BYTES_MAX: u64 = 256 << 20;
/// The sizes that a chunk of a compact image may have, as powers of two; it is no smaller than a
/// block.
pub const CHUNK_BITS: Range<u32> = 12..25;
/// The size of a chunk where nothing else is asked for, as a power of two.
pub const CHUNK_BITS_DEFAULT: u32 = 20;
/// The most that the table of a compact image has: 64 TiB with chunks of 1 MiB.
pub(super) const TABLE_BYTES_MAX: u64 = 256 << 20;
/// The most that the counts of places have: 128 TiB of places of 1 MiB.
pub(super) const COUNTS_BYTES_MAX: u64 = 256 << 20;
/// What a place takes in the counts.
pub(super) const COUNT_BYTES: u64 = 2;
/// What a chunk takes in the table.
pub(super) const ENTRY_BYTES: u64 = 4;
/// The most that the names have.
pub(super) const NAMES_BYTES_MAX: u64 = 2048;
/// What everything in the file is aligned to, but for names.
pub(super) const ALIGNMENT: u64 = 4096;
/// A disk is no larger, so that no sum overflows.
pub(super) const SIZE_BYTES_MAX: u64 = 1 << 62;
/// Where the checksum is.
const CRC_AT: usize = 8;

const VERSION: u32 = 1;
/// The image was not closed, or is in use: its journal comes before its bitmap.
const INCOMPATIBLE_JOURNAL: u64 = 1;
/// Only chunks that hold something have a place in the file, which a table tells.
const INCOMPATIBLE_COMPACT: u64 = 2;
/// There are counts of how many snapshots have each place.
const INCOMPATIBLE_SNAPSHOTS: u64 = 4;

/// The header as it is in the file.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Fields {
    magic: [u8; 8],
    /// CRC-32C of the sector, with this field 0.
    crc: U32,
    version: U32,
    incompatible: U64,
    compatible: U64,
    size_bytes: U64,
    data_offset: U64,
    covered_bytes: U64,
    base_bytes: U64,
    bitmap_offset: U64,
    bitmap_bytes: U64,
    journal_offset: U64,
    journal_bytes: U64,
    journal_identity: Identity,
    names_offset: U64,
    names_bytes: U32,
    names_crc: U32,
    block_bits: U32,
    chunk_bits: U32,
    table_offset: U64,
    table_bytes: U64,
    directory_offset: U64,
    directory_bytes: U64,
    counts_offset: U64,
    counts_bytes: U64,
    directory_crc: U32,
    counts_crc: U32,
}
const _: () = assert!(size_of::<Fields>() == 192);

/// A name's head in the names' area. Its bytes follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct NameHead {
    kind: U32,
    bytes: U32,
}

const NAME_BASE: u32 = 1;
const NAME_BASE_FORMAT: u32 = 2;
const NAME_BASE_VERSION: u32 = 3;

/// What an image stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseName {
    /// The image, as it is named: a path is relative to the image's folder.
    pub name: String,
    /// Its format, `raw` for example.
    pub format: String,
    /// What its server called the version that it had, if it is far away and has such a name.
    pub version: Option<String>,
}

/// How a compact image keeps what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// The size of a chunk, as a power of two.
    pub bits: u32,
    /// Where the table has its room.
    pub table: Range<u64>,
}

impl SnapshotParts {
    /// The same, so many bytes further on in the file.
    pub(super) fn at(self, start: u64) -> Self {
        let moved = |part: &Range<u64>| start + part.start..start + part.end;
        Self {
            directory: moved(&self.directory),
            counts: moved(&self.counts),
            ..self
        }
    }

    /// What the header says where there are none.
    fn none() -> Self {
        Self {
            directory: 0..0,
            directory_crc: 0,
            counts: 0..0,
            counts_crc: 0,
        }
    }
}

impl Chunks {
    /// The size of a chunk.
    pub fn bytes(&self) -> u64 {
        1 << self.bits
    }

    /// How many places there can be: as many as the table has room for chunks.
    pub(super) fn places_max(&self) -> u64 {
        (self.table.end - self.table.start) / ENTRY_BYTES
    }
}

/// Where a compact image says which snapshots it has, and what they have of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotParts {
    /// The directory of snapshots; empty if there are none any more.
    pub directory: Range<u64>,
    /// Its checksum.
    pub(super) directory_crc: u32,
    /// How many snapshots have each place.
    pub counts: Range<u64>,
    /// Their checksum.
    pub(super) counts_crc: u32,
}

/// The header of a flat image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The size of the disk.
    pub size_bytes: u64,
    /// The size of a block, as a power of two.
    pub block_bits: u32,
    /// Where the first byte of the disk is in the file; in a compact image, the first place.
    pub data_offset: u64,
    /// How a compact image keeps what it holds; absent if the file has the disk as a whole.
    pub chunks: Option<Chunks>,
    /// Where its snapshots are; absent if it has none.
    pub snapshots: Option<SnapshotParts>,
    /// What the image stands on; absent if it stands alone.
    pub base: Option<BaseName>,
    /// How large the base was when the image was made.
    pub base_bytes: u64,
    /// How much of the disk's beginning may come from the base.
    pub covered_bytes: u64,
    /// Where the bitmap has its room.
    pub bitmap: Range<u64>,
    /// Where the journal has its room.
    pub journal: Range<u64>,
    /// What tells the journal from earlier ones, while there is one.
    pub journal_identity: Option<Identity>,
    /// Where the names are, 0 if there are none.
    pub(super) names_offset: u64,
    /// Features that nobody needs to know.
    pub(super) compatible: u64,
}

impl Header {
    /// The size of a block.
    pub fn block_bytes(&self) -> u64 {
        1 << self.block_bits
    }

    /// How many blocks may come from the base.
    pub fn covered_blocks(&self) -> u64 {
        self.covered_bytes.div_ceil(self.block_bytes())
    }

    /// How many blocks have a bit.
    pub(super) fn bitmap_blocks(&self) -> u64 {
        match self.chunks {
            Some(_) => self.size_bytes.div_ceil(self.block_bytes()),
            None => self.covered_blocks(),
        }
    }

    /// Where the disk ends in a file that has it as a whole.
    pub(super) fn data_end(&self) -> u64 {
        self.data_offset + self.size_bytes
    }

    /// Where the file ends at least: behind whole blocks of the host, so that the last can become a
    /// hole too; that of a compact image, behind its metadata.
    pub(super) fn file_end(&self) -> u64 {
        match &self.chunks {
            Some(chunks) => {
                let parts = self.snapshots.iter();
                let parts = parts.flat_map(|parts| [parts.directory.end, parts.counts.end]);
                let ends = [self.bitmap.end, chunks.table.end].into_iter().chain(parts);
                ends.fold(self.data_offset, u64::max)
            }
            None => self.data_end().next_multiple_of(ALIGNMENT),
        }
    }

    /// The sector, and the names that it tells of.
    pub(super) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let names = self.base.as_ref().map(encode_names).unwrap_or_default();
        let chunks = self.chunks.as_ref();
        let table = chunks.map_or(0..0, |chunks| chunks.table.clone());
        let snapshots = self.snapshots.clone().unwrap_or_else(SnapshotParts::none);
        let SnapshotParts {
            directory, counts, ..
        } = &snapshots;
        let fields = Fields {
            magic: MAGIC,
            crc: 0.into(),
            version: VERSION.into(),
            incompatible: self.incompatible().into(),
            compatible: self.compatible.into(),
            size_bytes: self.size_bytes.into(),
            data_offset: self.data_offset.into(),
            covered_bytes: self.covered_bytes.into(),
            base_bytes: self.base_bytes.into(),
            bitmap_offset: self.bitmap.start.into(),
            bitmap_bytes: (self.bitmap.end - self.bitmap.start).into(),
            journal_offset: self.journal.start.into(),
            journal_bytes: (self.journal.end - self.journal.start).into(),
            journal_identity: self.journal_identity.unwrap_or_default(),
            names_offset: self.names_offset.into(),
            names_bytes: u32::try_from(names.len()).expect("names are short").into(),
            names_crc: crc32c::crc32c(&names).into(),
            block_bits: self.block_bits.into(),
            chunk_bits: self.chunks.as_ref().map_or(0, |chunks| chunks.bits).into(),
            table_offset: table.start.into(),
            table_bytes: (table.end - table.start).into(),
            directory_offset: directory.start.into(),
            directory_bytes: (directory.end - directory.start).into(),
            counts_offset: counts.start.into(),
            counts_bytes: (counts.end - counts.start).into(),
            directory_crc: snapshots.directory_crc.into(),
            counts_crc: snapshots.counts_crc.into(),
        };
        let mut sector = fields.as_bytes().to_vec();
        sector.resize(usize::try_from(HEADER_BYTES).expect("small"), 0);
        let crc = crc32c::crc32c(&sector);
        sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        (sector, names)
    }

    fn incompatible(&self) -> u64 {
        let journal = self.journal_identity.map_or(0, |_| INCOMPATIBLE_JOURNAL);
        let compact = self.chunks.as_ref().map_or(0, |_| INCOMPATIBLE_COMPACT);
        let snapshots = self
            .snapshots
            .as_ref()
            .map_or(0, |_| INCOMPATIBLE_SNAPSHOTS);
        journal | compact | snapshots
    }

    /// Takes apart what a file begins with: the sector, and what lies behind it, where the names are.
    pub(super) fn parse(start: &[u8]) -> Result<Self, FormatError> {
        let sector = &start[..start
            .len()
            .min(usize::try_from(HEADER_BYTES).expect("small"))];
        let (fields, _) = Fields::read_from_prefix(sector)
            .map_err(|_| FormatError::damaged(0, "the file is shorter than a header"))?;
        fields.check_sector(sector)?;
        let header = fields.header(start)?;
        header.check()?;
        Ok(header)
    }

    /// Refuses what no image of ours says, so that nothing overlaps and no number is too large.
    fn check(&self) -> Result<(), FormatError> {
        let is_aligned = |n: u64| n.is_multiple_of(ALIGNMENT);
        let journal_bytes = self.journal.end.saturating_sub(self.journal.start);
        let bitmap_bytes = self.bitmap.end.saturating_sub(self.bitmap.start);
        let places = self.is_before_data(&self.journal) && self.is_beside_data(&self.bitmap);
        let problem = if !BLOCK_BITS.contains(&self.block_bits) {
            "blocks have 4 KiB to 1 MiB"
        } else if self.size_bytes == 0 || !self.size_bytes.is_multiple_of(SECTOR_BYTES) {
            "the disk's size is not a multiple of 512"
        } else if self.size_bytes > SIZE_BYTES_MAX || self.data_offset > SIZE_BYTES_MAX {
            "the disk is too large"
        } else if self.covered_bytes > self.size_bytes || self.covered_bytes > self.base_bytes {
            "more comes from the base than there is"
        } else if self.base.is_none() && self.covered_bytes > 0 {
            "some of the disk comes from a base that has no name"
        } else if !places || !is_aligned(self.data_offset) {
            "the journal, the bitmap and the disk are not where they can be"
        } else if self.journal.start < self.bitmap.end && self.bitmap.start < self.journal.end {
            "the journal and the bitmap overlap"
        } else if !(REGION_BYTES_MIN..=REGION_BYTES_MAX).contains(&journal_bytes) {
            "the journal has 32 KiB to 16 MiB"
        } else if bitmap_bytes > BITMAP_BYTES_MAX {
            "the bitmap is larger than 256 MiB"
        } else if self.bitmap_blocks().div_ceil(8) > bitmap_bytes {
            "the bitmap has no room for what comes from the base"
        } else {
            return self.check_chunks();
        };
        Err(FormatError::damaged(0, problem))
    }

    /// Refuses what no compact image of ours says.
    fn check_chunks(&self) -> Result<(), FormatError> {
        let Some(Chunks { bits, table }) = &self.chunks else {
            return match self.snapshots {
                Some(_) => Err(FormatError::damaged(
                    0,
                    "only a compact image has snapshots",
                )),
                None => Ok(()),
            };
        };
        let overlaps = |part: &Range<u64>| part.start < table.end && table.start < part.end;
        let table_bytes = table.end - table.start;
        let problem = if !CHUNK_BITS.contains(bits) || *bits < self.block_bits {
            "chunks have at least the size of a block, and at most 16 MiB"
        } else if !self.is_beside_data(table) {
            "the table is not where it can be"
        } else if overlaps(&self.journal) || overlaps(&self.bitmap) {
            "the table overlaps the journal or the bitmap"
        } else if table_bytes > TABLE_BYTES_MAX {
            "the table is larger than 256 MiB"
        } else if self.size_bytes.div_ceil(1 << *bits) > table_bytes / ENTRY_BYTES {
            "the table has no room for the disk"
        } else {
            return self.check_snapshots(table);
        };
        Err(FormatError::damaged(0, problem))
    }

    /// Refuses what no image with snapshots says. `table` is that of its chunks.
    fn check_snapshots(&self, table: &Range<u64>) -> Result<(), FormatError> {
        let Some(SnapshotParts {
            directory, counts, ..
        }) = &self.snapshots
        else {
            return Ok(());
        };
        let parts = [directory, counts, &self.journal, &self.bitmap, table];
        let directory_bytes = directory.end - directory.start;
        let counts_bytes = counts.end - counts.start;
        let problem = if !self.is_beside_data(directory) || !self.is_beside_data(counts) {
            "the snapshots are not where they can be"
        } else if overlap(&parts) {
            "the snapshots overlap something else"
        } else if directory_bytes > DIRECTORY_BYTES_MAX {
            "the directory of snapshots is too large"
        } else if counts_bytes > COUNTS_BYTES_MAX || !counts_bytes.is_multiple_of(COUNT_BYTES) {
            "the counts of places have at most 256 MiB"
        } else {
            return Ok(());
        };
        Err(FormatError::damaged(0, problem))
    }

    fn is_before_data(&self, part: &Range<u64>) -> bool {
        let is_aligned = part.start.is_multiple_of(ALIGNMENT);
        is_aligned && part.start >= NAMES_END && part.end <= self.data_offset
    }

    /// Whether something is where metadata can be: before the data, or, in a compact image, in
    /// places that it takes.
    pub(super) fn is_beside_data(&self, part: &Range<u64>) -> bool {
        let is_in_places = self.chunks.is_some()
            && part.start.is_multiple_of(ALIGNMENT)
            && part.start >= self.data_offset
            && part.end <= SIZE_BYTES_MAX;
        is_in_places || self.is_before_data(part)
    }
}

/// Whether any two parts of a file have bytes in common.
pub(super) fn overlap(parts: &[&Range<u64>]) -> bool {
    let mut parts: Vec<_> = parts.iter().filter(|part| !part.is_empty()).collect();
    parts.sort_unstable_by_key(|part| part.start);
    parts.windows(2).any(|pair| pair[1].start < pair[0].end)
}

/// Where the names end at most: behind the header, there is room for two sets of them.
pub(super) const NAMES_END: u64 = HEADER_BYTES.next_multiple_of(ALIGNMENT) + 2 * NAMES_BYTES_MAX;
const _: () = assert!(NAMES_END.is_multiple_of(ALIGNMENT));

impl Fields {
    fn check_sector(&self, sector: &[u8]) -> Result<(), FormatError> {
        if self.magic != MAGIC {
            return Err(FormatError::damaged(0, "is not a flat image"));
        }
        let mut whole = sector.to_vec();
        whole.resize(usize::try_from(HEADER_BYTES).expect("small"), 0);
        whole[CRC_AT..CRC_AT + 4].fill(0);
        if crc32c::crc32c(&whole) != self.crc.get() {
            return Err(FormatError::damaged(0, "the header's checksum is wrong"));
        }
        let version = self.version.get();
        if version != VERSION {
            let problem = format!("has version {version} of the format; this program knows 1");
            return Err(FormatError::unsupported(0, problem));
        }
        let known = INCOMPATIBLE_JOURNAL | INCOMPATIBLE_COMPACT | INCOMPATIBLE_SNAPSHOTS;
        let unknown = self.incompatible.get() & !known;
        if unknown != 0 {
            let problem = format!("uses features that are unknown here ({unknown:#x})");
            return Err(FormatError::unsupported(0, problem));
        }
        Ok(())
    }

    fn header(&self, start: &[u8]) -> Result<Header, FormatError> {
        let has_journal = self.incompatible.get() & INCOMPATIBLE_JOURNAL != 0;
        let is_compact = self.incompatible.get() & INCOMPATIBLE_COMPACT != 0;
        let has_snapshots = self.incompatible.get() & INCOMPATIBLE_SNAPSHOTS != 0;
        let chunks = Chunks {
            bits: self.chunk_bits.get(),
            table: range(self.table_offset, self.table_bytes)?,
        };
        let snapshots = SnapshotParts {
            directory: range(self.directory_offset, self.directory_bytes)?,
            directory_crc: self.directory_crc.get(),
            counts: range(self.counts_offset, self.counts_bytes)?,
            counts_crc: self.counts_crc.get(),
        };
        Ok(Header {
            size_bytes: self.size_bytes.get(),
            block_bits: self.block_bits.get(),
            data_offset: self.data_offset.get(),
            chunks: is_compact.then_some(chunks),
            snapshots: has_snapshots.then_some(snapshots),
            base: self.base(start)?,
            base_bytes: self.base_bytes.get(),
            covered_bytes: self.covered_bytes.get(),
            bitmap: range(self.bitmap_offset, self.bitmap_bytes)?,
            journal: range(self.journal_offset, self.journal_bytes)?,
            journal_identity: has_journal.then_some(self.journal_identity),
            names_offset: self.names_offset.get(),
            compatible: self.compatible.get(),
        })
    }

    fn base(&self, start: &[u8]) -> Result<Option<BaseName>, FormatError> {
        let bytes = u64::from(self.names_bytes.get());
        if bytes == 0 {
            return Ok(None);
        }
        let offset = self.names_offset.get();
        let end = offset.checked_add(bytes).filter(|end| *end <= NAMES_END);
        let names = end
            .filter(|_| offset >= HEADER_BYTES && bytes <= NAMES_BYTES_MAX)
            .and_then(|end| start.get(usize::try_from(offset).ok()?..usize::try_from(end).ok()?))
            .filter(|names| crc32c::crc32c(names) == self.names_crc.get())
            .ok_or_else(|| FormatError::damaged(0, "the base's name is damaged"))?;
        parse_names(names).map(Some)
    }
}

fn range(offset: U64, bytes: U64) -> Result<Range<u64>, FormatError> {
    let (start, bytes) = (offset.get(), bytes.get());
    let end = start.checked_add(bytes);
    let end =
        end.ok_or_else(|| FormatError::damaged(0, "a part reaches past the end of all files"))?;
    Ok(start..end)
}

fn encode_names(base: &BaseName) -> Vec<u8> {
    let mut names = Vec::new();
    let both = [(NAME_BASE, &base.name), (NAME_BASE_FORMAT, &base.format)];
    let version = base
        .version
        .iter()
        .map(|version| (NAME_BASE_VERSION, version));
    for (kind, name) in both.into_iter().chain(version) {
        let head = NameHead {
            kind: kind.into(),
            bytes: u32::try_from(name.len()).expect("names are short").into(),
        };
        names.extend_from_slice(head.as_bytes());
        names.extend_from_slice(name.as_bytes());
    }
    names
}

/// Kinds that are unknown are passed over.
fn parse_names(mut names: &[u8]) -> Result<BaseName, FormatError> {
    let damaged = || FormatError::damaged(0, "the base's name is damaged");
    let (mut name, mut format, mut version) = (None, None, None);
    while !names.is_empty() {
        let (head, rest) = NameHead::read_from_prefix(names).map_err(|_| damaged())?;
        let len = head.bytes.get() as usize;
        let (text, rest) = rest.split_at_checked(len).ok_or_else(damaged)?;
        let text = || String::from_utf8(text.to_vec()).map_err(|_| damaged());
        match head.kind.get() {
            NAME_BASE => name = Some(text()?),
            NAME_BASE_FORMAT => format = Some(text()?),
            NAME_BASE_VERSION => version = Some(text()?),
            _ => {}
        }
        names = rest;
    }
    match (name, format) {
        (Some(name), Some(format)) if !name.is_empty() => Ok(BaseName {
            name,
            format,
            version,
        }),
        _ => Err(damaged()),
    }
}

/// Whether names fit in their area.
pub(super) fn names_fit(base: &BaseName) -> bool {
    let is_some = !base.name.is_empty() && !base.format.is_empty();
    is_some && encode_names(base).len() as u64 <= NAMES_BYTES_MAX
}

/// The other one of the two places for names.
pub(super) fn other_names_offset(offset: u64) -> u64 {
    let first = NAMES_END - 2 * NAMES_BYTES_MAX;
    if offset == first {
        first + NAMES_BYTES_MAX
    } else {
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            size_bytes: 1 << 30,
            block_bits: 16,
            data_offset: 8 << 20,
            chunks: None,
            snapshots: None,
            base: Some(BaseName {
                name: "base.qcow2".to_owned(),
                format: "qcow2".to_owned(),
                version: None,
            }),
            base_bytes: 1 << 29,
            covered_bytes: 1 << 29,
            bitmap: (5 << 20)..(6 << 20),
            journal: (1 << 20)..(5 << 20),
            journal_identity: None,
            names_offset: other_names_offset(0),
            compatible: 2,
        }
    }

    fn compact() -> Header {
        Header {
            chunks: Some(Chunks {
                bits: 20,
                table: (6 << 20)..(7 << 20),
            }),
            ..header()
        }
    }

    fn with_snapshots() -> Header {
        Header {
            snapshots: Some(SnapshotParts {
                directory: (9 << 20)..(9 << 20) + 80,
                directory_crc: 7,
                counts: (9 << 20) + 4096..(10 << 20),
                counts_crc: 8,
            }),
            ..compact()
        }
    }

    /// The start of the file that says so.
    fn start(header: &Header) -> Vec<u8> {
        let (mut start, names) = header.encode();
        start.resize(usize::try_from(NAMES_END).unwrap(), 0);
        let at = usize::try_from(header.names_offset).unwrap();
        start[at..at + names.len()].copy_from_slice(&names);
        start
    }

    #[test]
    fn headers_come_back() {
        let alone = Header {
            base: None,
            base_bytes: 0,
            covered_bytes: 0,
            names_offset: 0,
            ..header()
        };
        let in_use = Header {
            journal_identity: Some([7; 16]),
            names_offset: other_names_offset(other_names_offset(0)),
            ..header()
        };
        let mut versioned = header();
        if let Some(base) = &mut versioned.base {
            base.version = Some("ETag \"1\"".to_owned());
        }
        let others = [compact(), with_snapshots()];
        for header in [header(), alone, in_use, versioned]
            .into_iter()
            .chain(others)
        {
            assert_eq!(Header::parse(&start(&header)), Ok(header));
        }
    }

    #[test]
    fn damage_of_each_byte_is_found() {
        let header = with_snapshots();
        let sound = start(&header);
        let (sector, names) = header.encode();
        let names_at = usize::try_from(header.names_offset).unwrap();
        for at in (0..sector.len()).chain(names_at..names_at + names.len()) {
            let mut start = sound.clone();
            start[at] ^= 0x10;
            assert!(Header::parse(&start).is_err(), "byte {at}");
        }
        for len in 0..names_at + names.len() {
            assert!(Header::parse(&sound[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut Header);
        let broken: [(&str, Change); 11] = [
            ("4 KiB to 1 MiB", |header| header.block_bits = 63),
            ("multiple of 512", |header| header.size_bytes = 513),
            ("too large", |header| header.size_bytes = 1 << 63),
            ("more comes from the base", |header| {
                header.base_bytes -= 512;
            }),
            ("has no name", |header| header.base = None),
            ("where they can be", |header| header.bitmap = 4096..8192),
            ("where they can be", |header| header.data_offset = 4096),
            ("overlap", |header| header.bitmap = (4 << 20)..(6 << 20)),
            ("32 KiB to 16 MiB", |header| {
                header.journal.end -= (4 << 20) - 4096;
            }),
            ("256 MiB", |header| {
                header.data_offset = 1 << 40;
                header.bitmap.end = 1 << 30;
            }),
            ("no room", |header| header.bitmap.end = header.bitmap.start),
        ];
        for (problem, change) in broken {
            let mut header = header();
            change(&mut header);
            let error = Header::parse(&start(&header)).unwrap_err();
            assert!(error.problem.contains(problem), "{problem}: {error:?}");
        }
    }

    #[test]
    fn what_no_compact_image_has_is_refused() {
        type Change = fn(&mut Header, &mut Chunks);
        let broken: [(&str, Change); 8] = [
            ("size of a block", |header, chunks| {
                (header.block_bits, chunks.bits) = (16, 15);
            }),
            ("at most 16 MiB", |_, chunks| chunks.bits = 25),
            ("where it can be", |_, chunks| chunks.table.start = 4096),
            ("where it can be", |_, chunks| {
                chunks.table.end = (8 << 20) + 4096;
            }),
            ("overlaps", |_, chunks| chunks.table.start -= 4096),
            ("256 MiB", |header, chunks| {
                chunks.table = header.data_offset..1 << 30;
            }),
            ("table has no room", |header, _| {
                header.size_bytes = 1 << 40;
                header.bitmap = (64 << 20)..(80 << 20);
            }),
            ("bitmap has no room", |header, _| {
                header.size_bytes = 1 << 50;
            }),
        ];
        for (problem, change) in broken {
            let mut header = compact();
            let mut chunks = header.chunks.take().unwrap();
            change(&mut header, &mut chunks);
            header.chunks = Some(chunks);
            let error = Header::parse(&start(&header)).unwrap_err();
            assert!(error.problem.contains(problem), "{problem}: {error:?}");
        }
        let mut in_places = compact();
        in_places.bitmap = (12 << 20)..(13 << 20);
        assert_eq!(Header::parse(&start(&in_places)), Ok(in_places));
    }

    #[test]
    fn what_no_image_with_snapshots_has_is_refused() {
        type Change = fn(&mut Header, &mut SnapshotParts);
        let broken: [(&str, Change); 11] = [
            ("only a compact image", |header, _| header.chunks = None),
            ("where they can be", |_, parts| parts.directory = 4096..4176),
            ("where they can be", |_, parts| parts.counts.start += 512),
            ("where they can be", |header, parts| {
                parts.counts = header.data_offset - 4096..header.data_offset + 4096;
            }),
            ("overlap", |header, parts| {
                parts.counts = header.bitmap.clone();
            }),
            ("overlap", |header, parts| {
                parts.counts = header.journal.start..header.journal.start + 2;
            }),
            ("overlap", |header, parts| {
                parts.directory = header.bitmap.end..header.bitmap.end + 80;
            }),
            ("overlap", |_, parts| parts.directory.end = 10 << 20),
            ("too large", |_, parts| {
                parts.directory = (16 << 20)..(16 << 20) + DIRECTORY_BYTES_MAX + 1;
            }),
            ("256 MiB", |_, parts| parts.counts = (1 << 30)..(2 << 30)),
            ("256 MiB", |_, parts| parts.counts.end += 1),
        ];
        for (problem, change) in broken {
            let mut header = with_snapshots();
            let mut parts = header.snapshots.take().unwrap();
            change(&mut header, &mut parts);
            header.snapshots = Some(parts);
            let error = Header::parse(&start(&header)).unwrap_err();
            assert!(error.problem.contains(problem), "{problem}: {error:?}");
        }
        // None are left, but chunks have more places than the table has room for.
        let mut no_more = with_snapshots();
        if let Some(parts) = &mut no_more.snapshots {
            parts.directory = parts.counts.start..parts.counts.start;
        }
        assert_eq!(Header::parse(&start(&no_more)), Ok(no_more));
    }

    #[test]
    fn features_and_versions_that_are_unknown_are_not_touched() {
        for (at, value) in [(12, 2), (16, 8)] {
            let mut start = start(&header());
            start[at] = value;
            start[CRC_AT..CRC_AT + 4].fill(0);
            let crc = crc32c::crc32c(&start[..512]);
            start[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
            assert!(Header::parse(&start).unwrap_err().unsupported);
        }
    }
}
