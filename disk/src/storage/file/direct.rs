//! `O_DIRECT`: past the host's page cache, which needs aligned memory and offsets.
//!
//! Guests align neither as the host's device wants it. What is aligned goes straight; the rest
//! goes through a bounce buffer, and the blocks at the edges of an unaligned write are read first.
#![expect(unsafe_code, reason = "std has no statx with alignment")]

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

use super::FileStorage;
use crate::wait_queue::WaitQueue;
use crate::{Buffers, Error};

/// Bounced at a time, so that a large request takes little memory.
const BOUNCE_MAX: u64 = 1 << 20;

/// What the host wants, where it does not say: enough for any device.
const ALIGNMENT_UNKNOWN: u32 = 4096;

/// The alignments that direct I/O on a file needs, and the writes that are in flight.
pub(super) struct Direct {
    /// Of addresses.
    memory: usize,
    /// Of offsets and lengths.
    pub(super) offset: u64,
    /// Ranges that are being changed. A write that reads its edges first would undo what another
    /// changes in the same block meanwhile.
    changing: RefCell<Vec<Range<u64>>>,
    changed: WaitQueue,
}

/// A range that nobody else changes.
pub(super) struct Exclusive<'a> {
    direct: &'a Direct,
    range: Range<u64>,
}

impl Direct {
    /// Asks the host what `file` needs.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        let (memory, offset) = direct_alignment(file)?;
        let memory = usize::try_from(memory).map_err(io::Error::other)?;
        Ok(Self::with_alignment(memory, offset.into()))
    }

    pub(super) fn with_alignment(memory: usize, offset: u64) -> Self {
        let (changing, changed) = Default::default();
        Self {
            memory,
            offset,
            changing,
            changed,
        }
    }

    /// Whether a transfer can go straight between the memory and the device.
    pub(super) fn takes(&self, offset: u64, buffers: &Buffers) -> bool {
        let unit = usize::try_from(self.offset).unwrap_or(usize::MAX);
        offset.is_multiple_of(self.offset) && buffers.is_aligned(self.memory, unit)
    }

    /// Waits until nobody else changes the blocks of a range.
    pub(super) async fn exclusive(&self, offset: u64, len: u64) -> Exclusive<'_> {
        let range = self.blocks(offset, len);
        let overlaps = |other: &Range<u64>| other.start < range.end && range.start < other.end;
        while self.changing.borrow().iter().any(overlaps) {
            self.changed.wait().await;
        }
        self.changing.borrow_mut().push(range.clone());
        Exclusive {
            direct: self,
            range,
        }
    }

    /// The whole blocks that hold a range.
    fn blocks(&self, offset: u64, len: u64) -> Range<u64> {
        let end = offset.saturating_add(len);
        offset - offset % self.offset..end.div_ceil(self.offset).saturating_mul(self.offset)
    }

    /// Cuts a range where blocks end, into pieces to bounce.
    fn pieces(&self, offset: u64, len: u64) -> impl Iterator<Item = Range<u64>> {
        let end = offset + len;
        let step = BOUNCE_MAX.next_multiple_of(self.offset);
        let mut start = offset;
        std::iter::from_fn(move || {
            let piece = start..end.min(start - start % step + step);
            start = piece.end;
            (!piece.is_empty()).then_some(piece)
        })
    }
}

impl Drop for Exclusive<'_> {
    fn drop(&mut self) {
        self.direct
            .changing
            .borrow_mut()
            .retain(|range| *range != self.range);
        self.direct.changed.wake_all();
    }
}

impl FileStorage {
    /// Reads by way of aligned memory.
    pub(super) async fn read_bounced(
        &self,
        direct: &Direct,
        offset: u64,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        for piece in direct.pieces(offset, buffers.len() as u64) {
            let blocks = direct.blocks(piece.start, piece.end - piece.start);
            let bounce = Buffers::zeroed(to_usize(blocks.end - blocks.start));
            self.read_plain(blocks.start, &bounce).await?;
            let target = part(buffers, offset, &piece);
            target.copy_from(&part(&bounce, blocks.start, &piece).to_vec());
        }
        Ok(())
    }

    /// Writes by way of aligned memory; the caller holds the range exclusively.
    pub(super) async fn write_bounced(
        &self,
        direct: &Direct,
        offset: u64,
        buffers: &Buffers,
    ) -> Result<(), Error> {
        for piece in direct.pieces(offset, buffers.len() as u64) {
            let blocks = direct.blocks(piece.start, piece.end - piece.start);
            let bounce = Buffers::zeroed(to_usize(blocks.end - blocks.start));
            let first = blocks.start..blocks.start + direct.offset;
            let last = blocks.end - direct.offset..blocks.end;
            if piece.start != blocks.start {
                self.read_edge(&bounce, &blocks, first.clone()).await?;
            }
            if piece.end != blocks.end && (first != last || piece.start == blocks.start) {
                self.read_edge(&bounce, &blocks, last).await?;
            }
            part(&bounce, blocks.start, &piece).copy_from(&part(buffers, offset, &piece).to_vec());
            self.write_plain(blocks.start, &bounce).await?;
        }
        Ok(())
    }

    /// Fills one block of a bounce buffer; past the end of the file are zeros.
    async fn read_edge(
        &self,
        bounce: &Buffers,
        blocks: &Range<u64>,
        block: Range<u64>,
    ) -> Result<(), Error> {
        if block.start >= self.size_bytes.get() {
            return Ok(());
        }
        self.read_plain(block.start, &part(bounce, blocks.start, &block))
            .await
    }
}

/// The part of `buffers`, which begin at byte `start` of the file, that is for `range` of it.
fn part(buffers: &Buffers, start: u64, range: &Range<u64>) -> Buffers {
    buffers.slice(to_usize(range.start - start)..to_usize(range.end - start))
}

/// Lengths within a buffer, which is in memory.
fn to_usize(len: u64) -> usize {
    usize::try_from(len).expect("within a buffer")
}

/// The alignment of memory and of offsets that direct I/O needs, in bytes.
pub(crate) fn direct_alignment(file: &File) -> io::Result<(u32, u32)> {
    // SAFETY: all zeros is a valid `statx`.
    let mut statx: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty path with AT_EMPTY_PATH means the descriptor; the result goes to `statx`.
    let done = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut statx,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    if statx.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Ok((ALIGNMENT_UNKNOWN, ALIGNMENT_UNKNOWN));
    }
    if statx.stx_dio_offset_align == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok((statx.stx_dio_mem_align, statx.stx_dio_offset_align))
}
