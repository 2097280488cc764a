//! Growing a file ahead of need, so that a guest's write to a new place is cheap on the host.
//!
//! A write that makes the host's file system allocate costs, at the next sync, a commit of its
//! journal. Where zeros were written before, it costs no more than a write in place
//! ([`Storage::zero_ahead`] tells what that takes). So zeros are written behind what is in use, in
//! steps: small ones at first, twice as large each time that the last was used up, and half as
//! large after each time that the rest was given back.
//!
//! ```text
//!   in use ........... | zeros, ready | a piece in flight | nothing yet
//!                  used_end         front
//! ```
//! Zeros never meet data: whoever is about to use a place claims it first, and waits if a piece is
//! in flight just there; no piece begins before the end of what was claimed. Nothing rests on the
//! zeros: a power cut may leave them or not, and an error only ends the growth.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::between_flushes::BetweenFlushes;
use crate::mutant::mutant;
use crate::wait_queue::WaitQueue;
use crate::{Error, GrowthStatistics, Storage};

/// The first step, and the least, in units of allocation; but no more than [`STEP_MIN_BYTES`].
const STEP_MIN_UNITS: u64 = 16;
const STEP_MIN_BYTES: u64 = 1 << 20;
/// The largest step: what a disk writes in some tenths of a second.
const STEP_MAX_BYTES: u64 = 64 << 20;
/// Zeros in flight at once, so that a claim waits for little.
const PIECE_BYTES: u64 = 256 << 10;
/// What the host allocates by. Zeros begin and end with such a block.
const BLOCK_BYTES: u64 = 4096;
/// Who takes more than this between two flushes gains nothing: the sync takes as long as the data,
/// and zeros would be written as much again.
const BULK_BYTES: u64 = 512 << 10;
/// So many least steps may always be ahead, and otherwise an eighth of what is in use.
const AHEAD_FLOOR_STEPS: u64 = 8;

/// Zeros behind what is in use at the end of a file.
///
/// Its futures are polled to their end.
pub(crate) struct Growth {
    step_min_bytes: u64,
    /// Where what is in use ends.
    used_end: Cell<u64>,
    /// Where it ended when growth began, or began anew: a file that nobody makes larger stays.
    idle_end: Cell<u64>,
    /// Up to where there are zeros, or will be when the piece in flight is done.
    front: Cell<u64>,
    /// Where the last zeros end: those at the end of a step that was not finished, for example.
    zeros_end: Cell<u64>,
    /// The last step, 0 before the first.
    step_bytes: Cell<u64>,
    claimed: BetweenFlushes,
    /// Whether somebody writes zeros, or cuts them off.
    busy: Cell<bool>,
    /// Whether the one who writes zeros should come to an end.
    ending: Cell<bool>,
    /// Whether the storage cannot, or the host has refused.
    stopped: Cell<bool>,
    /// What is being changed just now, which nobody may use.
    piece: RefCell<Option<Range<u64>>>,
    piece_done: WaitQueue,
    statistics: Cell<GrowthStatistics>,
}

/// What is being changed, until it is dropped.
struct Piece<'a>(&'a Growth);

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        self.0.piece.replace(None);
        self.0.piece_done.wake_all();
    }
}

/// The turn of the one who writes zeros, or cuts them off.
struct Turn<'a>(&'a Growth);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.busy.set(false);
        self.0.piece_done.wake_all();
    }
}

impl Growth {
    /// For a file of which what is in use ends at `used_end`, in bytes, and which is used in units
    /// of `unit_bytes`.
    pub(crate) fn new(storage: &impl Storage, used_end: u64, unit_bytes: u64) -> Self {
        let step_min_bytes = (STEP_MIN_UNITS * unit_bytes).clamp(BLOCK_BYTES, STEP_MIN_BYTES);
        Self {
            step_min_bytes,
            used_end: Cell::new(used_end),
            idle_end: Cell::new(used_end),
            front: Cell::new(used_end),
            zeros_end: Cell::new(used_end),
            step_bytes: Cell::new(0),
            claimed: BetweenFlushes::default(),
            busy: Cell::new(false),
            ending: Cell::new(false),
            stopped: Cell::new(!storage.has_zero_ahead()),
            piece: RefCell::new(None),
            piece_done: WaitQueue::default(),
            statistics: Cell::default(),
        }
    }

    /// From now on `range` is in use, for what a guest writes. Waits as [`Growth::pass_over`] does.
    pub(crate) async fn claim(&self, range: Range<u64>) {
        self.claimed.add(range.end - range.start);
        self.pass_over(range).await;
    }

    /// From now on `range` is in use. Waits while zeros are being written there, or cut off.
    pub(crate) async fn pass_over(&self, range: Range<u64>) {
        self.used_end.set(self.used_end.get().max(range.end));
        self.front.set(self.front.get().max(range.end));
        while self.is_in_flight(&range) && !mutant("a claim does not wait for zeros") {
            self.piece_done.wait().await;
        }
    }

    fn is_in_flight(&self, range: &Range<u64>) -> bool {
        let overlaps = |piece: &Range<u64>| piece.start < range.end && range.start < piece.end;
        self.piece.borrow().as_ref().is_some_and(overlaps)
    }

