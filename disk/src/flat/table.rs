//! The table of a compact image, in memory as a whole: which place each chunk of the disk has.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::changed::{Changed, Changes, SECTOR_WORDS, WORD_BYTES};
use super::format::{Chunks, ENTRY_BYTES, Header};
use super::places::Places;
use super::snapshots::Snapshots;
use crate::format_error::FormatError;
use crate::mutant::mutant;
use crate::storage::{for_each_piece, len};
use crate::{Error, Storage};

/// How many chunks have their entries in a word.
const WORD_ENTRIES: u64 = WORD_BYTES / ENTRY_BYTES;

/// How many chunks of a compact image have a place.
pub async fn placed_chunks(storage: &impl Storage, header: &Header) -> Result<u64, Error> {
    match &header.chunks {
        Some(chunks) => {
            let entries = read_entries(storage, header, chunks).await?;
            Ok(entries.iter().filter(|entry| **entry != 0).count() as u64)
        }
        None => Ok(0),
    }
}

/// There is nowhere to put what needs a place.
pub(super) fn no_place(storage: &impl Storage) -> Error {
    Error::NoPlace {
        path: storage.path().to_owned(),
        size_bytes: storage.size_bytes(),
    }
}

/// So many faults are told at most: a table may have nothing else.
pub(super) const FAULTS_MAX: usize = 1 << 16;

/// Something that no table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The chunk that has such an entry.
    pub(super) chunk: u64,
    /// What the entry says, less one.
    pub(super) place: u64,
    /// Whether there is such a place: then it is somebody else's as well.
    pub(super) exists: bool,
}

/// Which place each chunk has.
pub(super) struct Table {
    data_offset: u64,
    chunk_bits: u32,
    /// What the file has: 0, or the number of a place, counted from 1.
    entries: RefCell<Vec<u32>>,
    changed: Changed,
    pub(super) places: Places,
    /// Places that the pending transaction takes from chunks.
    freed: RefCell<Vec<u64>>,
    /// Places that are nobody's, and cannot be had yet, those of `freed` included.
    held: Cell<u64>,
}

impl Table {
    /// That of the image on `storage`; absent if the image is not compact. A table that cannot be is
    /// an error.
    pub(super) async fn read(
        storage: &impl Storage,
        header: &Header,
        snapshots: &Snapshots,
    ) -> Result<Option<Self>, Error> {
        let Some(chunks) = &header.chunks else {
            return Ok(None);
        };
        let entries = read_entries(storage, header, chunks).await?;
        Self::sound(entries, storage, (header, chunks), snapshots).map(Some)
    }

    /// That of a compact image, from its entries. A table that cannot be is an error.
    pub(super) fn sound(
        entries: Vec<u32>,
        storage: &impl Storage,
        (header, chunks): (&Header, &Chunks),
        snapshots: &Snapshots,
    ) -> Result<Self, Error> {
        let image = (header, chunks, snapshots);
        let (table, faults) = Self::of(entries, image, storage.size_bytes());
        let Some(fault) = faults.first() else {
            return Ok(table);
        };
        let offset = chunks.table.start + fault.chunk * ENTRY_BYTES;
        let flaw = FormatError::damaged(offset, fault.to_string());
        Err(FormatError::at(storage.path())(flaw))
    }

    /// That of a compact image whose file has so many bytes, and what is wrong with it, up to a
    /// number. Of two chunks with the same place, the first has it.
    pub(super) fn of(
        entries: Vec<u32>,
        (header, chunks, snapshots): (&Header, &Chunks, &Snapshots),
        file_bytes: u64,
    ) -> (Self, Vec<Fault>) {
        let table = Self {
            data_offset: header.data_offset,
            chunk_bits: chunks.bits,
            entries: RefCell::new(entries),
            changed: Changed::default(),
            places: Places::new(header, chunks, snapshots),
            freed: RefCell::default(),
            held: Cell::default(),
        };
        let limit = table.places_within(file_bytes);
        let mut faults = Vec::new();
        for (chunk, entry) in (0..).zip(table.entries.borrow().iter()) {
            let Some(place) = u64::from(*entry).checked_sub(1) else {
                continue;
            };
            let exists = place < limit;
            let is_sound = exists && table.places.take(place);
            if !is_sound && faults.len() < FAULTS_MAX {
                faults.push(Fault {
                    chunk,
                    place,
                    exists,
                });
            }
        }
        (table, faults)
    }

