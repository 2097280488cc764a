//! What the servers are asked for.

use crate::bench::{disk, sync};
use sync::Target;

/// The largest requests: more at once tell about memory, not about formats.
const BLOCK_BYTES_MAX: usize = 64 << 10;

/// Reads and overwrites of what is there, many at a time or one, without a flush.
pub(super) fn requests() -> impl Iterator<Item = disk::Load> {
    let loads = disk::LOADS.into_iter();
    loads.filter(|load| load.block_bytes <= BLOCK_BYTES_MAX)
}

/// Writes to what is not there, one at a time, without a flush and with one after each; overwrites
/// with one after each.
pub(super) fn writes() -> impl Iterator<Item = sync::Load> {
    let kinds = [
        (Target::NewClusters, false),
        (Target::NewInOrder, false),
        (Target::NewClusters, true),
        (Target::NewInOrder, true),
        (Target::Allocated, true),
        (Target::AllocatedInOrder, true),
    ];
    kinds.into_iter().flat_map(|(target, flush)| {
        [4, 64].map(|kib| sync::Load {
            flush,
            ..sync::Load::new(target, kib)
        })
    })
}

/// What a load of writes is called.
pub(super) fn name(load: &sync::Load) -> String {
    let flush = if load.flush { ", flush" } else { "" };
    format!("{load}{flush}")
}
