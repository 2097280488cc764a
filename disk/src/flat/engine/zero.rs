//! Discarding, and writing zeros. What is local stays so: zeros in the file hide the base.

use std::ops::Range;

use super::image::Image;
use crate::executor::yield_now;
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
            let _exclusive = self.blocks.exclusive(first, last).await;
            self.zero(piece.clone(), how).await?;
            at = piece.end;
            if at < range.end {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// The caller holds the blocks exclusively.
    async fn zero(&self, range: Range<u64>, how: Zeroing) -> Result<(), Error> {
        self.record(&range);
        let mut at = range.start;
        while at < range.end {
            let (local, end) = self.run(&(at..range.end));
            match how {
                _ if local => self.zero_local(at..end, how).await?,
                Zeroing::Write { unmap } => self.zero_missing(at..end, unmap).await?,
                Zeroing::Discard => {}
            }
            at = end;
        }
        Ok(())
    }

    /// What the last transaction vouches for must stay as it is, and what recovery would write must
    /// be home: a mark sees to both.
    async fn zero_local(&self, range: Range<u64>, how: Zeroing) -> Result<(), Error> {
        let host = self.host(range.start)..self.host(range.end);
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
        let len = self.host_end(host.end) - host.start;
        let result = match how {
            Zeroing::Discard => self.storage.discard(host.start, len).await.map(drop),
            Zeroing::Write { unmap } => self.storage.write_zeroes(host.start, len, unmap).await,
        };
        self.flusher.changed();
        result
    }

    /// Where a range ends that ends at `end` for the disk: what follows the disk belongs to its last
    /// block of the host.
    fn host_end(&self, end: u64) -> u64 {
        let header = self.header.borrow();
        if end == header.data_end() {
            header.file_end()
        } else {
            end
        }
    }

    /// Whole blocks become local and zeros; of others, the rest is copied.
    async fn zero_missing(&self, range: Range<u64>, unmap: bool) -> Result<(), Error> {
        let (block_bytes, size_bytes) = (self.block_bytes(), self.size_bytes());
        let start = range.start.next_multiple_of(block_bytes);
        let end = match range.end {
            end if end == size_bytes => end,
            end => end - end % block_bytes,
        };
        if start >= end {
            return self.write_some_zeros(range).await;
        }
        self.write_some_zeros(range.start..start).await?;
        let host = self.host(start)..self.host(end);
        self.zero_host(&host, Zeroing::Write { unmap }).await?;
        self.make_local(&(start..end));
        self.write_some_zeros(end..range.end).await
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
