//! Finding the blocks of a base that are zeros: an image on top of it need not read them there, nor
//! note when they are written.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use futures_util::future::join_all;

use crate::flat::bitmap::Bitmap;
use crate::flat::format::Header;
use crate::ranges::Ranges;
use crate::{Buffers, Disk, Error, Request};

/// So much is read at once, by each reader.
const PIECE_BYTES: u64 = 1 << 20;
/// So many read at the same time.
const READERS: usize = 8;

/// The ranges of a base that are zeros.
pub struct ZeroBlocks {
    ranges: Ranges,
}

/// Finds what is zeros in the first `len` bytes of `base`, block by block of `block_bytes`. What the
/// base itself says to be zeros is not read; the rest is, with `thorough`. `progress` is told how far
/// it has come, in bytes.
pub async fn find_zero_blocks(
    base: &dyn Disk,
    len: u64,
    block_bytes: u64,
    thorough: bool,
    progress: impl Fn(u64),
) -> Result<ZeroBlocks, Error> {
    let scan = Scan {
        base,
        len: len.min(base.properties().size_bytes),
        block_bytes,
        thorough,
        next: Cell::new(0),
        done: Cell::new(0),
        zeros: RefCell::default(),
        progress,
    };
    let readers = (0..READERS).map(|_| scan.read_on());
    let results: Vec<_> = join_all(readers).await;
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(ZeroBlocks {
        ranges: scan.zeros.into_inner(),
    })
}

struct Scan<'a, P> {
    base: &'a dyn Disk,
    len: u64,
    block_bytes: u64,
    thorough: bool,
    next: Cell<u64>,
    done: Cell<u64>,
    zeros: RefCell<Ranges>,
    progress: P,
}

impl<P: Fn(u64)> Scan<'_, P> {
    /// One of the readers: takes piece after piece.
    async fn read_on(&self) -> Result<(), Error> {
        while self.next.get() < self.len {
            let start = self.next.get();
            let end = (start + PIECE_BYTES).min(self.len);
            self.next.set(end);
            self.look_at(start..end).await?;
            self.done.set(self.done.get() + end - start);
            (self.progress)(self.done.get());
        }
        Ok(())
    }

    async fn look_at(&self, piece: Range<u64>) -> Result<(), Error> {
        let mut at = piece.start;
        while at < piece.end {
            let extent = self.base.extent(at, piece.end - at).await?;
            let range = at..at + extent.len;
            at = range.end;
            if extent.content.is_zero() {
                self.zeros.borrow_mut().insert(range);
            } else if self.thorough {
                self.look_into(range).await?;
            }
        }
        Ok(())
    }

    async fn look_into(&self, range: Range<u64>) -> Result<(), Error> {
        let index = |n: u64| usize::try_from(n - range.start).expect("within a piece");
        let content = Buffers::zeroed(index(range.end));
        self.base
            .submit(Request::read(range.start, content.clone()))
            .await?;
        let mut at = range.start;
        while at < range.end {
            let end = (at - at % self.block_bytes + self.block_bytes).min(range.end);
            if content.slice(index(at)..index(end)).is_zero() {
                self.zeros.borrow_mut().insert(at..end);
            }
            at = end;
        }
        Ok(())
    }
}

impl ZeroBlocks {
    /// The bitmap of a new image: what is zeros in the base needs nothing from there.
    pub(super) fn bitmap(&self, header: &Header) -> Vec<u8> {
        let bitmap = Bitmap::new(header);
        let block_bytes = header.block_bytes();
        for range in self.ranges.iter() {
            let end = match range.end {
                end if end >= header.covered_bytes => header.covered_blocks(),
                end => end / block_bytes,
            };
            let start = range.start.div_ceil(block_bytes);
            if start < end {
                bitmap.set(&(start..end));
            }
        }
        bitmap.to_bytes()
    }
}
