//! A journal of an image's metadata, in a region of the image's own file.
//!
//! ```text
//!   guest's flush ─> RecordBuilder ── changes of metadata, words at offsets
//!                       │          ── Checks: data that is in its place (no-data mode)
//!                       │          ── Shadows: data that must not go there yet (full mode)
//!                       v
//!      Ring ─> one write beside the data ─> one sync ─> Home ─> checkpoint, later
//! ```
//! The journal knows nothing of the format above it: a record says which bytes belong where in the
//! file. The rules, and why they suffice, are in docs/journal.md. The idea is that of Chen et al.,
//! "Mitigating Sync Amplification for Copy-on-write Virtual Disk" (FAST 2016).

mod checkpoint;
mod checks;
mod commit;
mod detour;
mod format;
mod home;
mod idle;
mod in_place;
mod journaled;
mod record;
mod recovery;
mod ring;
mod shadows;
mod unclosed;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;

use zerocopy::IntoBytes as _;

pub(crate) use checks::Checks;
pub(crate) use detour::Detour;
pub use format::Identity;
use format::{BLOCK_BYTES, SUPERBLOCK_CRC_AT, SUPERBLOCK_MAGIC, Superblock};
pub(crate) use format::{REGION_BYTES_MAX, REGION_BYTES_MIN};
use home::{Batch, Home};
pub(crate) use idle::watch_idleness;
pub(crate) use in_place::overwrite;
pub(crate) use journaled::Journaled;
pub(crate) use record::RecordBuilder;
pub use recovery::RecoveryReport;
pub(crate) use recovery::find;
use ring::Ring;
pub(crate) use shadows::{Reserved, Shadows, lay_over};
pub(crate) use unclosed::unclosed;

use crate::flush::Flusher;
use crate::mutant::mutant;
use crate::ranges::Ranges;
use crate::storage::write_zeros;
use crate::wait_queue::WaitQueue;
use crate::{Buffers, Error, JournalStatistics, Storage};

/// The part of the largest record that each kind of content may fill, one of: data, checked ranges,
/// their checksums. Changes of metadata may fill a quarter.
const SHARE: u64 = 6;

/// The journal of an image that is open for writing.
pub(crate) struct Journal {
    region: Range<u64>,
    identity: Identity,
    /// What recovery gives back to the format.
    kept: Vec<u8>,
    /// New data in place that records vouch for.
    pub(crate) checks: Checks,
    /// New data that is not in its place.
    pub(crate) shadows: Shadows,
    /// Which new data should not go to its place at once.
    pub(crate) detour: Detour,
    ring: RefCell<Ring>,
    home: RefCell<Home>,
    /// The last record that is durable.
    durable: Cell<u64>,
    /// What checkpoints have written that is not known to be durable: the change of the file that
    /// was, and the last record of which nothing is left to be written.
    written_home: RefCell<VecDeque<(u64, u64)>>,
    /// The last record of which nothing is left to be written.
    last_written: Cell<u64>,
    /// The first record that is not known to be in its place, durably.
    tail: Cell<u64>,
    checkpointing: Cell<bool>,
    /// Whether somebody looks whether the image is idle.
    is_watched: Cell<bool>,
    /// A record without changes that could not be written.
    unfinished_mark: RefCell<Option<Placed>>,
    waiting: WaitQueue,
    statistics: Cell<JournalStatistics>,
}

/// A record with a place in the journal.
pub(crate) struct Placed {
    offset: u64,
    bytes: Vec<u8>,
    tail: u64,
    is_mark: bool,
}

/// Guest data that a record has or vouches for.
pub(crate) struct SealedData {
    /// What goes into the record: offsets and whole sectors.
    pub(crate) data: Vec<(u64, Vec<u8>)>,
    /// Whether the record points to data that must be durable before.
    pub(crate) unchecked: bool,
}

/// What a durable record leaves to be written.
#[derive(Default)]
pub(crate) struct Committed {
    /// Whole sectors of metadata.
    pub(crate) metadata: Vec<(u64, Vec<u8>)>,
    /// Whole sectors of the guest's data.
    pub(crate) data: Vec<(u64, Vec<u8>)>,
    /// Parts of sectors of which the rest is not in any record.
    pub(crate) fields: Option<(u64, Vec<u8>)>,
}

/// Lets the next checkpoint begin.
pub(crate) struct Checkpointing<'a>(&'a Journal);

impl Drop for Checkpointing<'_> {
    fn drop(&mut self) {
        self.0.checkpointing.set(false);
        self.0.waiting.wake_all();
    }
}

