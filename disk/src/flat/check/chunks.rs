//! The table of a compact image.

use super::FILE_GOES_ON;
use super::snapshots::{self, Review};
use crate::flat::bitmap::Bitmap;
use crate::flat::format::{Chunks, ENTRY_BYTES, Header};
use crate::flat::header_file::read_header;
use crate::flat::table::{FAULTS_MAX, Fault, Table, read_entries};
use crate::storage::{len, read, write};
use crate::{CheckReport, Error, Repair, Storage};

/// So much of a chunk is copied at once.
const PIECE_BYTES: u64 = 1 << 20;

/// What there is to know of a table.
struct Pass<'a> {
    header: &'a Header,
    chunks: &'a Chunks,
    table: Table,
    faults: Vec<Fault>,
    /// Chunks of which nobody reads anything in their places; not all, if there are very many.
    unused: Vec<u64>,
    review: Review,
    report: CheckReport,
}

/// Adds to a report what is wrong with the table and the snapshots, and repairs what `repair` allows.
pub(super) async fn check(
    storage: &impl Storage,
    header: &Header,
    chunks: &Chunks,
    bitmap: &Bitmap,
    repair: Repair,
    mut report: CheckReport,
) -> Result<CheckReport, Error> {
    let header = snapshots::directory(storage, header, chunks, repair, &mut report).await?;
    let Some(header) = header else {
        return Ok(report);
    };
    let before = Pass::run(storage, &header, chunks, bitmap, report.clone()).await?;
    if repair == Repair::None {
        return Ok(before.report);
    }
    if before.review.is_wrong() && (before.report.corruptions == 0 || repair == Repair::All) {
        before.review.write(storage, &header, chunks).await?;
    }
    let header = read_header(storage).await?;
    let counted = Pass::run(storage, &header, chunks, bitmap, report.clone()).await?;
    counted.repair(storage, repair).await?;
    let after = Pass::run(storage, &header, chunks, bitmap, report).await?;
    let (before, mut after) = (before.report, after.report);
    after.corruptions_fixed += before.corruptions.saturating_sub(after.corruptions);
    after.leaks_fixed += before.leaks.saturating_sub(after.leaks);
    after.repaired.extend(before.findings);
    Ok(after)
}

impl<'a> Pass<'a> {
    async fn run(
        storage: &impl Storage,
        header: &'a Header,
        chunks: &'a Chunks,
        bitmap: &Bitmap,
        mut report: CheckReport,
    ) -> Result<Self, Error> {
        let mut review = Review::begin(storage, header, &mut report).await?;
        let entries = read_entries(storage, header, chunks).await?;
        let image = (header, chunks, &review.snapshots());
        let (table, faults) = Table::of(entries, image, storage.size_bytes());
        for fault in &faults {
            let offset = chunks.table.start + fault.chunk * ENTRY_BYTES;
            report.corruption(offset, fault.to_string());
        }
        let unused = find_unused(header, chunks, bitmap, &table, &mut report);
        review
            .look(storage, (header, chunks), &table, &mut report)
            .await?;
        let end = header.file_end().max(table.end());
        if storage.can_resize() && storage.size_bytes() > end {
            report.leak(end, FILE_GOES_ON);
        }
        report.allocated_clusters = bitmap.count();
        report.image_end_offset = end;
        Ok(Self {
            header,
            chunks,
            table,
            faults,
            unused,
            review,
            report,
        })
    }

    /// What seems to be unused may be what the damage hides: it stays while there is any.
    async fn repair(&self, storage: &impl Storage, repair: Repair) -> Result<(), Error> {
        let mut mended = 0;
        for fault in self.faults.iter().filter(|_| repair == Repair::All) {
            mended += usize::from(self.mend(storage, fault).await?);
        }
        let is_sound = mended == self.faults.len() && mended < FAULTS_MAX;
        for chunk in self.unused.iter().filter(|_| is_sound) {
            if let Some(place) = self.table.free(*chunk) {
                self.table.places.give_back(place);
            }
        }
        // What entries lead to comes before them.
        storage.sync().await?;
        for (at, bytes) in self.table.take_changes().0.writes() {
            write(storage, self.chunks.table.start + at, bytes).await?;
        }
        storage.sync().await?;
        let end = self.header.file_end().max(self.table.end());
        if is_sound && storage.can_resize() && storage.size_bytes() > end {
            storage.set_len(end).await?;
            storage.sync().await?;
        }
        Ok(())
    }

    /// Of two chunks in one place, the second gets a copy of it in a place of its own, if there is
    /// one. A chunk in a place that there is not is emptied. Returns whether all is well then.
    async fn mend(&self, storage: &impl Storage, fault: &Fault) -> Result<bool, Error> {
        if !fault.exists {
            self.table.free(fault.chunk);
            return Ok(true);
        }
        let limit = self.table.places_on(storage);
        let Some(place) = self.table.places.take_first(limit) else {
            return Ok(false);
        };
        let from = self.table.offset_of(fault.place);
        let to = self.table.offset_of(place);
        let end = to + self.chunks.bytes();
        if storage.size_bytes() < end {
            storage.set_len(end).await?;
        }
        let mut done = 0;
        while done < self.chunks.bytes() {
            let piece = PIECE_BYTES.min(self.chunks.bytes() - done);
            let bytes = read(storage, from + done, len(piece)).await?;
            write(storage, to + done, bytes).await?;
            done += piece;
        }
        self.table.set(fault.chunk, place);
        Ok(true)
    }
}

/// The chunks of which nobody reads anything in their places.
fn find_unused(
    header: &Header,
    chunks: &Chunks,
    bitmap: &Bitmap,
    table: &Table,
    report: &mut CheckReport,
) -> Vec<u64> {
    let mut unused = Vec::new();
    let count = header.size_bytes.div_ceil(chunks.bytes());
    for chunk in (0..count).filter(|chunk| table.place(*chunk).is_some()) {
        let start = chunk << chunks.bits;
        let range = start..(start + chunks.bytes()).min(header.size_bytes);
        let blocks = bitmap.blocks(&range);
        if bitmap.run_of_bits(&blocks) == (false, blocks.end) {
            let problem = format!("chunk {chunk} has a place, and nothing in it");
            report.leak(chunks.table.start + chunk * ENTRY_BYTES, problem);
            if unused.len() < FAULTS_MAX {
                unused.push(chunk);
            }
        }
    }
    unused
}
