//! Metadata in the image's file: short reads and writes of bytes.

use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U64;

use super::format::{FormatError, Header};
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

/// A length in memory, which a format's limits keep far below what memory has.
///
/// # Panics
/// On a host that cannot address so much.
pub(crate) fn len(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a length within the format's limits")
}

/// Reads and parses the header.
pub(crate) async fn read_header(storage: &impl Storage) -> Result<Header, Error> {
    let at = || FormatError::at(storage.path());
    let available = len(storage.size_bytes().min(Header::PREFIX_BYTES as u64));
    let prefix = read(storage, 0, available).await?;
    let cluster_bytes = Header::cluster_bytes(&prefix).map_err(at())?;
    let cluster = read(storage, 0, len(cluster_bytes)).await?;
    Header::parse(&cluster, storage.size_bytes()).map_err(at())
}

/// Shows `visit` the words of a table of `words` big-endian words at `offset` that are not zero,
/// with their index. Holes in the file are not read: the time it takes is that of what is there.
pub(crate) async fn for_each_word(
    storage: &impl Storage,
    offset: u64,
    words: u64,
    mut visit: impl FnMut(u64, u64),
) -> Result<(), Error> {
    for_each_piece(storage, offset, words * 8, |at, bytes| {
        for (word, index) in bytes.chunks_exact(8).zip(at / 8..) {
            let word = U64::ref_from_bytes(word).map_or(0, |word| word.get());
            if word != 0 {
                visit(index, word);
            }
        }
    })
    .await
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