impl Journal {
    /// Makes an empty journal in a region that is nobody else's, and writes it there; the caller
    /// makes it durable, and then says in the image that it is there. `kept` is given back by
    /// recovery; `before` is what earlier journals of the image have done.
    pub(crate) async fn create(
        storage: &impl Storage,
        region: Range<u64>,
        kept: &[u8],
        before: JournalStatistics,
    ) -> Result<Self, Error> {
        let identity = storage.nonce();
        let len = region.end - region.start;
        // Zeros, so that writing a record allocates nothing, and recovery finds no earlier ones.
        write_zeros(storage, region.clone()).await?;
        let head = Superblock {
            magic: SUPERBLOCK_MAGIC,
            crc: 0.into(),
            kept_bytes: u32::try_from(kept.len()).expect("within a block").into(),
            identity,
            region_bytes: len.into(),
        };
        let mut block = [head.as_bytes(), kept].concat();
        block.resize(usize::try_from(BLOCK_BYTES).expect("small"), 0);
        let ring = Ring::new(len);
        let max = ring.record_bytes_max();
        let crc = crc32c::crc32c(&block);
        block[SUPERBLOCK_CRC_AT..SUPERBLOCK_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        storage
            .write_at(region.start, Buffers::from_vec(block))
            .await?;
        Ok(Self {
            region,
            identity,
            kept: kept.to_vec(),
            checks: Checks::new(max / SHARE),
            shadows: Shadows::default(),
            detour: Detour::default(),
            ring: RefCell::new(ring),
            home: RefCell::default(),
            durable: Cell::new(0),
            written_home: RefCell::default(),
            last_written: Cell::new(0),
            tail: Cell::new(1),
            checkpointing: Cell::default(),
            is_watched: Cell::default(),
            unfinished_mark: RefCell::default(),
            waiting: WaitQueue::default(),
            statistics: Cell::new(before),
        })
    }

    /// Where it is.
    pub(crate) fn region(&self) -> Range<u64> {
        self.region.clone()
    }

    /// What recovery would give back to the format.
    pub(crate) fn kept(&self) -> &[u8] {
        &self.kept
    }

    /// What tells it from others.
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// The sequence number of the next record.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.durable.get() + 1
    }

    /// The most that a record may have.
    pub(crate) fn record_bytes_max(&self) -> u64 {
        self.ring.borrow().record_bytes_max()
    }

    /// What it has done.
    pub(crate) fn statistics(&self) -> JournalStatistics {
        self.statistics.get()
    }

    /// Counts something.
    pub(crate) fn count(&self, count: impl FnOnce(&mut JournalStatistics)) {
        let mut statistics = self.statistics.get();
        count(&mut statistics);
        self.statistics.set(statistics);
    }

    /// Whether the guest may write a range in place without any more ado.
    pub(crate) fn is_free(&self, range: &Range<u64>) -> bool {
        self.checks.is_free(range)
            && (self.shadows.is_empty() || self.shadows.within(range).is_empty())
    }

    /// The parts of a range that the guest must not write in place, in order: the last record
    /// vouches for them, or recovery would write over them.
    pub(crate) fn not_in_place(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut kept = Ranges::default();
        for part in self.checks.guarded(range) {
            kept.insert(part);
        }
        for part in self.shadows.within(range) {
            kept.insert(part);
        }
        kept.iter().collect()
    }

    /// The parts of a range without those that are `kept` from it, in order.
    pub(crate) fn in_place(range: &Range<u64>, kept: &[Range<u64>]) -> Vec<Range<u64>> {
        let mut not = Ranges::default();
        for part in kept {
            not.insert(part.clone());
        }
        not.missing(range)
    }

    /// Whether so many bytes more may wait for the next record.
    pub(crate) fn has_room_for(&self, bytes: u64) -> bool {
        let pending = self.shadows.pending_bytes() + bytes;
        let all = self.shadows.bytes() + bytes;
        let len = self.region.end - self.region.start;
        bytes == 0 || (pending <= self.record_bytes_max() / SHARE && all <= len)
    }