    /// The size of a chunk.
    pub(super) fn chunk_bytes(&self) -> u64 {
        1 << self.chunk_bits
    }

    /// The chunk that a byte of the disk is in.
    pub(super) fn chunk(&self, offset: u64) -> u64 {
        offset >> self.chunk_bits
    }

    /// Where the chunk ends that a byte of the disk is in.
    pub(super) fn chunk_end(&self, offset: u64) -> u64 {
        (self.chunk(offset) + 1) << self.chunk_bits
    }

    /// Where a byte of the disk is in the file, if its chunk has a place.
    pub(super) fn host(&self, offset: u64) -> Option<u64> {
        let place = self.place(self.chunk(offset))?;
        Some(self.offset_of(place) + (offset & (self.chunk_bytes() - 1)))
    }

    /// Whether a chunk has a place that no snapshot has.
    pub(super) fn owns_place(&self, chunk: u64) -> bool {
        let place = self.place(chunk);
        place.is_some_and(|place| !self.places.is_frozen(place))
    }

    /// Whether a byte of the disk is in a place that a snapshot has, too.
    pub(super) fn is_frozen(&self, offset: u64) -> bool {
        let place = self.place(self.chunk(offset));
        place.is_some_and(|place| self.places.is_frozen(place))
    }

    /// The place of a chunk.
    pub(super) fn place(&self, chunk: u64) -> Option<u64> {
        let entry = self.entries.borrow().get(len(chunk)).copied();
        u64::from(entry.unwrap_or(0)).checked_sub(1)
    }

    /// Where a place begins in the file.
    pub(super) fn offset_of(&self, place: u64) -> u64 {
        self.data_offset + (place << self.chunk_bits)
    }

    /// Where places are in the file.
    pub(super) fn range_of(&self, places: &Range<u64>) -> Range<u64> {
        self.offset_of(places.start)..self.offset_of(places.end)
    }

    /// How many places there are in a file of so many bytes.
    pub(super) fn places_within(&self, file_bytes: u64) -> u64 {
        let places = file_bytes.saturating_sub(self.data_offset) >> self.chunk_bits;
        places.min(self.places.max())
    }

    /// How many places a chunk can choose from: all there can be, where the file can grow.
    pub(super) fn places_on(&self, storage: &impl Storage) -> u64 {
        if storage.can_resize() {
            self.places.max()
        } else {
            self.places_within(storage.size_bytes())
        }
    }

    /// A run of places for so much metadata, as a part of the file, behind the end of another or from 0
    /// on; absent if a block device has none.
    pub(super) fn room(
        &self,
        storage: &impl Storage,
        bytes: u64,
        behind: u64,
    ) -> Option<Range<u64>> {
        let count = bytes.div_ceil(self.chunk_bytes());
        let places = |bytes: u64| bytes.saturating_sub(self.data_offset) >> self.chunk_bits;
        let from = places(behind);
        let limit = if storage.can_resize() {
            from.max(self.places.end()) + count
        } else {
            places(storage.size_bytes())
        };
        let place = self.places.find_run(from, count, limit)?;
        Some(self.range_of(&(place..place + count)))
    }

    /// Where the last place ends that is taken.
    pub(super) fn end(&self) -> u64 {
        self.offset_of(self.places.end())
    }

    /// A chunk has a place from now on; the pending transaction says so.
    pub(super) fn set(&self, chunk: u64, place: u64) {
        let entry = u32::try_from(place + 1).expect("below the number of entries");
        self.entries.borrow_mut()[len(chunk)] = entry;
        if !mutant("a new place is not noted") {
            self.changed.note(chunk / WORD_ENTRIES);
        }
    }

