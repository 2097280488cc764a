//! Metadata in the image's file: short reads and writes of bytes.

use crate::{Buffers, Error, Storage};

/// Reads `len` bytes at `offset`. What is past the end of the file reads as zeros: a file may end
/// before its last cluster does.
pub(crate) async fn read(
    storage: &impl Storage,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, Error> {
    let buffers = Buffers::zeroed(len);
    let available = storage.size_bytes().saturating_sub(offset);
    let within = usize::try_from(available).unwrap_or(usize::MAX).min(len);
    if within > 0 {
        storage.read_at(offset, buffers.slice(0..within)).await?;
    }
    Ok(buffers.to_vec())
}

/// Writes `bytes` at `offset`.
pub(crate) async fn write(
    storage: &impl Storage,
    offset: u64,
    bytes: Vec<u8>,
) -> Result<(), Error> {
    storage.write_at(offset, Buffers::from_vec(bytes)).await
}

/// The most that is read or written at once where a table may be large.
const PIECE_BYTES: u64 = 1 << 20;

/// Writes zeros, piece by piece: the range may be past the end of the file.
pub(crate) async fn write_zeros(
    storage: &impl Storage,
    offset: u64,
    len: u64,
) -> Result<(), Error> {
    let mut done = 0;
    let zeros = Buffers::zeroed(self::len(len.min(PIECE_BYTES)));
    while done < len {
        let piece = self::len((len - done).min(PIECE_BYTES));
        storage
            .write_at(offset + done, zeros.slice(0..piece))
            .await?;
        done += piece as u64;
    }
    Ok(())
}

/// A length in memory, which a format's limits keep far below what memory has.
///
/// # Panics
/// On a host that cannot address so much.
pub(crate) fn len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a length within the format's limits")
}
