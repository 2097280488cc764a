//! Writing guest data to a place that is its own already.

use std::ops::Range;

use futures_util::future::join_all;

use super::{Journal, Journaled};
use crate::mutant::mutant;
use crate::ranges::Ranges;
use crate::request::SECTOR_BYTES;
use crate::{Buffers, Error, Storage};

/// So much must the host have to spare, in lengths of the journal, when new data begins to take the
/// detour after a flush: then what is on the way has its place, unless others take that meanwhile.
const SPARE_REGIONS: u64 = 16;

/// Writes guest data to where the guest has data already. Returns which of it is there: what the
/// last transaction vouches for must stay as it is, and what comes instead waits for the next one.
/// So does what takes the detour.
pub(crate) async fn overwrite(
    image: &impl Journaled,
    host: u64,
    buffers: Buffers,
) -> Result<Vec<Range<u64>>, Error> {
    let range = host..host + buffers.len() as u64;
    match image.guarding_journal() {
        Some(journal) if !journal.is_free(&range) || journal.detour.has(&range) => {
            journal.overwrite_in_part(image, range, &buffers).await
        }
        _ => {
            image.write_host(host, buffers).await?;
            Ok(vec![range])
        }
    }
}

impl Journal {
    async fn overwrite_in_part(
        &self,
        image: &impl Journaled,
        range: Range<u64>,
        buffers: &Buffers,
    ) -> Result<Vec<Range<u64>>, Error> {
        if !(range.start | range.end).is_multiple_of(SECTOR_BYTES) {
            // Only a disk that ends within a sector has such data: behind its end.
            while !self.is_free(&range) {
                self.lift_guard(image, true).await?;
            }
            image.write_host(range.start, buffers.clone()).await?;
            return Ok(vec![range]);
        }
        let mut attempts = 0;
        let (_writing, kept) = loop {
            let writing = self.checks.write(&range).await;
            let kept = self.not_in_place(&range);
            let bytes: u64 = kept.iter().map(|part| part.end - part.start).sum();
            if self.has_room_for(bytes) {
                break (writing, kept);
            }
            drop(writing);
            self.lift_guard(image, attempts > 0).await?;
            attempts += 1;
        };
        let kept = self.with_detours(image, &range, kept);
        if kept.is_empty() {
            image.write_host(range.start, buffers.clone()).await?;
            return Ok(vec![range]);
        }
        // The guest may change its memory meanwhile, and both copies of it must be one.
        let bytes = buffers.to_vec();
        let index = |n: u64| usize::try_from(n - range.start).expect("within the memory");
        for part in &kept {
            if !mutant("what waits for a transaction is forgotten") {
                self.shadows
                    .put(part, &bytes[index(part.start)..index(part.end)]);
            }
        }
        let in_place = Self::in_place(&range, &kept);
        let writes = in_place.iter().map(|part| {
            let data = buffers.slice(index(part.start)..index(part.end));
            image.write_host(part.start, data)
        });
        let results: Vec<_> = join_all(writes).await;
        results.into_iter().collect::<Result<(), _>>()?;
        Ok(in_place)
    }

    /// The parts of a range that are kept from its place, and those whose new data takes the detour,
    /// if there is room for that.
    fn with_detours(
        &self,
        image: &impl Journaled,
        range: &Range<u64>,
        kept: Vec<Range<u64>>,
    ) -> Vec<Range<u64>> {
        let mut all = Ranges::default();
        let detours = self.detours(image.storage(), range);
        kept.iter()
            .cloned()
            .chain(detours)
            .for_each(|part| all.insert(part));
        if self.has_room_for(all.bytes()) {
            all.iter().collect()
        } else {
            kept
        }
    }

    /// The parts of a range whose new data should go into a record; none if the host might have no
    /// place for them in the end.
    pub(crate) fn detours(&self, storage: &impl Storage, range: &Range<u64>) -> Vec<Range<u64>> {
        if self.detour.is_unused() {
            let region = self.region();
            let least = SPARE_REGIONS * (region.end - region.start);
            self.detour.bar(storage.spare_bytes() < least);
        }
        self.detour.parts(range)
    }
}
