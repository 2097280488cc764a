//! What a disk format stands on: bytes in a file, on a block device, on a server far away, or in a
//! simulation.

mod any;
mod bytes;
mod file;
mod lock;
mod remote;
mod simulated;
mod zeros;

use std::future::Future;
use std::path::Path;

use crate::{Buffers, Error};

pub use any::AnyStorage;
pub(crate) use bytes::{for_each_piece, len, read, write};
pub(crate) use file::direct_alignment;
pub use file::{FileOptions, FileStorage};
pub(crate) use remote::{Address, DEADLINE};
pub use remote::{RemoteStorage, is_remote};
pub use simulated::{
    Fault, FaultyOperation, LatencyModel, Recording, SimulatedCounters, SimulatedDevice,
    SimulatedStorage,
};
pub(crate) use zeros::write_zeros;

/// What a storage is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Whether changes are refused.
    pub read_only: bool,
    /// The unit in which it is addressed; smaller accesses work.
    pub block_size_bytes: u32,
    /// The unit that it writes without reading first.
    pub physical_block_size_bytes: u32,
    /// The unit that it does best with, 0 if unknown.
    pub optimal_io_size_bytes: u32,
    /// The unit in which [`Storage::discard`] gives space back.
    pub discard_granularity_bytes: u32,
}

/// What a stretch of a storage is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StorageExtent {
    /// How far it goes, in bytes; not 0.
    pub len: u64,
    /// Whether there is data, which may be zeros; otherwise a hole, which reads as zeros.
    pub data: bool,
}

impl StorageExtent {
    /// The same, but no further than `len`.
    pub(crate) fn until(self, len: u64) -> Self {
        Self {
            len: self.len.min(len),
            ..self
        }
    }
}

/// Bytes that may survive a power cut.
///
/// Any number of operations may be in flight; those that overlap each other take effect in any
/// order. A future that is dropped leaves its operation running, with its memory.
pub trait Storage: 'static {
    /// What it is called in messages.
    fn path(&self) -> &Path;

    /// Its units, which do not change.
    fn geometry(&self) -> Geometry;

    /// Bytes that nobody can have guessed; in a simulation, its seed's.
    fn nonce(&self) -> [u8; 16];

    /// Its size in bytes.
    fn size_bytes(&self) -> u64;

    /// Fills `buffers` from `offset`. Past the end is an error.
    fn read_at(&self, offset: u64, buffers: Buffers) -> impl Future<Output = Result<(), Error>>;

    /// Writes `buffers` at `offset`; past the end, a file grows. At a power cut before a later
    /// [`Storage::sync`], each 512-byte sector is old or new.
    fn write_at(&self, offset: u64, buffers: Buffers) -> impl Future<Output = Result<(), Error>>;

    /// Makes everything durable that completed before this call. After a failure, nobody knows
    /// what became of it, and a later success says nothing about it.
    fn sync(&self) -> impl Future<Output = Result<(), Error>>;

    /// Whether [`Storage::barrier`] works.
    fn has_barrier(&self) -> bool;

    /// Makes sure that no power cut leaves anything of a write that begins after this has returned,
    /// unless everything is left that completed before this call. Makes nothing durable.
    fn barrier(&self) -> impl Future<Output = Result<(), Error>>;

    /// Whether [`Storage::zero_ahead`] works, and makes later writes cheaper.
    fn has_zero_ahead(&self) -> bool;

    /// Writes zeros to a range that nobody uses, in whole blocks of 4096 bytes, so that the sync
    /// after a later write there has nothing to allocate, nor the zeros to write; past the end, the
    /// file grows.
    fn zero_ahead(&self, offset: u64, len: u64) -> impl Future<Output = Result<(), Error>>;

    /// How many bytes the host has to spare, for [`Storage::zero_ahead`]; 0 if it does not say.
    fn spare_bytes(&self) -> u64;

    /// Says that a range is not needed any more, to give back its space where that is possible.
    /// Returns whether it reads as zeros from then on; it may read as anything otherwise.
    fn discard(&self, offset: u64, len: u64) -> impl Future<Output = Result<bool, Error>>;

    /// Makes a range within the size read as zeros: without giving back its space, or, with
    /// `unmap`, giving it back where that is possible.
    fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        unmap: bool,
    ) -> impl Future<Output = Result<(), Error>>;

    /// What is at `offset`, and how far it goes alike, within `len` bytes; `len` is not 0. Past
    /// the end is a hole. What a change in flight makes of its range, it tells or does not.
    fn extent(&self, offset: u64, len: u64) -> impl Future<Output = Result<StorageExtent, Error>>;

    /// Whether its size can change. That of a block device cannot.
    fn can_resize(&self) -> bool;

    /// Asks the host again how large it is: a block device may have become larger.
    fn refresh_size(&self) -> Result<(), Error>;

    /// Cuts off or adds zeros at the end.
    fn set_len(&self, size_bytes: u64) -> impl Future<Output = Result<(), Error>>;

    /// As [`Disk::give_up`](crate::Disk::give_up).
    fn give_up(&self) {}

    /// Lets go of it for others. The last call.
    fn close(&self);
}
