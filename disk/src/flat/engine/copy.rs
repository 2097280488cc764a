//! Copying from the base to the image: what a guest reads there, and what it may read later.
//!
//! A block that was copied is local from then on, but the file need not say so: after a crash, it
//! comes from the base again. So its bit waits for a checkpoint, and costs no sync. It does not wait
//! where the guest writes to the block: then the bit belongs to the pending transaction.

use std::ops::Range;
use std::sync::Arc;

use super::image::Image;
use super::read::slice;
use crate::journal::Journaled as _;
use crate::mutant::mutant;
use crate::{Buffers, CopyStatistics, Error, Storage, Trace};

/// How an image copies from its base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copying {
    /// Whether what a guest reads from the base is kept.
    pub on_read: bool,
    /// Whether everything is copied while nobody wants anything else.
    pub prefetch: Option<Prefetch>,
}

/// How what nobody has read yet is copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefetch {
    /// How many bytes a second at most.
    pub bytes_per_s: Option<u64>,
    /// What to copy first, and in which order.
    pub trace: Option<Arc<Trace>>,
}

/// So much is copied at once.
pub(super) const PIECE_BYTES: u64 = 1 << 20;
/// After so much, bits of what was copied go to the file: a crash costs no more than this.
const RECORD_BYTES: u64 = 64 << 20;

impl<S: Storage> Image<S> {
    /// Whether nothing of a range of the disk needs to be noted before a write.
    pub(super) fn is_recorded(&self, range: &Range<u64>) -> bool {
        let bitmap = self.bitmap.borrow();
        !bitmap.has_copied(&bitmap.blocks(range))
    }

    /// Blocks that were copied are about to be changed: the pending transaction notes their bits,
    /// and vouches for their content. The caller holds them exclusively.
    pub(super) fn record(&self, range: &Range<u64>) {
        let bitmap = self.bitmap.borrow();
        if mutant("what was copied is written without a note") {
            return;
        }
        for blocks in bitmap.take_copied(&bitmap.blocks(range)) {
            let range = self.bytes_of(&blocks);
            self.vouch_for(&range);
        }
    }

    /// Has the pending transaction note all that was copied, which is made durable before.
    pub(super) fn record_all(&self) {
        let bitmap = self.bitmap.borrow();
        if bitmap.take_copied(&(0..u64::MAX)).is_empty() {
            return;
        }
        if let Some(journal) = self.journal() {
            journal.checks.note_unchecked();
        }
    }

    fn bytes_of(&self, blocks: &Range<u64>) -> Range<u64> {
        let header = self.header.borrow();
        let bits = header.block_bits;
        blocks.start << bits..(blocks.end << bits).min(header.size_bytes)
    }

    /// Reads as [`Image::read`] does, whole blocks, and keeps what comes from the base.
    /// Its caller does not go away.
    pub(super) async fn read_and_keep(&self, offset: u64, buffers: &Buffers) -> Result<(), Error> {
        let range = offset..offset + buffers.len() as u64;
        let _change = self.changes.shared(0, 0).await;
        let mut at = offset;
        while at < range.end {
            let end = (at - at % PIECE_BYTES + PIECE_BYTES).min(range.end);
            let (first, last) = self.lock_range(&(at..end));
            let _exclusive = self.blocks.exclusive(first, last).await;
            let copied = self.copy_missing(&(at..end)).await;
            let part = slice(buffers, at - offset, end - at);
            self.read_held(at, &part).await?;
            let counted = |bytes| self.count_copied(|copies| copies.on_read_bytes += bytes);
            self.stop_at_error(copied.map(counted));
            at = end;
        }
        self.stop_at_error(self.record_sometimes().await);
        Ok(())
    }

    /// Whoever reads has what was wanted, whatever becomes of the copy.
    fn stop_at_error(&self, copied: Result<(), Error>) {
        if let Err(error) = copied {
            tracing::warn!(%error, "what is read from the base is not kept any more");
            self.copies.set(false);
        }
    }

    /// Puts bits of what was copied into the file, if those of much are not there.
    pub(super) async fn record_sometimes(&self) -> Result<(), Error> {
        let statistics = self.statistics.borrow().copies;
        let copied = statistics.on_read_bytes + statistics.prefetched_bytes;
        if copied - self.recorded_bytes.get() < RECORD_BYTES {
            return Ok(());
        }
        self.recorded_bytes.set(copied);
        // Nobody makes a journal meanwhile, which would not know what must be durable before.
        let _turn = self.preparing.all().await;
        self.record_all();
        match self.journal() {
            // The next flush takes them along.
            Some(_) if !self.fills_a_record() => Ok(()),
            _ => self.commit_all().await,
        }
    }

    /// Copies the blocks of a range that are not local. The caller holds them exclusively. Returns
    /// how much was read from the base.
    pub(super) async fn copy_missing(&self, range: &Range<u64>) -> Result<u64, Error> {
        let block_bytes = self.block_bytes();
        let end = range
            .end
            .next_multiple_of(block_bytes)
            .min(self.size_bytes());
        let mut at = range.start - range.start % block_bytes;
        let covered = self.header.borrow().covered_bytes;
        let mut copied = 0;
        while at < end {
            let (local, run_end) = self.run(&(at..end));
            if !local {
                let len = usize::try_from(run_end - at).expect("at most some blocks");
                let content = Buffers::zeroed(len);
                self.read_held(at, &content).await?;
                copied += run_end.min(covered) - at;
                self.check_writable("keep what was read")?;
                self.keep(at, &content).await?;
            }
            at = run_end;
        }
        Ok(copied)
    }

    /// Puts whole blocks in their places.
    async fn keep(&self, offset: u64, content: &Buffers) -> Result<(), Error> {
        let mut rest = offset..offset + content.len() as u64;
        while !rest.is_empty() {
            let range = self.in_one_chunk(&rest);
            let len = range.end - range.start;
            let content = slice(content, range.start - offset, len);
            let is_frozen = self.frozen_host(range.start).is_some();
            match self.own_host(range.start) {
                Some(host) if content.is_zero() => self.zero_place(&(host..host + len)).await?,
                None if content.is_zero() && !is_frozen => {}
                _ => self.fill_place(&range, content).await?,
            }
            let bitmap = self.bitmap.borrow();
            bitmap.set_copied(&bitmap.blocks(&range));
            rest.start = range.end;
        }
        Ok(())
    }

    /// Most often there is a hole already.
    async fn zero_place(&self, host: &Range<u64>) -> Result<(), Error> {
        let len = host.end - host.start;
        let found = self.storage.extent(host.start, len).await?;
        if !found.data && found.len >= len {
            return Ok(());
        }
        self.make_zeros(host.start, len, true).await
    }

    pub(super) fn count_copied(&self, count: impl FnOnce(&mut CopyStatistics)) {
        self.count(|statistics| count(&mut statistics.copies));
    }
}
