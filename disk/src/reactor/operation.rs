//! Operations on files, and how a thread does them.
#![expect(unsafe_code, reason = "hands raw memory to system calls")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

use super::extent::extent;
use super::socket::{self, Readiness};
use crate::Buffers;
use crate::storage::StorageExtent;

/// The most segments that one system call takes (`IOV_MAX`).
const SEGMENTS_MAX: usize = 1024;

/// Something to do, with everything it needs to stay alive meanwhile.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Reads; may come short. The buffers are exact. `cached` if it goes through the page cache.
    Read {
        file: Arc<File>,
        offset: u64,
        buffers: Buffers,
        cached: bool,
    },
    /// Writes; may come short. The buffers are exact. `cached` if it ends in the page cache.
    Write {
        file: Arc<File>,
        offset: u64,
        buffers: Buffers,
        cached: bool,
    },
    /// Makes data durable, and of the metadata what it takes to read it back (`fdatasync`).
    Sync { file: Arc<File> },
    /// Keeps data written before from being durable after data written later, by the system call
    /// with this number.
    Barrier { file: Arc<File>, number: u32 },
    /// Changes how a range is allocated, never the file's size.
    Allocate {
        file: Arc<File>,
        offset: u64,
        len: u64,
        mode: AllocateMode,
    },
    /// Discards a range of a block device.
    Discard {
        file: Arc<File>,
        offset: u64,
        len: u64,
    },
    /// Finds out whether a regular file has data at `offset`, and how far within `len` bytes.
    FindExtent {
        file: Arc<File>,
        offset: u64,
        len: u64,
        found: Arc<OnceLock<StorageExtent>>,
    },
    /// Truncates or extends a file.
    SetLen { file: Arc<File>, len: u64 },
    /// Receives from a stream, which may bring less than there is room for, and 0 at its end. The
    /// buffers are exact.
    Receive {
        socket: Arc<OwnedFd>,
        buffers: Buffers,
    },
    /// Waits until a descriptor is ready.
    Wait {
        descriptor: Arc<OwnedFd>,
        readiness: Readiness,
    },
    /// Lets virtual time pass; without a simulation, none does.
    Delay { duration_ns: u64 },
}

/// What [`Operation::Allocate`] does. Either way the range reads as zeros after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AllocateMode {
    /// Gives the space back.
    PunchHole,
    /// Keeps the space.
    ZeroRange,
}

impl AllocateMode {
    /// As `fallocate` has it.
    pub(super) fn flags(self) -> i32 {
        libc::FALLOC_FL_KEEP_SIZE
            | match self {
                Self::PunchHole => libc::FALLOC_FL_PUNCH_HOLE,
                Self::ZeroRange => libc::FALLOC_FL_ZERO_RANGE,
            }
    }
}

impl Operation {
    /// Whether it depends on somebody else when it ends, if ever.
    pub(super) fn is_endless(&self) -> bool {
        matches!(self, Self::Receive { .. } | Self::Wait { .. })
    }

    /// Does it on this thread, and reports as `io_uring` does: a count or a negated error number.
    pub(super) fn perform(&self) -> i32 {
        let done = match self {
            Self::Read {
                file,
                offset,
                buffers,
                ..
            } => read(file, *offset, buffers),
            Self::Write {
                file,
                offset,
                buffers,
                ..
            } => write(file, *offset, buffers),
            Self::Sync { file } => file.sync_data().map(|()| 0),
            Self::Barrier { file, number } => barrier(file, *number),
            Self::Allocate {
                file,
                offset,
                len,
                mode,
            } => allocate(file, *offset, *len, *mode),
            Self::Discard { file, offset, len } => discard(file, *offset, *len),
            Self::FindExtent {
                file,
                offset,
                len,
                found,
            } => extent(file, *offset, *len).map(|extent| {
                found.get_or_init(|| extent);
                0
            }),
            Self::SetLen { file, len } => file.set_len(*len).map(|()| 0),
            Self::Receive { socket, buffers } => socket::receive(socket, buffers),
            Self::Wait { .. } | Self::Delay { .. } => Ok(0),
        };
        done.unwrap_or_else(|error| -error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// The result of an operation as Rust has it.
pub(super) fn outcome(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(result.wrapping_neg()))
}

/// The segments that one call can take: address and count.
pub(super) fn segments(buffers: &Buffers) -> (*const libc::iovec, u32) {
    let segments = buffers.iovecs();
    let count = u32::try_from(segments.len().min(SEGMENTS_MAX)).expect("at most 1024");
    (segments.as_ptr(), count)
}

pub(super) fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EFBIG))
}

