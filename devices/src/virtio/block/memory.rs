//! Guest memory as the memory of a disk request, without a copy.
#![expect(unsafe_code, reason = "hands addresses of guest memory to the disk")]

use std::sync::Arc;

use disk::Buffers;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};

use crate::virtio::chain::Pieces;

/// The memory that `pieces` name, or `None` where it is not all there.
pub(super) fn buffers(memory: &Arc<GuestMemoryMmap>, pieces: &Pieces) -> Option<Buffers> {
    let mut segments = Vec::with_capacity(1);
    for piece in pieces.iter() {
        for slice in memory.get_slices(piece.address, piece.len_bytes) {
            let slice = slice.ok()?;
            segments.push(libc::iovec {
                iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                iov_len: slice.len(),
            });
        }
    }
    let owner: Arc<GuestMemoryMmap> = Arc::clone(memory);
    // SAFETY: the segments are slices of the guest's memory, which stays mapped at its place while
    // `owner` lives, and of which nobody makes a Rust reference.
    Some(unsafe { Buffers::from_raw(segments, owner) })
}
