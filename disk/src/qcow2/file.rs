//! Metadata in the image's file.

use zerocopy::FromBytes;
use zerocopy::byteorder::big_endian::U64;

use super::format::{FormatError, Header};
pub(crate) use crate::storage::{for_each_piece, len, read, write};
use crate::{Error, Storage};

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
