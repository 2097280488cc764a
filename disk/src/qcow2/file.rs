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
