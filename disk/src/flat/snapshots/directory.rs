//! The directory of snapshots, without any I/O. docs/flat-format.md specifies it.

use std::collections::BTreeSet;
use std::ops::Range;

use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::flat::format::{
    ALIGNMENT, BITMAP_BYTES_MAX, Chunks, ENTRY_BYTES, Header, SIZE_BYTES_MAX, TABLE_BYTES_MAX,
};
use crate::format_error::FormatError;
use crate::request::SECTOR_BYTES;
use crate::storage::len;

/// An image has no more snapshots, so that all of its directory is in memory.
pub(in crate::flat) const SNAPSHOTS_MAX: usize = 1024;
/// The most bytes that a name has.
pub(in crate::flat) const NAME_BYTES_MAX: usize = 255;
/// What an entry is padded to.
const ENTRY_ALIGNMENT: usize = 8;
/// The most that a directory has.
pub(in crate::flat) const DIRECTORY_BYTES_MAX: u64 =
    (SNAPSHOTS_MAX * (size_of::<EntryHead>() + NAME_BYTES_MAX + 1)) as u64;
/// The copy of a bitmap is made of whole words.
const WORD_BYTES: u64 = 8;

/// What an entry begins with. The name follows, and zeros up to a multiple of 8 bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct EntryHead {
    id: U64,
    date_seconds: U64,
    date_ns: U32,
    name_bytes: U32,
    size_bytes: U64,
    covered_bytes: U64,
    table_offset: U64,
    bitmap_offset: U64,
    table_crc: U32,
    bitmap_crc: U32,
}
const _: () = assert!(size_of::<EntryHead>() == 64);

/// A snapshot in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// A number that no later one of the image has.
    pub id: u64,
    /// What the user calls it.
    pub name: String,
    /// When it was taken, in seconds since 1970.
    pub date_seconds: u64,
    /// The nanoseconds of that.
    pub date_ns: u32,
    /// The size that the disk had.
    pub size_bytes: u64,
    /// How much of the disk's beginning may come from the base.
    pub(in crate::flat) covered_bytes: u64,
    /// Where the table is that the disk had.
    pub(in crate::flat) table_offset: u64,
    /// Its checksum.
    pub(in crate::flat) table_crc: u32,
    /// Where the bitmap is that the disk had.
    pub(in crate::flat) bitmap_offset: u64,
    /// Its checksum.
    pub(in crate::flat) bitmap_crc: u32,
}

impl Snapshot {
    /// Where the table is that the disk had.
    pub(in crate::flat) fn table(&self, chunks: &Chunks) -> Range<u64> {
        let bytes = self.size_bytes.div_ceil(chunks.bytes()) * ENTRY_BYTES;
        self.table_offset..self.table_offset + bytes
    }

    /// Where the bitmap is that the disk had.
    pub(in crate::flat) fn bitmap(&self, header: &Header) -> Range<u64> {
        let blocks = self.size_bytes.div_ceil(header.block_bytes());
        let bytes = blocks.div_ceil(8).next_multiple_of(WORD_BYTES);
        self.bitmap_offset..self.bitmap_offset + bytes
    }

    fn encode(&self, directory: &mut Vec<u8>) {
        let name_bytes = u32::try_from(self.name.len()).expect("names are short");
        let head = EntryHead {
            id: self.id.into(),
            date_seconds: self.date_seconds.into(),
            date_ns: self.date_ns.into(),
            name_bytes: name_bytes.into(),
            size_bytes: self.size_bytes.into(),
            covered_bytes: self.covered_bytes.into(),
            table_offset: self.table_offset.into(),
            bitmap_offset: self.bitmap_offset.into(),
            table_crc: self.table_crc.into(),
            bitmap_crc: self.bitmap_crc.into(),
        };
        directory.extend_from_slice(head.as_bytes());
        directory.extend_from_slice(self.name.as_bytes());
        directory.resize(directory.len().next_multiple_of(ENTRY_ALIGNMENT), 0);
    }

