//! Short reads and writes of bytes, for metadata.

use super::Storage;
use crate::{Buffers, Error};

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

/// A length in memory, which a format's limits keep far below what memory has.
///
/// # Panics
/// On a host that cannot address so much.
pub(crate) fn len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a length within the format's limits")
}

/// Shows `visit` `bytes` bytes at `offset` in pieces, all but holes, with where each piece is
/// within them. Pieces start at multiples of 16 bytes.
pub(crate) async fn for_each_piece(
    storage: &impl Storage,
    offset: u64,
    bytes: u64,
    mut visit: impl FnMut(u64, &[u8]),
) -> Result<(), Error> {
    const ALIGNMENT: u64 = 16;
    const SMALL_PIECE_BYTES: u64 = 64 << 10;
    let end = bytes.min(storage.size_bytes().saturating_sub(offset));
    let mut at = 0;
    while at < end {
        let extent = storage.extent(offset + at, end - at).await?;
        let whole = extent.len.min(end - at) & !(ALIGNMENT - 1);
        if !extent.data && whole > 0 {
            at += whole;
            continue;
        }
        let piece = whole.clamp(SMALL_PIECE_BYTES, PIECE_BYTES).min(bytes - at);
        visit(at, &read(storage, offset + at, len(piece)).await?);
        at += piece;
    }
    Ok(())
}
