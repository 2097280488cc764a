//! Discarding, and writing zeros. What is local stays so: zeros in the file hide the base.

use std::ops::Range;

use super::allocate::Filling;
use super::image::Image;
use super::place::Place;
use crate::executor::yield_now;
use crate::flat::format::ALIGNMENT;
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::{Buffers, Error, Storage};

/// So much is made zeros at once, that others wait for it no longer.
const PIECE_BYTES: u64 = 64 << 20;

/// How to make a range zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zeroing {
    /// It is not needed any more, and may stay as it is.
    Discard,
    /// It must be zeros; whether it may give back its space.
    Write { unmap: bool },
}

impl Zeroing {
    /// Whether what is zeros need not keep its place.
    fn gives_back(self) -> bool {
        self != Self::Write { unmap: false }
    }
}

impl<S: Storage> Image<S> {
    /// Gives back the space of what nobody needs any more. What comes from the base stays as it is.
    pub(super) async fn discard(&self, offset: u64, len: u64) -> Result<(), Error> {
        self.each_piece(offset..offset + len, Zeroing::Discard)
            .await
    }

    /// Makes a range zeros.
    pub(super) async fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> Result<(), Error> {
        self.each_piece(offset..offset + len, Zeroing::Write { unmap })
            .await
    }

    async fn each_piece(&self, range: Range<u64>, how: Zeroing) -> Result<(), Error> {
        let mut at = range.start;
        while at < range.end {
            let piece = at..(at - at % PIECE_BYTES + PIECE_BYTES).min(range.end);
            let (first, last) = self.lock_range(&piece);
            let exclusive = self.blocks.exclusive(first, last).await;
            self.zero(piece.clone(), how).await?;
            drop(exclusive);
            at = piece.end;
            if at < range.end {
                // A record has room for what some pieces change.
                if self.fills_a_record() {
                    self.commit_all().await?;
                }
                yield_now().await;
            }
        }
        Ok(())
    }

    /// The caller holds the blocks exclusively, and all of each chunk.
    async fn zero(&self, range: Range<u64>, how: Zeroing) -> Result<(), Error> {
        self.record(&range);
        let mut at = range.start;
        while at < range.end {
            let part = self.in_one_chunk(&(at..range.end));
            if how.gives_back() && self.is_whole_chunk(&part) {
                self.free_chunk(part.start);
            }
            let (place, part_end) = self.part(&part);
            match (place, how) {
                (Place::Here(host), _) => self.zero_local(at..part_end, host, how).await?,
                (Place::Frozen(_), Zeroing::Write { unmap }) => {
                    self.zero_frozen(at..part_end, unmap).await?;
                }
                (Place::Base, Zeroing::Write { unmap }) => {
                    self.zero_missing(at..part_end, unmap).await?;
                }
                (Place::Zeros, _) | (Place::Base | Place::Frozen(_), Zeroing::Discard) => {}
            }
            at = part_end;
        }
        Ok(())
    }

    /// Whether a range is all that a chunk of a compact image has of the disk.
    fn is_whole_chunk(&self, range: &Range<u64>) -> bool {
        let (table, size_bytes) = (self.table.borrow(), self.size_bytes());
        table.as_ref().is_some_and(|table| {
            let end = table.chunk_end(range.start);
            range.start == end - table.chunk_bytes() && range.end == end.min(size_bytes)
        })
    }

    /// What the last transaction vouches for must stay as it is, and what recovery would write must
    /// be home: a mark sees to both.
    async fn zero_local(&self, range: Range<u64>, host: u64, how: Zeroing) -> Result<(), Error> {
        let host = self.whole_host(&range, host);
        let Some(journal) = self.journal() else {
            return self.zero_host(&host, how).await;
        };
        let mut attempts = 0;
        let _writing = loop {
            let writing = journal.checks.write(&host).await;
            if journal.not_in_place(&host).is_empty() || mutant("what is guarded is discarded") {
                break writing;
            }
            drop(writing);
            journal.lift_guard(self, attempts > 0).await?;
            attempts += 1;
        };
        self.zero_host(&host, how).await
    }

    async fn zero_host(&self, host: &Range<u64>, how: Zeroing) -> Result<(), Error> {
        let len = host.end - host.start;
        match how {
            Zeroing::Discard => {
                let discarded = self.storage.discard(host.start, len).await;
                self.flusher.changed();
                discarded.map(drop)
            }
            Zeroing::Write { unmap } => self.make_zeros(host.start, len, unmap).await,
        }
    }

    /// Where a range of the disk is in the file, from `host` on: what follows the disk belongs to its
    /// last block of the host.
    fn whole_host(&self, range: &Range<u64>, host: u64) -> Range<u64> {
        let end = host + range.end - range.start;
        if range.end == self.size_bytes() {
            host..end.next_multiple_of(ALIGNMENT)
        } else {
            host..end
        }
    }

    /// Whole blocks of a chunk become local and zeros; of others, the rest is copied.
    async fn zero_missing(&self, range: Range<u64>, unmap: bool) -> Result<(), Error> {
        let whole = self.whole_blocks(&range);
        if whole.is_empty() {
            return self.write_some_zeros(range).await;
        }
        self.write_some_zeros(range.start..whole.start).await?;
        if let Some(host) = self.own_host(whole.start) {
            let host = self.whole_host(&whole, host);
            self.zero_host(&host, Zeroing::Write { unmap }).await?;
        } else if self.frozen_host(whole.start).is_some() {
            self.give_place(&whole, Filling::Zeros { unmap }).await?;
        }
        self.make_local(&whole);
        self.write_some_zeros(whole.end..range.end).await
    }

    /// Makes zeros of blocks of a chunk whose place must stay as it is: it gets another, in which
    /// they are.
    async fn zero_frozen(&self, range: Range<u64>, unmap: bool) -> Result<(), Error> {
        let whole = self.whole_blocks(&range);
        if whole.is_empty() {
            return self.write_some_zeros(range).await;
        }
        self.give_place(&whole, Filling::Zeros { unmap }).await?;
        self.make_local(&whole);
        self.write_some_zeros(range.start..whole.start).await?;
        self.write_some_zeros(whole.end..range.end).await
    }

    /// The whole blocks of a range, if it has any.
    fn whole_blocks(&self, range: &Range<u64>) -> Range<u64> {
        let (block_bytes, size_bytes) = (self.block_bytes(), self.size_bytes());
        let start = range.start.next_multiple_of(block_bytes);
        let end = match range.end {
            end if end == size_bytes => end,
            end => end - end % block_bytes,
        };
        start..end.max(start)
    }

    /// Writes zeros to a part of a block.
    async fn write_some_zeros(&self, range: Range<u64>) -> Result<(), Error> {
        if range.is_empty() {
            return Ok(());
        }
        let len = usize::try_from(range.end - range.start).expect("less than two blocks");
        self.write_held(range.start, &Buffers::zeroed(len)).await
    }
}
