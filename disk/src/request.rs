//! What is asked of a disk.

use crate::Buffers;

/// What to do, with the memory it needs.
#[derive(Clone, Debug)]
pub enum Op {
    /// Fills the memory from the disk.
    Read(Buffers),
    /// Writes the memory to the disk.
    Write(Buffers),
    /// Makes every write that completed before this request was submitted survive a power cut.
    Flush,
    /// Tells that the content is no longer needed; it may read as anything afterwards.
    Discard,
    /// Makes the range read as zeros.
    WriteZeroes {
        /// Whether the range may lose its space on the host.
        unmap: bool,
    },
}

/// A request to a disk.
#[derive(Clone, Debug)]
pub struct Request {
    /// What to do.
    pub op: Op,
    /// Where it starts, in bytes; 0 for a flush.
    pub offset: u64,
    /// How far it goes, in bytes; 0 for a flush.
    pub len: u64,
}

impl Request {
    /// Reads at `offset` as many bytes as `buffers` has.
    pub fn read(offset: u64, buffers: Buffers) -> Self {
        let len = buffers.len() as u64;
        Self {
            op: Op::Read(buffers),
            offset,
            len,
        }
    }

    /// Writes all of `buffers` at `offset`.
    pub fn write(offset: u64, buffers: Buffers) -> Self {
        let len = buffers.len() as u64;
        Self {
            op: Op::Write(buffers),
            offset,
            len,
        }
    }

    /// Flushes the whole disk.
    pub fn flush() -> Self {
        Self {
            op: Op::Flush,
            offset: 0,
            len: 0,
        }
    }

    /// Discards `len` bytes at `offset`.
    pub fn discard(offset: u64, len: u64) -> Self {
        Self {
            op: Op::Discard,
            offset,
            len,
        }
    }

    /// Writes `len` zero bytes at `offset`, giving back their space if `unmap`.
    pub fn write_zeroes(offset: u64, len: u64, unmap: bool) -> Self {
        Self {
            op: Op::WriteZeroes { unmap },
            offset,
            len,
        }
    }
}
