//! Finding the blocks of a base that are zeros: an image on top of it need not read them there, nor
//! note when they are written.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use futures_util::future::join_all;

use crate::flat::bitmap::Bitmap;
use crate::flat::format::Header;
use crate::ranges::{Ranges, ones};
use crate::storage;
use crate::{Buffers, Disk, Error, Request};

/// So much is read at once, by each reader.
const PIECE_BYTES: u64 = 1 << 20;
/// So many read at the same time.
const READERS: usize = 8;

const WORD_BITS: u64 = 64;

/// The blocks of a base that are zeros.
pub struct ZeroBlocks {
    block_bytes: u64,
    /// How much of the base was looked at: its last block may be a part of one.
    len: u64,
    /// A bit a block, which takes no more memory than an image's bitmap, whatever the base says.
    words: Vec<u64>,
}

/// Finds what is zeros in the first `len` bytes of `base`, block by block of `block_bytes`, a power
/// of two, of 1 MiB at most. What the base itself says to be zeros is not read; the rest is, with
/// `thorough`. `progress` is told how far it has come, in bytes.
pub async fn find_zero_blocks(
    base: &dyn Disk,
    len: u64,
    block_bytes: u64,
    thorough: bool,
    progress: impl Fn(u64),
) -> Result<ZeroBlocks, Error> {
    let len = len.min(base.properties().size_bytes);
    let scan = Scan {
        base,
        thorough,
        next: Cell::new(0),
        done: Cell::new(0),
        zeros: RefCell::new(ZeroBlocks::none(len, block_bytes)),
        progress,
    };
    let readers = (0..READERS).map(|_| scan.read_on(len));
    let results: Vec<_> = join_all(readers).await;
    results.into_iter().collect::<Result<(), _>>()?;
    Ok(scan.zeros.into_inner())
}

struct Scan<'a, P> {
    base: &'a dyn Disk,
    thorough: bool,
    next: Cell<u64>,
    done: Cell<u64>,
    zeros: RefCell<ZeroBlocks>,
    progress: P,
}

impl<P: Fn(u64)> Scan<'_, P> {
    /// One of the readers: takes piece after piece.
    async fn read_on(&self, len: u64) -> Result<(), Error> {
        while self.next.get() < len {
            let start = self.next.get();
            let end = (start + PIECE_BYTES).min(len);
            self.next.set(end);
            let zeros = self.look_at(start..end).await?;
            self.zeros.borrow_mut().add(&zeros);
            self.done.set(self.done.get() + end - start);
            (self.progress)(self.done.get());
        }
        Ok(())
    }

    async fn look_at(&self, piece: Range<u64>) -> Result<Ranges, Error> {
        let mut zeros = Ranges::default();
        let mut at = piece.start;
        while at < piece.end {
            let extent = self.base.extent(at, piece.end - at).await?;
            let range = at..at + extent.len;
            at = range.end;
            if extent.content.is_zero() {
                zeros.insert(range);
            } else if self.thorough {
                self.look_into(range, &mut zeros).await?;
            }
        }
        Ok(zeros)
    }

    async fn look_into(&self, range: Range<u64>, zeros: &mut Ranges) -> Result<(), Error> {
        let block_bytes = self.zeros.borrow().block_bytes;
        let index = |n: u64| usize::try_from(n - range.start).expect("within a piece");
        let content = Buffers::zeroed(index(range.end));
        self.base
            .submit(Request::read(range.start, content.clone()))
            .await?;
        let mut at = range.start;
        while at < range.end {
            let end = (at - at % block_bytes + block_bytes).min(range.end);
            if content.slice(index(at)..index(end)).is_zero() {
                zeros.insert(at..end);
            }
            at = end;
        }
        Ok(())
    }
}

impl ZeroBlocks {
    fn none(len: u64, block_bytes: u64) -> Self {
        let words = len.div_ceil(block_bytes).div_ceil(WORD_BITS);
        Self {
            block_bytes,
            len,
            words: vec![0; storage::len(words)],
        }
    }

    /// Notes the blocks that `zeros` has as a whole.
    fn add(&mut self, zeros: &Ranges) {
        for range in zeros.iter() {
            let end = match range.end {
                end if end >= self.len => self.len.div_ceil(self.block_bytes),
                end => end / self.block_bytes,
            };
            for block in range.start.div_ceil(self.block_bytes)..end {
                self.words[storage::len(block / WORD_BITS)] |= 1 << (block % WORD_BITS);
            }
        }
    }

    /// The bitmap of a new image: what is zeros in the base needs nothing from there.
    pub(super) fn bitmap(&self, header: &Header) -> Vec<u8> {
        let bitmap = Bitmap::new(header);
        let block_bytes = header.block_bytes();
        for (word, n) in self.words.iter().zip(0..) {
            for (first, behind) in ones(*word) {
                let at = |bit: usize| {
                    let end = (n * WORD_BITS + bit as u64) * self.block_bytes;
                    end.min(self.len)
                };
                let end = match at(behind) {
                    end if end >= header.covered_bytes => header.covered_blocks(),
                    end => end / block_bytes,
                };
                let start = at(first).div_ceil(block_bytes);
                if start < end {
                    bitmap.set(&(start..end));
                }
            }
        }
        bitmap.to_bytes()
    }
}