    /// Takes apart what a directory has from some entry on. Also how long that entry is.
    fn parse(bytes: &[u8]) -> Result<(Self, usize), &'static str> {
        let (head, rest) =
            EntryHead::read_from_prefix(bytes).map_err(|_| "the directory is cut off")?;
        let name_bytes = len(head.name_bytes.get().into());
        if !(1..=NAME_BYTES_MAX).contains(&name_bytes) {
            return Err("a snapshot's name has 1 to 255 bytes");
        }
        let entry_bytes = (size_of::<EntryHead>() + name_bytes).next_multiple_of(ENTRY_ALIGNMENT);
        let name = rest
            .get(..name_bytes)
            .filter(|_| entry_bytes <= bytes.len())
            .ok_or("the directory is cut off")?;
        let name =
            String::from_utf8(name.to_vec()).map_err(|_| "a snapshot's name is not UTF-8")?;
        let snapshot = Self {
            id: head.id.get(),
            name,
            date_seconds: head.date_seconds.get(),
            date_ns: head.date_ns.get(),
            size_bytes: head.size_bytes.get(),
            covered_bytes: head.covered_bytes.get(),
            table_offset: head.table_offset.get(),
            table_crc: head.table_crc.get(),
            bitmap_offset: head.bitmap_offset.get(),
            bitmap_crc: head.bitmap_crc.get(),
        };
        Ok((snapshot, entry_bytes))
    }

    /// What no snapshot of ours says.
    fn problem(&self, header: &Header, chunks: &Chunks) -> Option<&'static str> {
        let is_size = (1..=SIZE_BYTES_MAX).contains(&self.size_bytes)
            && self.size_bytes.is_multiple_of(SECTOR_BYTES);
        if !is_size {
            return Some("a snapshot's size is not a multiple of 512");
        }
        let covers_more =
            self.covered_bytes > self.size_bytes || self.covered_bytes > header.base_bytes;
        if covers_more || (self.covered_bytes > 0 && header.base.is_none()) {
            return Some("more of a snapshot comes from the base than there is");
        }
        let is_far = |offset: u64| offset > SIZE_BYTES_MAX || !offset.is_multiple_of(ALIGNMENT);
        if is_far(self.table_offset) || is_far(self.bitmap_offset) {
            return Some("a snapshot's tables are not where they can be");
        }
        let (table, bitmap) = (self.table(chunks), self.bitmap(header));
        if !header.is_beside_data(&table) || !header.is_beside_data(&bitmap) {
            return Some("a snapshot's tables are not where they can be");
        }
        let is_large = |part: &Range<u64>, max| part.end - part.start > max;
        (is_large(&table, TABLE_BYTES_MAX) || is_large(&bitmap, BITMAP_BYTES_MAX))
            .then_some("a snapshot is too large")
    }
}

/// The bytes of a directory.
pub(super) fn encode(snapshots: &[Snapshot]) -> Vec<u8> {
    let mut directory = Vec::new();
    for snapshot in snapshots {
        snapshot.encode(&mut directory);
    }
    directory
}

