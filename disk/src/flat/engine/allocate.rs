//! Giving places to chunks of a compact image, and taking them back.
//!
//! ```text
//!   free ─> taken, and filled ── the table says so
//!   the table says that it is nobody's ── durable ── given back to the host ─> free
//! ```

use std::ops::Range;

use super::copy::PIECE_BYTES;
use super::image::Image;
use crate::flat::table::{Table, no_place};
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::{Buffers, Error, Storage};

/// What comes into blocks of a new place.
pub(super) enum Filling {
    Data(Buffers),
    Zeros { unmap: bool },
}

impl<S: Storage> Image<S> {
    /// Puts whole blocks of one chunk in their place. A chunk that has none of its own gets one;
    /// nobody else holds the chunk then.
    pub(super) async fn fill_place(
        &self,
        range: &Range<u64>,
        content: Buffers,
    ) -> Result<(), Error> {
        match self.own_host(range.start) {
            Some(host) => self.write_host(host, content).await,
            None => self.give_place(range, Filling::Data(content)).await,
        }
    }

    /// Gives a chunk a place of its own, filled with whole blocks of it. Its other local blocks are
    /// there as they have been: zeros, where it had no place; where it had one that a snapshot has
    /// too, which stays as it is, they are copied.
    pub(super) async fn give_place(
        &self,
        range: &Range<u64>,
        filling: Filling,
    ) -> Result<(), Error> {
        self.prepare("write").await?;
        let place = self.take_place().await?;
        let beside = self.local_blocks_beside(range);
        let filled = self.fill_new_place(place, range, filling, &beside).await;
        if let Err(error) = filled {
            self.with_table(|table| table.places.give_back(place));
            return Err(error);
        }
        let was_frozen = self.frozen_host(range.start).is_some();
        self.with_table(|table| {
            let chunk = table.chunk(range.start);
            table.free(chunk);
            table.set(chunk, place);
        });
        let is_vouched_for = if was_frozen {
            !mutant("what is copied from a frozen place is not vouched for")
        } else {
            !mutant("zeros in a new place are not vouched for")
        };
        if is_vouched_for {
            for range in &beside {
                self.vouch_for(range);
            }
        }
        Ok(())
    }

    async fn fill_new_place(
        &self,
        place: u64,
        range: &Range<u64>,
        filling: Filling,
        beside: &[Range<u64>],
    ) -> Result<(), Error> {
        let host = |offset: u64| {
            self.with_table(|table| table.offset_of(place) + offset % table.chunk_bytes())
        };
        for range in beside {
            let len = range.end - range.start;
            match self.frozen_host(range.start) {
                Some(from) => self.copy_host(from, host(range.start), len).await?,
                None if mutant("a new place is not made zeros") => {}
                None => self.make_zeros(host(range.start), len, true).await?,
            }
        }
        let len = range.end - range.start;
        match filling {
            Filling::Data(content) => self.write_host(host(range.start), content).await,
            Filling::Zeros { unmap } => self.make_zeros(host(range.start), len, unmap).await,
        }
    }

    /// Makes zeros of a part of the file.
    pub(super) async fn make_zeros(&self, host: u64, len: u64, unmap: bool) -> Result<(), Error> {
        let zeroed = self.storage.write_zeroes(host, len, unmap).await;
        self.flusher.changed();
        zeroed
    }

    /// Copies within the file. Holes stay holes.
    async fn copy_host(&self, from: u64, to: u64, len: u64) -> Result<(), Error> {
        let mut at = 0;
        while at < len && !mutant("nothing is copied from a frozen place") {
            let found = self.storage.extent(from + at, len - at).await?;
            let piece = found.len.min(PIECE_BYTES).min(len - at);
            if found.data {
                let index = usize::try_from(piece).expect("within a piece");
                let content = Buffers::zeroed(index);
                self.read_host(from + at, content.clone()).await?;
                self.write_host(to + at, content).await?;
            } else {
                self.make_zeros(to + at, piece, true).await?;
            }
            at += piece;
        }
        Ok(())
    }