fn read(file: &File, offset: u64, buffers: &Buffers) -> io::Result<i32> {
    let offset = file_offset(offset)?;
    let (segments, count) = segments(buffers);
    // SAFETY: the segments are valid while `buffers` lives.
    let done = unsafe { libc::preadv(file.as_raw_fd(), segments, count.cast_signed(), offset) };
    transferred(done)
}

/// Reads what is in the page cache, if anything is, without waiting.
pub(super) fn read_cached(file: &File, offset: u64, buffers: &Buffers) -> io::Result<i32> {
    let offset = file_offset(offset)?;
    let (segments, count) = segments(buffers);
    let (count, flags) = (count.cast_signed(), libc::RWF_NOWAIT);
    // SAFETY: the segments are valid while `buffers` lives.
    transferred(unsafe { libc::preadv2(file.as_raw_fd(), segments, count, offset, flags) })
}

/// Whether the byte at `offset` is in the page cache or past the end of the file.
pub(super) fn is_cached(file: &File, offset: u64) -> bool {
    let Ok(offset) = file_offset(offset) else {
        return false;
    };
    let mut byte = 0_u8;
    let segment = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let (file, flags) = (file.as_raw_fd(), libc::RWF_NOWAIT);
    // SAFETY: one segment of one byte, which lives until the call returns.
    let done = unsafe { libc::preadv2(file, &raw const segment, 1, offset, flags) };
    done >= 0
}

fn write(file: &File, offset: u64, buffers: &Buffers) -> io::Result<i32> {
    let offset = file_offset(offset)?;
    let (segments, count) = segments(buffers);
    // SAFETY: the segments are valid while `buffers` lives.
    let done = unsafe { libc::pwritev(file.as_raw_fd(), segments, count.cast_signed(), offset) };
    transferred(done)
}

/// Does the system call with this number as `fdatabarrier(fd)`: one that says anything but 0 is
/// another.
pub(crate) fn barrier(file: &File, number: u32) -> io::Result<i32> {
    // SAFETY: the caller says that the number is that of a system call which takes a descriptor
    // and no pointer; the unused arguments are null for any that would take more.
    let done = unsafe { libc::syscall(number.into(), file.as_raw_fd(), 0_usize, 0_usize, 0_usize) };
    match done {
        0 => Ok(0),
        -1 => Err(io::Error::last_os_error()),
        _ => Err(io::Error::from_raw_os_error(libc::ENOSYS)),
    }
}

/// The kernel transfers at most 2 GiB less a page at once, so that the count fits.
pub(super) fn transferred(done: isize) -> io::Result<i32> {
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(done).map_err(io::Error::other)
}

fn allocate(file: &File, offset: u64, len: u64, mode: AllocateMode) -> io::Result<i32> {
    let (offset, len) = (file_offset(offset)?, file_offset(len)?);
    // SAFETY: takes no pointers.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode.flags(), offset, len) } {
        0 => Ok(0),
        _ => Err(io::Error::last_os_error()),
    }
}

fn discard(file: &File, offset: u64, len: u64) -> io::Result<i32> {
    /// `_IO(0x12, 119)` of `linux/fs.h`.
    const BLKDISCARD: libc::Ioctl = 0x1277;
    let range = [offset, len];
    // SAFETY: BLKDISCARD reads two u64 from its argument.
    match unsafe { libc::ioctl(file.as_raw_fd(), BLKDISCARD, range.as_ptr()) } {
        0 => Ok(0),
        _ => Err(io::Error::last_os_error()),
    }
}
