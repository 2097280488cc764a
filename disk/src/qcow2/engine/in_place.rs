//! Writing guest data to a place that is its own already.

use std::ops::Range;
use std::rc::Rc;

use futures_util::future::join_all;

use super::image::Image;
use super::read::slice;
use crate::journal::Journal;
use crate::mutant::mutant;
use crate::ranges::Ranges;
use crate::request::SECTOR_BYTES;
use crate::{Buffers, Error, Storage};

impl<S: Storage> Image<S> {
    /// Writes guest data to its place, whatever a journal says.
    pub(super) async fn write_host(&self, host: u64, buffers: Buffers) -> Result<(), Error> {
        if let Some(journal) = self.guarding_journal() {
            let range = host..host + buffers.len() as u64;
            journal.detour.note_written(&range);
        }
        let result = self.data_storage().write_at(host, buffers).await;
        self.data_changed();
        result
    }

    /// Writes guest data to where the guest has data already. Returns which of it is there: what
    /// the last transaction vouches for must stay as it is, and what comes instead waits for the
    /// next one. So does what takes the detour.
    pub(super) async fn overwrite(
        &self,
        host: u64,
        buffers: Buffers,
    ) -> Result<Vec<Range<u64>>, Error> {
        let range = host..host + buffers.len() as u64;
        match self.guarding_journal() {
            Some(journal) if !journal.is_free(&range) || journal.detour.has(&range) => {
                self.overwrite_in_part(&journal, range, &buffers).await
            }
            _ => {
                self.write_host(host, buffers).await?;
                Ok(vec![range])
            }
        }
    }

    async fn overwrite_in_part(
        &self,
        journal: &Rc<Journal>,
        range: Range<u64>,
        buffers: &Buffers,
    ) -> Result<Vec<Range<u64>>, Error> {
        if !(range.start | range.end).is_multiple_of(SECTOR_BYTES) {
            // Only a disk that ends within a sector has such data: behind its end.
            while !journal.is_free(&range) {
                self.lift_guard(journal, true).await?;
            }
            self.write_host(range.start, buffers.clone()).await?;
            return Ok(vec![range]);
        }
        let mut attempts = 0;
        let (_writing, kept) = loop {
            let writing = journal.checks.write(&range).await;
            let kept = journal.not_in_place(&range);
            let bytes: u64 = kept.iter().map(|part| part.end - part.start).sum();
            if journal.has_room_for(bytes) {
                break (writing, kept);
            }
            drop(writing);
            self.lift_guard(journal, attempts > 0).await?;
            attempts += 1;
        };
        let kept = self.with_detours(journal, &range, kept);
        if kept.is_empty() {
            self.write_host(range.start, buffers.clone()).await?;
            return Ok(vec![range]);
        }
        // The guest may change its memory meanwhile, and both copies of it must be one.
        let bytes = buffers.to_vec();
        let index = |n: u64| usize::try_from(n - range.start).expect("within the memory");
        for part in &kept {
            if !mutant("what waits for a transaction is forgotten") {
                journal
                    .shadows
                    .put(part, &bytes[index(part.start)..index(part.end)]);
            }
        }
        let in_place = Journal::in_place(&range, &kept);
        let writes = in_place.iter().map(|part| {
            let data = slice(buffers, part.start - range.start, part.end - part.start);
            self.write_host(part.start, data)
        });
        let results: Vec<_> = join_all(writes).await;
        results.into_iter().collect::<Result<(), _>>()?;
        Ok(in_place)
    }

    /// The parts of a range that are kept from its place, and those whose new data takes the detour,
    /// if there is room for that.
    fn with_detours(
        &self,
        journal: &Journal,
        range: &Range<u64>,
        kept: Vec<Range<u64>>,
    ) -> Vec<Range<u64>> {
        let mut all = Ranges::default();
        let detours = self.detours(journal, range);
        kept.iter()
            .cloned()
            .chain(detours)
            .for_each(|part| all.insert(part));
        if journal.has_room_for(all.bytes()) {
            all.iter().collect()
        } else {
            kept
        }
    }
}