    /// The guest has flushed.
    pub(crate) fn flushed(&self) {
        self.claimed.flushed();
    }

    /// Whether there should be more zeros now, for which the caller then spawns [`Growth::grow`]:
    /// no more than half of the last step is left, and little is taken between two flushes.
    pub(crate) fn wants_more(&self) -> bool {
        let ahead_bytes = self.front.get() - self.used_end.get();
        let is_bulk = self.claimed.max() > BULK_BYTES;
        !self.stopped.get()
            && !is_bulk
            && !self.busy.get()
            && self.used_end.get() > self.idle_end.get()
            && ahead_bytes <= self.step_bytes.get() / 2
    }

    /// Writes the zeros of the next step. What goes wrong ends the growth, and is nobody's error.
    pub(crate) async fn grow(&self, storage: &impl Storage) {
        if !self.wants_more() {
            return;
        }
        self.busy.set(true);
        let _turn = Turn(self);
        let step_bytes = self.next_step_bytes(storage);
        self.step_bytes.set(step_bytes);
        if step_bytes < self.step_min_bytes.min(PIECE_BYTES) {
            self.stopped.set(true);
            return;
        }
        let target = self.used_end.get().saturating_add(step_bytes);
        let written = self.write_step(storage, target - target % BLOCK_BYTES);
        if let Err(error) = written.await {
            tracing::debug!(%error, "the file does not grow ahead any more");
            self.stopped.set(true);
        }
    }

    fn next_step_bytes(&self, storage: &impl Storage) -> u64 {
        let wanted = (self.step_bytes.get() * 2).clamp(self.step_min_bytes, STEP_MAX_BYTES);
        let share = (self.used_end.get() / 8).max(AHEAD_FLOOR_STEPS * self.step_min_bytes);
        wanted.min(share).min(storage.spare_bytes() / 8)
    }

    /// Writes zeros up to `target`. The last block comes first: to write within a file's size holds
    /// up others less than to move its end.
    async fn write_step(&self, storage: &impl Storage, target: u64) -> Result<(), Error> {
        let last = target.saturating_sub(BLOCK_BYTES)..target;
        if self.next_piece(last.start).is_some() && storage.size_bytes() < target {
            self.write_piece(storage, last).await?;
        }
        while let Some(piece) = self.next_piece(target) {
            if self.ending.get() {
                break;
            }
            self.front.set(piece.end);
            self.write_piece(storage, piece).await?;
        }
        Ok(())
    }

    /// The next that is not zeros yet before `target`, up to a multiple of a piece's length.
    fn next_piece(&self, target: u64) -> Option<Range<u64>> {
        let start = self.front.get().next_multiple_of(BLOCK_BYTES);
        let end = (start + PIECE_BYTES - start % PIECE_BYTES).min(target);
        (start < end).then_some(start..end)
    }

    async fn write_piece(&self, storage: &impl Storage, piece: Range<u64>) -> Result<(), Error> {
        let len = piece.end - piece.start;
        self.zeros_end.set(self.zeros_end.get().max(piece.end));
        self.piece.replace(Some(piece.clone()));
        let in_flight = Piece(self);
        let written = storage.zero_ahead(piece.start, len).await;
        drop(in_flight);
        written?;
        self.count(|statistics| statistics.written_ahead_bytes += len);
        Ok(())
    }

    /// Cuts off what is ahead, now that what is in use ends at `used_end`: before the file is
    /// closed, when nothing was claimed for a while, or when the host is full. After that, growth
    /// begins anew, with a step half as large as the last. Claims behind `used_end` wait meanwhile.
    pub(crate) async fn give_back(
        &self,
        storage: &impl Storage,
        used_end: u64,
    ) -> Result<(), Error> {
        self.used_end.set(used_end);
        self.ending.set(true);
        while self.busy.get() {
            self.piece_done.wait().await;
        }
        self.ending.set(false);
        self.busy.set(true);
        let _turn = Turn(self);
        // The next is twice this.
        self.step_bytes.set(self.step_bytes.get() / 4);
        let used_end = self.used_end.get();
        self.idle_end.set(used_end);
        self.front.set(used_end);
        if self.zeros_end.get() <= used_end {
            return Ok(());
        }
        let end = used_end.next_multiple_of(BLOCK_BYTES);
        self.piece.replace(Some(used_end..u64::MAX));
        let _cutting = Piece(self);
        if storage.size_bytes() > end {
            let len = storage.size_bytes() - end;
            storage.set_len(end).await?;
            self.count(|statistics| statistics.given_back_bytes += len);
        }
        self.zeros_end.set(used_end);
        Ok(())
    }

    /// From now on, nothing more is written.
    pub(crate) fn stop(&self) {
        self.stopped.set(true);
    }

    /// Whether something is ahead that could be given back.
    pub(crate) fn has_ahead(&self) -> bool {
        self.zeros_end.get() > self.used_end.get()
    }

    /// What it has done so far.
    pub(crate) fn statistics(&self) -> GrowthStatistics {
        self.statistics.get()
    }

    fn count(&self, count: impl FnOnce(&mut GrowthStatistics)) {
        let mut statistics = self.statistics.get();
        count(&mut statistics);
        self.statistics.set(statistics);
    }
}

#[cfg(test)]
mod tests;
