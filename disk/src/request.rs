//! What is asked of a disk.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::{Buffers, Class, DedupHint, Error, Statistics};

/// The unit of virtio-blk and of all older disks.
pub(crate) const SECTOR_BYTES: u64 = 512;

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
    /// What its blocks are to the guest.
    pub class: Class,
    /// Whether data like its own is elsewhere.
    pub dedup: DedupHint,
}

impl Request {
    /// Reads at `offset` as many bytes as `buffers` has.
    pub fn read(offset: u64, buffers: Buffers) -> Self {
        let len = buffers.len() as u64;
        Self {
            op: Op::Read(buffers),
            offset,
            len,
            class: Class::default(),
            dedup: DedupHint::default(),
        }
    }

    /// Writes all of `buffers` at `offset`.
    pub fn write(offset: u64, buffers: Buffers) -> Self {
        let len = buffers.len() as u64;
        Self {
            op: Op::Write(buffers),
            offset,
            len,
            class: Class::default(),
            dedup: DedupHint::default(),
        }
    }

    /// Flushes the whole disk.
    pub fn flush() -> Self {
        Self {
            op: Op::Flush,
            offset: 0,
            len: 0,
            class: Class::default(),
            dedup: DedupHint::default(),
        }
    }

    /// Discards `len` bytes at `offset`.
    pub fn discard(offset: u64, len: u64) -> Self {
        Self {
            op: Op::Discard,
            offset,
            len,
            class: Class::default(),
            dedup: DedupHint::default(),
        }
    }

    /// Writes `len` zero bytes at `offset`, giving back their space if `unmap`.
    pub fn write_zeroes(offset: u64, len: u64, unmap: bool) -> Self {
        Self {
            op: Op::WriteZeroes { unmap },
            offset,
            len,
            class: Class::default(),
            dedup: DedupHint::default(),
        }
    }
}

impl Request {
    /// The same, of blocks that are known to be of `class`.
    #[must_use]
    pub fn of_class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// The same, of data of which `dedup` is known.
    #[must_use]
    pub fn with_dedup_hint(self, dedup: DedupHint) -> Self {
        Self { dedup, ..self }
    }
}

impl Op {
    /// What it is called in messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Write(_) => "write",
            Self::Flush => "flush",
            Self::Discard => "discard",
            Self::WriteZeroes { .. } => "write zeros",
        }
    }
}

impl Request {
    /// Why no disk of this size can do it.
    pub(crate) fn problem(&self, size_bytes: u64) -> Option<&'static str> {
        let Self {
            op, offset, len, ..
        } = self;
        let mismatch = match op {
            Op::Read(buffers) | Op::Write(buffers) => buffers.len() as u64 != *len,
            Op::Flush | Op::Discard | Op::WriteZeroes { .. } => false,
        };
        if offset.checked_add(*len).is_none_or(|end| end > size_bytes) {
            Some("past the end of the disk")
        } else if !offset.is_multiple_of(SECTOR_BYTES) || !len.is_multiple_of(SECTOR_BYTES) {
            Some("not a multiple of 512")
        } else if mismatch {
            Some("its memory has another length")
        } else {
            None
        }
    }

    /// The error that says so.
    pub(crate) fn refused(&self, path: PathBuf, reason: &'static str) -> Error {
        Error::Request {
            path,
            operation: self.op.name(),
            offset: self.offset,
            len: self.len,
            reason,
        }
    }
}

/// What a request counts as.
#[derive(Clone, Copy)]
pub(crate) enum Counted {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes,
}

impl Counted {
    pub(crate) fn of(op: &Op) -> Self {
        match op {
            Op::Read(_) => Self::Read,
            Op::Write(_) => Self::Write,
            Op::Flush => Self::Flush,
            Op::Discard => Self::Discard,
            Op::WriteZeroes { .. } => Self::WriteZeroes,
        }
    }
}

/// The range of a disk of `size_bytes` that somebody wants to know of; an error if there is none.
pub(crate) fn located(
    path: &Path,
    size_bytes: u64,
    offset: u64,
    len: u64,
) -> Result<Range<u64>, Error> {
    match offset.checked_add(len) {
        Some(end) if len > 0 && end <= size_bytes => Ok(offset..end),
        _ => Err(Error::Request {
            path: path.to_owned(),
            operation: "locate",
            offset,
            len,
            reason: "there is no such range of the disk",
        }),
    }
}

impl Statistics {
    /// Counts a request of `len` bytes that is over.
    pub(crate) fn count(&mut self, counted: Counted, len: u64, succeeded: bool) {
        let (count, bytes) = match counted {
            _ if !succeeded => (&mut self.errors, None),
            Counted::Read => (&mut self.reads, Some(&mut self.read_bytes)),
            Counted::Write => (&mut self.writes, Some(&mut self.written_bytes)),
            Counted::Flush => (&mut self.flushes, None),
            Counted::Discard => (&mut self.discards, None),
            Counted::WriteZeroes => (&mut self.write_zeroes, None),
        };
        *count += 1;
        if let Some(bytes) = bytes {
            *bytes += len;
        }
    }
}