    /// The blocks of a chunk that are local, but for those of `range`, which is within the chunk.
    fn local_blocks_beside(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let (bits, size_bytes) = (self.header.borrow().block_bits, self.size_bytes());
        let bitmap = self.bitmap.borrow();
        let chunk = self.with_table(|table| {
            let end = table.chunk_end(range.start);
            end - table.chunk_bytes()..end.min(size_bytes)
        });
        let mut found = Vec::new();
        for part in [chunk.start..range.start, range.end..chunk.end] {
            if part.is_empty() {
                continue;
            }
            let mut blocks = bitmap.blocks(&part);
            while !blocks.is_empty() {
                let (is_set, end) = bitmap.run_of_bits(&blocks);
                if is_set {
                    found.push(blocks.start << bits..end << bits);
                }
                blocks.start = end;
            }
        }
        found
    }

    /// Takes a free place. If there is none, waits for those that the pending transaction frees, and
    /// then for the device to grow, if that is tried.
    async fn take_place(&self) -> Result<u64, Error> {
        let _turn = self.allocating.all().await;
        loop {
            if let Some(place) = self.take_free_place().await? {
                self.start_growth();
                return Ok(place);
            }
            if self.with_table(Table::holds_places) {
                self.commit_all().await?;
            } else if !self.wait_for_growth().await? {
                break;
            }
        }
        Err(no_place(&self.storage))
    }

    /// Takes the first place that is free. A file grows where it has none.
    async fn take_free_place(&self) -> Result<Option<u64>, Error> {
        let file_bytes = self.storage.size_bytes();
        let taken = self.with_table(|table| {
            let limit = table.places_on(&self.storage);
            let place = table.places.take_first(limit)?;
            Some((place, table.offset_of(place + 1)))
        });
        let Some((place, end)) = taken else {
            return Ok(None);
        };
        if file_bytes < end {
            let grown = self.storage.set_len(end).await;
            self.flusher.changed();
            if let Err(error) = grown {
                self.with_table(|table| table.places.give_back(place));
                return Err(error);
            }
        }
        Ok(Some(place))
    }

    /// Takes its place from a chunk, which nobody else holds: what of it does not come from the base
    /// is zeros from now on. The place is free once that is durable.
    pub(super) fn free_chunk(&self, offset: u64) {
        let freed = self.with_table(|table| {
            let place = table.free(table.chunk(offset))?;
            Some(table.range_of(&(place..place + 1)))
        });
        if let Some((range, journal)) = freed.zip(self.journal()) {
            journal.forget(&range);
        }
    }

    /// Makes places free of which a durable transaction says that they are nobody's.
    pub(super) async fn reclaim(&self, freed: &[Range<u64>]) {
        for places in freed {
            let range = self.with_table(|table| table.range_of(places));
            if let Some(journal) = self
                .journal()
                .filter(|_| !mutant("what waits for a freed place is written home"))
            {
                journal.let_go(&range).await;
            }
            // Before it is free: afterwards it may be another's.
            self.give_back_places(&[range]).await;
            self.with_table(|table| table.let_go(places));
        }
    }

    /// Cuts off what a file has behind what it needs. All that was changed is durable.
    pub(super) async fn cut_off(&self) {
        let end = self.file_end();
        if !self.storage.can_resize() || self.storage.size_bytes() <= end {
            return;
        }
        let cut = self.storage.set_len(end).await;
        self.flusher.changed();
        if let Err(error) = cut {
            tracing::debug!(%error, "the file stays longer than what it holds");
        }
    }

    /// The table of an image that is known to be compact.
    fn with_table<T>(&self, look: impl FnOnce(&Table) -> T) -> T {
        look(self.table.borrow().as_ref().expect("it is compact"))
    }
}