    /// Takes its place from a chunk; the pending transaction says so. It is nobody's, but held, unless
    /// a snapshot has it, which keeps it.
    pub(super) fn free(&self, chunk: u64) -> Option<u64> {
        let place = self.place(chunk)?;
        self.entries.borrow_mut()[len(chunk)] = 0;
        self.changed.note(chunk / WORD_ENTRIES);
        if self.places.is_frozen(place) && !mutant("a frozen place is given back") {
            self.places.give_back(place);
            return None;
        }
        if mutant("a freed place is used at once") {
            self.places.give_back(place);
            return Some(place);
        }
        self.freed.borrow_mut().push(place);
        self.held.set(self.held.get() + 1);
        Some(place)
    }

    /// The transaction is durable that says of so many places that they are nobody's.
    pub(super) fn let_go(&self, places: &Range<u64>) {
        places
            .clone()
            .for_each(|place| self.places.give_back(place));
        self.held.set(self.held.get() - (places.end - places.start));
    }

    /// Whether there will be more places when what is pending is durable.
    pub(super) fn holds_places(&self) -> bool {
        self.held.get() > 0
    }

    /// How many words wait for a commit.
    pub(super) fn changed_words(&self) -> usize {
        self.changed.words()
    }

    /// How many places the pending transaction frees.
    pub(super) fn freed(&self) -> usize {
        self.freed.borrow().len()
    }

    /// Takes out what waits for a commit, as it is now, and the places that it frees, in runs.
    pub(super) fn take_changes(&self) -> (Changes, Vec<Range<u64>>) {
        let entries = self.entries.borrow();
        let changes = self.changed.take(|sector| {
            let first = sector * SECTOR_WORDS * WORD_ENTRIES;
            let entry = |index: u64| entries.get(len(index)).copied().unwrap_or(0);
            let entries = (first..first + SECTOR_WORDS * WORD_ENTRIES).map(entry);
            entries.flat_map(u32::to_le_bytes).collect()
        });
        (changes, runs(std::mem::take(&mut *self.freed.borrow_mut())))
    }

    /// Takes back what could not be committed.
    pub(super) fn put_back(&self, changes: &Changes, freed: &[Range<u64>]) {
        self.changed.put_back(changes);
        self.freed
            .borrow_mut()
            .extend(freed.iter().cloned().flatten());
    }

    /// All entries.
    pub(super) fn entries(&self) -> Vec<u32> {
        self.entries.borrow().clone()
    }

    /// All of it, as it is in the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let entries = self.entries.borrow();
        entries
            .iter()
            .flat_map(|entry| entry.to_le_bytes())
            .collect()
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (chunk, place) = (self.chunk, self.place + 1);
        if self.exists {
            write!(f, "chunk {chunk} is in place {place}, which is another's")
        } else {
            write!(f, "chunk {chunk} is in place {place}, which there is not")
        }
    }
}

/// What the file has for each chunk of the disk.
pub(super) async fn read_entries(
    storage: &impl Storage,
    header: &Header,
    chunks: &Chunks,
) -> Result<Vec<u32>, Error> {
    let count = header.size_bytes.div_ceil(chunks.bytes());
    let mut entries = vec![0; len(count)];
    let bytes = count * ENTRY_BYTES;
    for_each_piece(storage, chunks.table.start, bytes, |at, piece| {
        let first = len(at / ENTRY_BYTES);
        for (entry, bytes) in entries[first..].iter_mut().zip(piece.chunks_exact(4)) {
            *entry = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        }
    })
    .await?;
    Ok(entries)
}

/// Joins neighbours.
fn runs(mut places: Vec<u64>) -> Vec<Range<u64>> {
    places.sort_unstable();
    let mut runs: Vec<Range<u64>> = Vec::new();
    for place in places {
        match runs.last_mut() {
            Some(run) if run.end == place => run.end += 1,
            _ => runs.push(place..place + 1),
        }
    }
    runs
}
