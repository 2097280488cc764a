//! The snapshots of a compact image: what they have copies of, and how often places are counted.

use crate::flat::format::{COUNT_BYTES, COUNTS_BYTES_MAX, Chunks, ENTRY_BYTES, Header};
use crate::flat::header_file::{read_header, replace_header};
use crate::flat::places::counts_least;
use crate::flat::snapshots::{
    Copies, Counts, Snapshot, Snapshots, encode, entries_of, read_part, snapshots,
};
use crate::flat::table::{FAULTS_MAX, Table, no_place, read_entries};
use crate::flush::Flusher;
use crate::storage::{len, write};
use crate::{CheckReport, Error, Repair, Storage};

/// The bits of a word.
const WORD_BITS: u64 = 64;
/// So many places can be counted.
const COUNTED_MAX: u64 = COUNTS_BYTES_MAX / COUNT_BYTES;

/// What there is to know of an image's snapshots.
#[derive(Default)]
pub(super) struct Review {
    list: Vec<Snapshot>,
    /// What the file has.
    stored: Counts,
    /// What there should be.
    right: Counts,
    /// Those that are damaged: their numbers in the list, and where in their tables entries are that
    /// cannot be; not all, if there are very many. Tables may be too large to keep.
    damaged: Vec<(usize, Vec<usize>)>,
    /// How many such entries are known.
    faults: usize,
    /// Whether the file needs other counts.
    is_wrong: bool,
}

/// Looks whether an image has a directory that can be read. Where all is to be repaired, one that
/// cannot is given up, with all that it had. Returns the header as it is then; absent if nothing else
/// can be checked.
pub(super) async fn directory(
    storage: &impl Storage,
    header: &Header,
    chunks: &Chunks,
    repair: Repair,
    report: &mut CheckReport,
) -> Result<Option<Header>, Error> {
    let (offset, problem) = match snapshots(storage, header).await {
        Ok(_) => return Ok(Some(header.clone())),
        Err(Error::Damaged {
            offset, problem, ..
        }) => (offset, problem),
        Err(error) => return Err(error),
    };
    let problem = format!("{problem}; to repair all is to lose all snapshots");
    if repair != Repair::All {
        report.corruption(offset, problem);
        return Ok(None);
    }
    let review = Review::default();
    review.write(storage, header, chunks).await?;
    let mut given_up = CheckReport::default();
    given_up.corruption(offset, problem);
    report.corruptions_fixed += 1;
    report.repaired.append(&mut given_up.findings);
    read_header(storage).await.map(Some)
}

impl Review {
    /// The directory of an image, which can be read, and its counts, as they are in the file.
    pub(super) async fn begin(
        storage: &impl Storage,
        header: &Header,
        report: &mut CheckReport,
    ) -> Result<Self, Error> {
        let list = snapshots(storage, header).await?;
        let (mut stored, mut is_wrong) = (Counts::default(), false);
        if let Some(parts) = &header.snapshots {
            let bytes = read_part(storage, &parts.counts).await?;
            if crc32c::crc32c(&bytes) != parts.counts_crc {
                let problem = "the checksum of the counts of places is wrong";
                report.corruption(parts.counts.start, problem);
                is_wrong = true;
            }
            stored = Counts::of(&bytes);
        }
        Ok(Self {
            list,
            stored,
            is_wrong,
            ..Self::default()
        })
    }

    /// The snapshots, with the places that the file says to be theirs.
    pub(super) fn snapshots(&self) -> Snapshots {
        Snapshots::new(self.list.clone(), &self.stored)
    }

    /// The snapshots, with the places that any count says to be theirs, where the disk has places up
    /// to `end`.
    fn with_any(&self, end: u64) -> Snapshots {
        let mut counts = self.stored.clone();
        for place in 0..self.right.len() {
            let count = self.right.get(place);
            counts.set(place, count.max(counts.get(place)));
        }
        counts.trim(counts.len().max(end).min(COUNTED_MAX));
        Snapshots::new(self.list.clone(), &counts)
    }

    /// Looks at what each snapshot has, and at the counts. `table` is the disk's.
    pub(super) async fn look(
        &mut self,
        storage: &impl Storage,
        (header, chunks): (&Header, &Chunks),
        table: &Table,
        report: &mut CheckReport,
    ) -> Result<(), Error> {
        let limit = table.places_within(storage.size_bytes());
        for index in 0..self.list.len() {
            let snapshot = &self.list[index];
            let copies = Copies::read_any(storage, header, chunks, snapshot).await?;
            let is_sound = copies.are_of(snapshot);
            if !is_sound {
                let problem = format!(
                    "the tables of snapshot '{}' are not what they were",
                    snapshot.name
                );
                report.corruption(snapshot.table_offset, problem);
            }
            let faults = self.count(index, &copies.table, limit, table, report);
            if !is_sound || !faults.is_empty() {
                self.damaged.push((index, faults));
            }
        }
        if let Some(parts) = &header.snapshots {
            self.compare(parts.counts.start, limit, report);
        }
        Ok(())
    }

