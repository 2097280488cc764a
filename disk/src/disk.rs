//! The disk, as a device or a server sees it.

use std::future::Future;
use std::ops::AddAssign;
use std::pin::Pin;

use crate::{CacheStatistics, ClassStatistics, Error, Request};

/// A future without a name, for a trait behind `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// What a disk is like. None of it changes while the disk is open, unless its owner has the whole
/// image changed, by [`Qcow2::resize`](crate::qcow2::Qcow2::resize) for example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Size in bytes, a multiple of 512.
    pub size_bytes: u64,
    /// Whether every change is refused.
    pub read_only: bool,
    /// The unit in which a guest should address the disk; 512 for files, the device's own for
    /// block devices. Requests need only be aligned to 512.
    pub block_size_bytes: u32,
    /// The unit that the host writes without reading first.
    pub physical_block_size_bytes: u32,
    /// The unit that the host does best with, 0 where it does not say.
    pub optimal_io_size_bytes: u32,
    /// The unit in which discarding gives space back.
    pub discard_granularity_bytes: u32,
}

/// What a disk has done since it was opened. Requests that failed count as errors only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Requests to write zeros.
    pub write_zeroes: u64,
    /// Times the host was asked to make data durable. Flushes that come together share one, and a
    /// flush with nothing to make durable needs none.
    pub host_syncs: u64,
    /// Times the host was asked to keep writes in order, without making them durable.
    pub barriers: u64,
    /// Bytes of the format's own tables written to their places.
    pub metadata_bytes: u64,
    /// What the journal did.
    pub journal: JournalStatistics,
    /// How the file grew ahead of need.
    pub growth: GrowthStatistics,
    /// What was copied from a base.
    pub copies: CopyStatistics,
    /// What was not written because it was there already.
    pub dedup: DedupStatistics,
    /// What a cache in front of the disk did.
    pub cache: CacheStatistics,
    /// What the requests were for, where somebody tells blocks apart
    /// ([`Classified`](crate::Classified)).
    pub classes: ClassStatistics,
    /// Requests that failed.
    pub errors: u64,
}

/// What an image's journal has done since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalStatistics {
    /// Transactions that were committed.
    pub transactions: u64,
    /// Those without a change, which only prove that the one before is durable.
    pub marks: u64,
    /// Blocks of 4 KiB of new data, in place, that a transaction vouched for by a checksum.
    pub checksummed_blocks: u64,
    /// Blocks of 4 KiB whose data, or a part of it, went into a transaction.
    pub full_blocks: u64,
    /// Bytes written to the journal.
    pub written_bytes: u64,
    /// Times that what the journal holds was written to its places.
    pub checkpoints: u64,
    /// Those for which a commit had to wait, because the journal was full.
    pub checkpoints_forced: u64,
    /// Bytes written by checkpoints.
    pub checkpoint_bytes: u64,
    /// Syncs before a transaction, for data without a checksum.
    pub data_syncs: u64,
    /// Transactions that were found when the image was opened, and written to their places.
    pub recovered_transactions: u64,
    /// How long that took, in nanoseconds.
    pub recovery_ns: u64,
}

/// What an image has copied from its base since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyStatistics {
    /// Bytes that were read there for whoever read from the disk.
    pub on_read_bytes: u64,
    /// Bytes that were read there before anybody wanted them.
    pub prefetched_bytes: u64,
}

/// What an image that shares data did about it since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DedupStatistics {
    /// Bytes that were looked up, in whole clusters.
    pub looked_up_bytes: u64,
    /// Bytes of those that were there already, or zeros, and so were not written.
    pub shared_bytes: u64,
    /// Bytes that were not looked up because there is nothing like them
    /// ([`DedupHint::NoDedup`](crate::DedupHint::NoDedup)).
    pub unique_bytes: u64,
    /// Bytes that were read and remembered because they are being copied
    /// ([`DedupHint::Prefetch`](crate::DedupHint::Prefetch)).
    pub prefetched_bytes: u64,
}

/// How much an image's file has grown ahead of need since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrowthStatistics {
    /// Bytes that were set aside, as zeros, behind the data.
    pub written_ahead_bytes: u64,
    /// Bytes of those that were given back unused.
    pub given_back_bytes: u64,
}

/// Adds one by one all fields that are named.
macro_rules! add_fields {
    ($name:ident: $($field:ident),+) => {
        impl AddAssign for $name {
            fn add_assign(&mut self, other: Self) {
                // No field is left out.
                let Self { $($field),+ } = other;
                $(self.$field += $field;)+
            }
        }
    };
}

pub(crate) use add_fields;

add_fields!(Statistics: reads, read_bytes, writes, written_bytes, flushes, discards, write_zeroes, host_syncs, barriers, metadata_bytes, journal, growth, copies, dedup, cache, classes, errors);
add_fields!(JournalStatistics: transactions, marks, checksummed_blocks, full_blocks, written_bytes, checkpoints, checkpoints_forced, checkpoint_bytes, data_syncs, recovered_transactions, recovery_ns);
add_fields!(DedupStatistics: looked_up_bytes, shared_bytes, unique_bytes, prefetched_bytes);
add_fields!(CopyStatistics: on_read_bytes, prefetched_bytes);
add_fields!(GrowthStatistics: written_ahead_bytes, given_back_bytes);

/// What a stretch of a disk is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How far it goes, in bytes.
    pub len: u64,
    /// What is there.
    pub content: Content,
    /// Which layer of the image says so: 0 is the image itself, 1 its backing file, and so on.
    pub depth: u32,
    /// Where it is in the file of that layer, if it has a place there.
    pub host_offset: Option<u64>,
}

/// What there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Nothing in any layer; reads as zeros.
    Absent,
    /// Zeros, that no layer needs to store: a hole in a file, or a zero cluster.
    Zero,
    /// Data, which may happen to be zeros.
    Data,
    /// Data that is stored compressed.
    Compressed,
}

impl Content {
    /// Whether it is known to read as zeros.
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Absent | Self::Zero)
    }
}

/// A disk. Lives on one [`Executor`](crate::Executor).
pub trait Disk {
    /// Its size and its units.
    fn properties(&self) -> Properties;

    /// Does `request`. Many may be in flight, and complete in any order.
    ///
    /// A flush covers the writes that completed before it was submitted, those of whoever had the
    /// image before included. A write that was in
    /// flight at a power cut leaves each of its 512-byte sectors old or new.
    ///
    /// Once begun, the future is polled to its end or dropped: others may wait for it. Dropped,
    /// what it had started goes on, with its memory kept until the host is done with it, but how
    /// far it gets is unknown.
    fn submit(&self, request: Request) -> BoxFuture<'_, Result<(), Error>>;

    /// What is at `offset`, and how far it goes alike, within `len` bytes; `len` is not 0.
    fn extent(&self, offset: u64, len: u64) -> BoxFuture<'_, Result<Extent, Error>>;

    /// What waits for a server that is away ends with an error soon, now and later: whoever uses the
    /// disk is about to close it. What is on this host is not touched.
    fn give_up(&self) {}

    /// Flushes and gives the image back to others. The last call: no request is in flight, and
    /// none follows.
    fn close(&self) -> BoxFuture<'_, Result<(), Error>>;

    /// What it has done so far.
    fn statistics(&self) -> Statistics;
}
