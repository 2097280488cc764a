//! Looking for data and holes, as `lseek` does.

use super::errno::Errno;
use crate::export::ByteDisk;

/// Questions to the disk before others get their turn.
const EXTENTS_AT_ONCE: u32 = 64;

/// Where the next data (`SEEK_DATA`) or the next hole (`SEEK_HOLE`) begins, at `offset` or behind
/// it. Behind the end there is a hole, as behind the end of every file.
pub(super) async fn seek(disk: &ByteDisk, offset: u64, whence: u32) -> Result<u64, Errno> {
    let wants_data = match whence.cast_signed() {
        libc::SEEK_DATA => true,
        libc::SEEK_HOLE => false,
        _ => return Err(Errno(libc::EINVAL)),
    };
    let size = disk.properties().size_bytes;
    if offset >= size {
        return Err(Errno(libc::ENXIO));
    }
    let mut place = offset;
    let mut asked = 0;
    while place < size {
        let extent = disk.extent(place..size).await?;
        if extent.content.is_zero() != wants_data {
            return Ok(place);
        }
        place += extent.len;
        asked += 1;
        if asked % EXTENTS_AT_ONCE == 0 {
            disk::yield_now().await;
        }
    }
    if wants_data {
        Err(Errno(libc::ENXIO))
    } else {
        Ok(size)
    }
}
