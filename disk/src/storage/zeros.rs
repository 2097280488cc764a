//! Zeros that take their space.

use std::ops::Range;

use super::Storage;
use crate::{Buffers, Error};

const PIECE_BYTES: u64 = 1 << 20;

/// Writes zeros, piece by piece; past the end too, where a file grows. Unlike those of
/// [`Storage::write_zeroes`], they are there as data.
pub(crate) async fn write_zeros(storage: &impl Storage, range: Range<u64>) -> Result<(), Error> {
    let len = |bytes: u64| usize::try_from(bytes).expect("at most a piece");
    let zeros = Buffers::zeroed(len(PIECE_BYTES.min(range.end - range.start)));
    let mut at = range.start;
    while at < range.end {
        let piece = PIECE_BYTES.min(range.end - at);
        storage.write_at(at, zeros.slice(0..len(piece))).await?;
        at += piece;
    }
    Ok(())
}
