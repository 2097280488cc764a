//! Where a file has data and where holes: `lseek` with `SEEK_DATA` and `SEEK_HOLE`, which may
//! have to read the file system's own metadata.
#![expect(unsafe_code, reason = "std has no SEEK_DATA")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use super::operation::file_offset;
use crate::storage::StorageExtent;

/// What is at `offset` of a regular file, within `len` bytes. Where the host cannot tell, and
/// where the file changes meanwhile, it is data, which is never wrong.
pub(super) fn extent(file: &File, offset: u64, len: u64) -> io::Result<StorageExtent> {
    let data = StorageExtent { len, data: true };
    let hole = StorageExtent { len, data: false };
    let next_data = match seek(file, offset, libc::SEEK_DATA) {
        Ok(next) => next,
        // No data from here to the end of the file, or past it already.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(hole),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(data),
        Err(error) => return Err(error),
    };
    if next_data > offset {
        return Ok(hole.until(next_data - offset));
    }
    match seek(file, offset, libc::SEEK_HOLE) {
        Ok(next_hole) if next_hole > offset => Ok(data.until(next_hole - offset)),
        Ok(_) => Ok(data),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(hole),
        Err(error) => Err(error),
    }
}

/// Moves the descriptor's position as well, which nobody uses.
fn seek(file: &File, offset: u64, whence: i32) -> io::Result<u64> {
    let offset = file_offset(offset)?;
    // SAFETY: takes no pointers.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}
