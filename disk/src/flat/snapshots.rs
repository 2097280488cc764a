//! Internal snapshots of a compact image: each has a copy of the table and of the bitmap, and shares
//! the places with the disk.
//!
//! ```text
//!   header ─> directory ─> a snapshot's table and bitmap ─> places
//!          └> counts: of how many snapshots each place is
//! ```
//! A place that any snapshot has is *frozen*: nobody writes there, nor gives it back. The counts do
//! not count the disk itself, so that only taking a snapshot and deleting one changes them. The idea
//! is that of Tang, "FVD: a High-Performance Virtual Machine Image Format for Cloud" (USENIX ATC
//! 2011).

mod counts;
mod directory;

use std::ops::Range;
use std::rc::Rc;

use super::format::{Chunks, Header, SnapshotParts, overlap};
use crate::format_error::FormatError;
use crate::mutant::mutant;
use crate::storage::{for_each_piece, len, read};
use crate::{Error, Storage};
pub(super) use counts::{Counts, Frozen};
pub use directory::Snapshot;
pub(super) use directory::{DIRECTORY_BYTES_MAX, NAME_BYTES_MAX, SNAPSHOTS_MAX};

/// The snapshots of an image.
#[derive(Clone, Default)]
pub(super) struct Snapshots {
    /// The oldest first.
    pub(super) list: Rc<[Snapshot]>,
    /// What they have.
    pub(super) frozen: Rc<Frozen>,
}

/// What a snapshot has a copy of.
pub(super) struct Copies {
    pub(super) bitmap: Vec<u8>,
    pub(super) table: Vec<u8>,
}

/// The snapshots of an image, the oldest first.
pub async fn snapshots(storage: &impl Storage, header: &Header) -> Result<Vec<Snapshot>, Error> {
    Ok(read_directory(storage, header).await?.unwrap_or_default())
}

impl Snapshots {
    pub(super) fn new(list: Vec<Snapshot>, counts: &Counts) -> Self {
        Self {
            list: list.into(),
            frozen: Rc::new(counts.frozen()),
        }
    }

    /// Those of the image on `storage`.
    pub(super) async fn read(storage: &impl Storage, header: &Header) -> Result<Self, Error> {
        let list = snapshots(storage, header).await?;
        let counts = read_counts(storage, header).await?;
        let snapshots = Self::new(list, &counts);
        if mutant("which places are frozen is not read") {
            return Ok(Self::new(snapshots.list.to_vec(), &Counts::default()));
        }
        let (Some(parts), Some(chunks)) = (&header.snapshots, &header.chunks) else {
            return Ok(snapshots);
        };
        let end = snapshots.frozen.end() << chunks.bits;
        if end > storage.size_bytes().saturating_sub(header.data_offset) {
            let problem = "a snapshot has a place that there is not";
            let flaw = FormatError::damaged(parts.counts.start, problem);
            return Err(FormatError::at(storage.path())(flaw));
        }
        Ok(snapshots)
    }

    /// The one with this number, or else with this name.
    pub(super) fn find(&self, storage: &impl Storage, id_or_name: &str) -> Result<usize, Error> {
        let (by_id, by_name) = self.positions(id_or_name);
        by_id
            .or(by_name)
            .ok_or_else(|| no_snapshot(storage, id_or_name))
    }

    /// The one with this name, or else with this number. Names of others may be numbers, and what is
    /// deleted is gone: a name is what qemu-img deletes by.
    pub(super) fn find_to_delete(
        &self,
        storage: &impl Storage,
        name_or_id: &str,
    ) -> Result<usize, Error> {
        let (by_id, by_name) = self.positions(name_or_id);
        by_name
            .or(by_id)
            .ok_or_else(|| no_snapshot(storage, name_or_id))
    }

    /// Which has this number, and which this name.
    fn positions(&self, word: &str) -> (Option<usize>, Option<usize>) {
        let by_id = self.list.iter().position(|one| one.id.to_string() == word);
        (by_id, self.list.iter().position(|one| one.name == word))
    }

    /// A header that has the disk as it was when a snapshot was taken.
    pub(super) async fn view(
        &self,
        storage: &impl Storage,
        header: &Header,
        id_or_name: &str,
    ) -> Result<Header, Error> {
        let snapshot = &self.list[self.find(storage, id_or_name)?];
        let Some(chunks) = header
            .chunks
            .as_ref()
            .filter(|_| storage.geometry().read_only)
        else {
            return Err(Error::Unsupported {
                path: storage.path().to_owned(),
                problem: format!("snapshot '{id_or_name}': can only be read"),
            });
        };
        Copies::read(storage, header, chunks, snapshot).await?;
        Ok(Header {
            size_bytes: snapshot.size_bytes,
            covered_bytes: snapshot.covered_bytes,
            bitmap: snapshot.bitmap(header),
            chunks: Some(Chunks {
                bits: chunks.bits,
                table: snapshot.table(chunks),
            }),
            ..header.clone()
        })
    }

    /// Where in the file all is that only an image with snapshots has.
    pub(super) fn parts(&self, header: &Header, chunks: &Chunks) -> Vec<Range<u64>> {
        let ends = header.snapshots.iter();
        let ends = ends.flat_map(|parts| [parts.directory.clone(), parts.counts.clone()]);
        let copies = self.list.iter();
        let copies = copies.flat_map(|one| [one.bitmap(header), one.table(chunks)]);
        ends.chain(copies).collect()
    }
}

fn no_snapshot(storage: &impl Storage, word: &str) -> Error {
    Error::Unsupported {
        path: storage.path().to_owned(),
        problem: format!("has no snapshot '{word}'"),
    }
}