    /// Counts the places of a snapshot's table. Returns where entries are that cannot be.
    fn count(
        &mut self,
        index: usize,
        bytes: &[u8],
        limit: u64,
        table: &Table,
        report: &mut CheckReport,
    ) -> Vec<usize> {
        let snapshot = &self.list[index];
        let mut seen = vec![0_u64; len(limit.div_ceil(WORD_BITS))];
        let mut faults = Vec::new();
        for (chunk, entry) in (0_u64..).zip(entries_of(bytes)) {
            let Some(place) = u64::from(entry).checked_sub(1) else {
                continue;
            };
            let exists = place < limit && !table.places.is_metadata(place);
            let is_new = exists && {
                let (word, bit) = (&mut seen[len(place / WORD_BITS)], 1 << (place % WORD_BITS));
                let is_new = *word & bit == 0;
                *word |= bit;
                is_new
            };
            if is_new {
                // There are fewer snapshots than it could count.
                self.right.add(place);
                continue;
            }
            let what = if exists {
                "is another's"
            } else {
                "there is not"
            };
            let problem = format!(
                "chunk {chunk} of snapshot '{}' is in place {entry}, which {what}",
                snapshot.name
            );
            report.corruption(snapshot.table_offset + chunk * ENTRY_BYTES, problem);
            if self.faults < FAULTS_MAX {
                self.faults += 1;
                faults.push(len(chunk * ENTRY_BYTES));
            }
        }
        faults
    }

    /// Compares what is counted with what should be.
    fn compare(&mut self, offset: u64, limit: u64, report: &mut CheckReport) {
        if self.is_wrong {
            return;
        }
        for place in 0..self.stored.len().max(self.right.len()) {
            let (stored, right) = (self.stored.get(place), self.right.get(place));
            if stored == right {
                continue;
            }
            self.is_wrong = true;
            let problem = format!(
                "place {} is counted {stored} times, and {right} snapshots have it",
                place + 1
            );
            let at = offset + place * COUNT_BYTES;
            if stored > right && place < limit {
                report.leak(at, problem);
            } else {
                report.corruption(at, problem);
            }
        }
    }

    /// Whether there is anything to repair.
    pub(super) fn is_wrong(&self) -> bool {
        self.is_wrong || !self.damaged.is_empty()
    }

    /// Makes the snapshots what can be made of them, and counts what they have.
    pub(super) async fn write(
        &self,
        storage: &impl Storage,
        header: &Header,
        chunks: &Chunks,
    ) -> Result<(), Error> {
        let list = self.write_tables(storage, (header, chunks)).await?;
        let entries = read_entries(storage, header, chunks).await?;
        let file_bytes = storage.size_bytes();
        // What anybody may have stays.
        let end = end_of(&entries, header, chunks, file_bytes);
        let any = self.with_any(end);
        let (old, _) = Table::of(entries.clone(), (header, chunks, &any), file_bytes);
        let mut new = Header {
            snapshots: None,
            ..header.clone()
        };
        let mut counts = self.right.clone();
        let snapshots = Snapshots::new(list, &counts);
        let least = counts_least(&new, chunks, &snapshots, end);
        counts.trim(least.min(COUNTED_MAX));
        if let Some((bytes, parts)) = encode(&snapshots.list, &counts) {
            let room = old.room(storage, bytes.len() as u64, 0);
            let room = room.ok_or_else(|| no_place(storage))?;
            if file_bytes < room.end {
                storage.set_len(room.end).await?;
            }
            write(storage, room.start, bytes).await?;
            new.snapshots = Some(parts.at(room.start));
        }
        let new = replace_header(storage, &Flusher::new(false, false), header, new).await?;
        let snapshots = Snapshots::new(snapshots.list.to_vec(), &counts);
        let image = (&new, chunks, &snapshots);
        let (table, _) = Table::of(entries, image, storage.size_bytes());
        for places in old.places.without(&table.places) {
            let gone = table.range_of(&places);
            storage.discard(gone.start, gone.end - gone.start).await?;
        }
        Ok(())
    }

    /// Writes the tables of damaged snapshots without what cannot be in them. Returns a directory that
    /// takes the rest for what they are.
    async fn write_tables(
        &self,
        storage: &impl Storage,
        (header, chunks): (&Header, &Chunks),
    ) -> Result<Vec<Snapshot>, Error> {
        let mut list = self.list.clone();
        for (index, faults) in &self.damaged {
            let snapshot = &mut list[*index];
            let copies = Copies::read_any(storage, header, chunks, snapshot).await?;
            let Copies { bitmap, mut table } = copies;
            for at in faults {
                table[*at..][..len(ENTRY_BYTES)].fill(0);
            }
            snapshot.bitmap_crc = crc32c::crc32c(&bitmap);
            snapshot.table_crc = crc32c::crc32c(&table);
            write(storage, snapshot.table_offset, table).await?;
        }
        Ok(list)
    }
}

/// Where the last place ends that a table leads to, of those that a file has.
fn end_of(entries: &[u32], header: &Header, chunks: &Chunks, file_bytes: u64) -> u64 {
    let limit = file_bytes.saturating_sub(header.data_offset) >> chunks.bits;
    let ends = entries.iter().map(|entry| u64::from(*entry));
    ends.filter(|end| *end <= limit).max().unwrap_or(0)
}