/// Takes the directory apart that is at `offset` of the file of a compact image.
pub(super) fn parse(
    bytes: &[u8],
    offset: u64,
    header: &Header,
    chunks: &Chunks,
) -> Result<Vec<Snapshot>, FormatError> {
    let (mut snapshots, mut names, mut at) = (Vec::new(), BTreeSet::new(), 0);
    while at < bytes.len() {
        let damaged = |problem| FormatError::damaged(offset + at as u64, problem);
        let (snapshot, entry_bytes) = Snapshot::parse(&bytes[at..]).map_err(damaged)?;
        if let Some(problem) = snapshot.problem(header, chunks) {
            return Err(damaged(problem));
        }
        let last = snapshots.last().map_or(0, |last: &Snapshot| last.id);
        if snapshot.id <= last || !names.insert(snapshot.name.clone()) {
            return Err(damaged("two snapshots have one number or name"));
        }
        if snapshots.len() == SNAPSHOTS_MAX {
            return Err(damaged("there are more than 1024 snapshots"));
        }
        snapshots.push(snapshot);
        at += entry_bytes;
    }
    Ok(snapshots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::CreateOptions;

    fn header() -> Header {
        let mut options = CreateOptions::new(1 << 30);
        options.chunk_bits = Some(20);
        options.header().unwrap()
    }

    fn snapshot(id: u64, name: &str) -> Snapshot {
        let start = header().data_offset + (id << 20);
        Snapshot {
            id,
            name: name.to_owned(),
            date_seconds: 1_700_000_000,
            date_ns: 999,
            size_bytes: (1 << 30) - 512,
            covered_bytes: 0,
            table_offset: start,
            table_crc: 7,
            bitmap_offset: start + 4096,
            bitmap_crc: 8,
        }
    }

    fn parsed(bytes: &[u8]) -> Result<Vec<Snapshot>, FormatError> {
        let header = header();
        parse(bytes, 4096, &header, header.chunks.as_ref().unwrap())
    }

    #[test]
    fn directories_come_back() {
        let longest = "x".repeat(NAME_BYTES_MAX);
        let all = [
            snapshot(1, "a"),
            snapshot(2, "Schnappschuß"),
            snapshot(9, &longest),
        ];
        for count in 0..=all.len() {
            let some = &all[..count];
            assert_eq!(parsed(&encode(some)).unwrap(), some);
        }
        let most: Vec<_> = (1..=SNAPSHOTS_MAX as u64)
            .map(|id| snapshot(id, &format!("{id:0255}")))
            .collect();
        let bytes = encode(&most);
        assert_eq!(bytes.len() as u64, DIRECTORY_BYTES_MAX);
        assert_eq!(parsed(&bytes).unwrap(), most);
        let more = [most, vec![snapshot(2000, "one more")]].concat();
        let error = parsed(&encode(&more)).unwrap_err();
        assert!(error.problem.contains("more than 1024"), "{error:?}");
    }

    #[test]
    fn a_directory_that_was_cut_off_is_refused() {
        let bytes = encode(&[snapshot(1, "one"), snapshot(2, "another")]);
        let first = encode(&[snapshot(1, "one")]).len();
        for len in (1..bytes.len()).filter(|len| *len != first) {
            let error = parsed(&bytes[..len]).unwrap_err();
            assert!(error.problem.contains("cut off"), "{len}: {error:?}");
        }
    }

    #[test]
    fn what_no_snapshot_has_is_refused() {
        type Change = fn(&mut Snapshot);
        let broken: [(&str, Change); 11] = [
            ("1 to 255", |snapshot| snapshot.name.clear()),
            ("1 to 255", |snapshot| snapshot.name = "x".repeat(256)),
            ("multiple of 512", |snapshot| snapshot.size_bytes = 513),
            ("multiple of 512", |snapshot| snapshot.size_bytes = 0),
            ("multiple of 512", |snapshot| snapshot.size_bytes = 1 << 63),
            ("more of a snapshot", |snapshot| {
                snapshot.covered_bytes = 512;
            }),
            ("where they can be", |snapshot| snapshot.table_offset = 4096),
            ("where they can be", |snapshot| {
                snapshot.bitmap_offset += 512;
            }),
            ("where they can be", |snapshot| {
                snapshot.table_offset = u64::MAX - 4095;
            }),
            ("too large", |snapshot| snapshot.size_bytes = 1 << 60),
            ("number or name", |snapshot| snapshot.id = 0),
        ];
        for (problem, change) in broken {
            let mut snapshot = snapshot(1, "one");
            change(&mut snapshot);
            let error = parsed(&encode(&[snapshot])).unwrap_err();
            assert!(error.problem.contains(problem), "{problem}: {error:?}");
        }
        for pair in [
            [(1, "a"), (2, "a")],
            [(2, "a"), (1, "b")],
            [(1, "a"), (1, "b")],
        ] {
            let pair = pair.map(|(id, name)| snapshot(id, name));
            let error = parsed(&encode(&pair)).unwrap_err();
            assert!(error.problem.contains("number or name"), "{error:?}");
        }
        let mut bytes = encode(&[snapshot(1, "one")]);
        bytes[64] = 0xFF;
        assert!(parsed(&bytes).unwrap_err().problem.contains("UTF-8"));
    }
}