impl Copies {
    /// Those of a snapshot, which must be what they were.
    pub(super) async fn read(
        storage: &impl Storage,
        header: &Header,
        chunks: &Chunks,
        snapshot: &Snapshot,
    ) -> Result<Self, Error> {
        let copies = Self::read_any(storage, header, chunks, snapshot).await?;
        if copies.are_of(snapshot) {
            return Ok(copies);
        }
        let problem = format!(
            "the tables of snapshot '{}' are not what they were; check and repair the image first",
            snapshot.name
        );
        let flaw = FormatError::damaged(snapshot.table_offset, problem);
        Err(FormatError::at(storage.path())(flaw))
    }

    /// Those of a snapshot, whatever they are.
    pub(super) async fn read_any(
        storage: &impl Storage,
        header: &Header,
        chunks: &Chunks,
        snapshot: &Snapshot,
    ) -> Result<Self, Error> {
        Ok(Self {
            bitmap: read_part(storage, &snapshot.bitmap(header)).await?,
            table: read_part(storage, &snapshot.table(chunks)).await?,
        })
    }

    /// Whether they are what they were when a snapshot was taken.
    pub(super) fn are_of(&self, snapshot: &Snapshot) -> bool {
        let is_bitmap = crc32c::crc32c(&self.bitmap) == snapshot.bitmap_crc;
        is_bitmap && crc32c::crc32c(&self.table) == snapshot.table_crc
    }

    /// The places that chunks have.
    pub(super) fn places(&self) -> impl Iterator<Item = u64> {
        entries_of(&self.table).filter_map(|entry| u64::from(entry).checked_sub(1))
    }
}

/// The entries of a table.
pub(super) fn entries_of(table: &[u8]) -> impl Iterator<Item = u32> {
    let entries = table.chunks_exact(4);
    entries.map(|entry| u32::from_le_bytes(entry.try_into().expect("four bytes")))
}

/// All of a part of a file, of which holes are not read.
pub(super) async fn read_part(storage: &impl Storage, part: &Range<u64>) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; len(part.end - part.start)];
    for_each_piece(storage, part.start, part.end - part.start, |at, piece| {
        bytes[len(at)..][..piece.len()].copy_from_slice(piece);
    })
    .await?;
    Ok(bytes)
}

/// The directory of an image; absent if that has none.
async fn read_directory(
    storage: &impl Storage,
    header: &Header,
) -> Result<Option<Vec<Snapshot>>, Error> {
    let (Some(parts), Some(chunks)) = (&header.snapshots, &header.chunks) else {
        return Ok(None);
    };
    let at = &parts.directory;
    let bytes = read(storage, at.start, len(at.end - at.start)).await?;
    let list = parse_directory(&bytes, parts, header, chunks, storage.size_bytes());
    list.map(Some).map_err(FormatError::at(storage.path()))
}

/// Takes a directory apart, and looks whether all that it tells of is in the file, and nothing of it
/// twice.
fn parse_directory(
    bytes: &[u8],
    parts: &SnapshotParts,
    header: &Header,
    chunks: &Chunks,
    file_bytes: u64,
) -> Result<Vec<Snapshot>, FormatError> {
    let start = parts.directory.start;
    let damaged = |problem: &str| FormatError::damaged(start, problem);
    if crc32c::crc32c(bytes) != parts.directory_crc {
        return Err(damaged(
            "the checksum of the directory of snapshots is wrong",
        ));
    }
    let list = directory::parse(bytes, start, header, chunks)?;
    let copies: Vec<_> = list
        .iter()
        .flat_map(|one| [one.bitmap(header), one.table(chunks)])
        .collect();
    if copies.iter().any(|part| part.end > file_bytes) {
        return Err(damaged(
            "a snapshot's tables are behind the end of the file",
        ));
    }
    let others = [
        &parts.directory,
        &parts.counts,
        &header.journal,
        &header.bitmap,
        &chunks.table,
    ];
    if overlap(&others.into_iter().chain(&copies).collect::<Vec<_>>()) {
        return Err(damaged("a snapshot's tables overlap something else"));
    }
    Ok(list)
}

/// The counts of an image, which must be what they were.
pub(super) async fn read_counts(storage: &impl Storage, header: &Header) -> Result<Counts, Error> {
    let Some(parts) = &header.snapshots else {
        return Ok(Counts::default());
    };
    let bytes = read_part(storage, &parts.counts).await?;
    if crc32c::crc32c(&bytes) == parts.counts_crc {
        return Ok(Counts::of(&bytes));
    }
    let problem = "the checksum of the counts of places is wrong; check and repair the image first";
    let flaw = FormatError::damaged(parts.counts.start, problem);
    Err(FormatError::at(storage.path())(flaw))
}

/// The bytes of what an image with snapshots has, one part behind the other, and where they will be,
/// counted from 0. There is nothing if nothing needs to be known.
pub(super) fn encode(list: &[Snapshot], counts: &Counts) -> Option<(Vec<u8>, SnapshotParts)> {
    if list.is_empty() && counts.len() == 0 {
        return None;
    }
    let (mut bytes, counts) = (directory::encode(list), counts.to_bytes());
    let directory_bytes = bytes.len();
    let directory_crc = crc32c::crc32c(&bytes);
    bytes.resize(
        directory_bytes.next_multiple_of(len(super::format::ALIGNMENT)),
        0,
    );
    let counts_start = bytes.len() as u64;
    let counts_crc = crc32c::crc32c(&counts);
    let parts = SnapshotParts {
        directory: 0..directory_bytes as u64,
        directory_crc,
        counts: counts_start..counts_start + counts.len() as u64,
        counts_crc,
    };
    bytes.extend_from_slice(&counts);
    Some((bytes, parts))
}