    /// Keeps room for so many bytes more that will wait for a record, if there is any.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reserved> {
        self.has_room_for(bytes)
            .then(|| self.shadows.reserve(bytes))
    }

    /// Nothing points to a range any more once the pending transaction is durable.
    pub(crate) fn forget(&self, range: &Range<u64>) {
        self.checks.forget(range);
        self.shadows.forget(range);
        self.detour.note_written(range);
    }

    /// The range may become somebody else's: nothing of what was there is written any more.
    pub(crate) async fn let_go(&self, range: &Range<u64>) {
        while self.checkpointing.get() {
            self.waiting.wait().await;
        }
        self.home.borrow_mut().forget(range);
    }

    /// Gives a record its place, if there is room. Without one, `is_last` takes the room that is
    /// left for a record that frees others.
    pub(crate) fn place(
        &self,
        builder: &RecordBuilder,
        flusher: &Flusher,
        is_last: bool,
    ) -> Option<Placed> {
        let (sequence, tail) = (self.next_sequence(), self.advance_tail(flusher));
        let bytes = builder.finish(self.identity, sequence, tail);
        let mut ring = self.ring.borrow_mut();
        let start = match ring.take(sequence, bytes.len() as u64) {
            None if is_last => ring.take_last(sequence),
            start => start?,
        };
        let offset = self.region.start + start;
        Some(Placed {
            offset,
            bytes,
            tail,
            is_mark: builder.is_empty(),
        })
    }

    /// Takes out all the guest data that belongs to the pending transaction, and puts it, or its
    /// checksums, into the record. The caller has closed the checks.
    pub(crate) fn seal_data(&self, record: &mut RecordBuilder) -> SealedData {
        let (sums, unchecked) = self.checks.seal();
        let data = self.shadows.seal();
        for (at, bytes) in &data {
            record.write(*at, bytes);
        }
        let mut checksummed = 0;
        for (range, sums) in sums {
            record.check(range.start, range.end - range.start, &sums);
            checksummed += sums.len() as u64;
        }
        let full = data.chunk_by(|a, b| a.0 / BLOCK_BYTES == b.0 / BLOCK_BYTES);
        let full = full.count() as u64;
        self.count(|statistics| {
            statistics.checksummed_blocks += checksummed;
            statistics.full_blocks += full;
        });
        SealedData { data, unchecked }
    }

    /// Records before the tail are in their places, durably.
    fn advance_tail(&self, flusher: &Flusher) -> u64 {
        let mut written = self.written_home.borrow_mut();
        while let Some((mark, upto)) = written.front().copied() {
            if !flusher.is_durable(mark) && !mutant("the tail moves before a sync") {
                break;
            }
            self.tail.set(upto + 1);
            written.pop_front();
        }
        self.tail.get()
    }

    /// Writes a record.
    pub(crate) async fn write(&self, storage: &impl Storage, placed: &Placed) -> Result<(), Error> {
        let buffers = Buffers::from_vec(&placed.bytes);
        storage.write_at(placed.offset, buffers).await?;
        self.count(|statistics| statistics.written_bytes += placed.bytes.len() as u64);
        Ok(())
    }

    /// The record is durable.
    pub(crate) fn committed(&self, placed: &Placed, committed: Committed) {
        let sequence = self.next_sequence();
        self.count(|statistics| {
            statistics.transactions += u64::from(!placed.is_mark);
            statistics.marks += u64::from(placed.is_mark);
        });
        self.durable.set(sequence);
        self.checks.committed();
        self.shadows.committed(sequence);
        self.release(placed.tail);
        let mut home = self.home.borrow_mut();
        for (offset, bytes) in &committed.metadata {
            home.add_metadata(*offset, bytes);
        }
        for (offset, bytes) in &committed.data {
            home.add_data(*offset, bytes);
        }
        if let Some((offset, bytes)) = committed.fields {
            home.add_field(offset, bytes);
        }
    }

    /// A record is durable that only says that the one before it is, and which of them recovery
    /// needs.
    pub(crate) fn marked(&self, placed: &Placed) {
        self.count(|statistics| statistics.marks += 1);
        self.durable.set(self.next_sequence());
        self.checks.marked();
        self.release(placed.tail);
    }

    fn release(&self, tail: u64) {
        self.ring.borrow_mut().free_before(tail);
        self.shadows.release(tail);
    }

    /// Whether a checkpoint should come soon.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        !self.checkpointing.get()
            && self.ring.borrow().is_half_full()
            && self.last_written.get() != self.durable.get()
    }

    /// Whether a checkpoint has something to write.
    pub(crate) fn has_to_write(&self) -> bool {
        !self.home.borrow().is_empty()
    }

    /// Whether recovery would find nothing but one record, and that in its place.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.shadows.is_empty() && self.ring.borrow().live() <= 1 && !self.has_to_write()
    }

    /// Takes what waits for a checkpoint, when no other is running.
    pub(crate) async fn begin_checkpoint(&self) -> (Checkpointing<'_>, Batch) {
        while self.checkpointing.replace(true) {
            self.waiting.wait().await;
        }
        let batch = self.home.borrow_mut().take(self.durable.get());
        (Checkpointing(self), batch)
    }

    /// A checkpoint could not write everything.
    pub(crate) fn checkpoint_failed(&self, batch: Batch) {
        self.home.borrow_mut().put_back(batch);
    }

    /// A checkpoint has written everything; `mark` is the last of the changes that were.
    /// Returns the last record of which nothing is left to be written.
    pub(crate) fn checkpoint_written(&self, batch: &Batch, mark: u64) -> u64 {
        self.last_written.set(batch.upto);
        self.written_home.borrow_mut().push_back((mark, batch.upto));
        self.count(|statistics| statistics.checkpoints += 1);
        batch.upto
    }
}
