//! Sparse content in memory.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::rc::Rc;

use super::change::Change;
use crate::Buffers;
use crate::storage::StorageExtent;

/// The unit of allocation.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Pages that are shared together, until one of them changes.
const CHUNK_PAGES: u64 = 64;

type Page = [u8; 4096];

/// Absent pages are holes.
#[derive(Clone)]
struct Chunk {
    pages: [Option<Rc<Page>>; 64],
}

/// Pages that were written; what has none is a hole, and reads as zeros. A clone costs little: it
/// shares the pages until one side changes them.
#[derive(Clone)]
pub(super) struct Image {
    chunks: BTreeMap<u64, Rc<Chunk>>,
    pages: u64,
    size_bytes: u64,
}

impl Image {
    pub(super) fn new(size_bytes: u64) -> Self {
        Self {
            chunks: BTreeMap::new(),
            pages: 0,
            size_bytes,
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = Self::new(bytes.len() as u64);
        for (number, page) in (0..).zip(bytes.chunks(4096)) {
            if page.iter().any(|byte| *byte != 0) {
                image.page_mut(number)[..page.len()].copy_from_slice(page);
            }
        }
        image
    }

    /// Everything; a simulated disk is small.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.size_bytes).expect("a simulated disk fits memory");
        let mut bytes = vec![0; len];
        for (number, target) in (0..).zip(bytes.chunks_mut(4096)) {
            if let Some(page) = self.page(number) {
                target.copy_from_slice(&page[..target.len()]);
            }
        }
        bytes
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.pages * PAGE_BYTES
    }

    pub(super) fn read(&self, offset: u64, buffers: &Buffers) -> io::Result<()> {
        let len = buffers.len() as u64;
        if offset
            .checked_add(len)
            .is_none_or(|end| end > self.size_bytes)
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut done = 0;
        for (number, start, len) in pieces(offset, len) {
            let target = buffers.slice(done..done + len);
            match self.page(number) {
                Some(page) => target.copy_from(&page[start..start + len]),
                None => target.fill(0),
            }
            done += len;
        }
        Ok(())
    }

    pub(super) fn extent(&self, offset: u64, len: u64) -> StorageExtent {
        if offset >= self.size_bytes {
            return StorageExtent { len, data: false };
        }
        let end = offset.saturating_add(len).min(self.size_bytes);
        let first = offset / PAGE_BYTES;
        let data = self.page(first).is_some();
        let mut number = first + 1;
        while number * PAGE_BYTES < end && self.page(number).is_some() == data {
            // Without a chunk there is nothing up to the next one.
            number = match self.chunks.get(&(number / CHUNK_PAGES)) {
                None => (number / CHUNK_PAGES + 1) * CHUNK_PAGES,
                Some(_) => number + 1,
            };
        }
        let reached = number.saturating_mul(PAGE_BYTES);
        let len = if reached >= self.size_bytes && !data {
            len
        } else {
            reached.min(end) - offset
        };
        StorageExtent { len, data }
    }

    pub(super) fn apply(&mut self, change: &Change) {
        let (start, len) = change.extent();
        self.apply_part(change, start..start + len);
    }

    /// Applies what a change does to a range within its own.
    pub(super) fn apply_part(&mut self, change: &Change, range: Range<u64>) {
        match change {
            Change::Write { offset, bytes } => {
                let index = |n: u64| usize::try_from(n - offset).expect("within the bytes");
                self.write(range.start, &bytes[index(range.start)..index(range.end)]);
            }
            Change::Zero { unmap, .. } => self.zero(range, *unmap),
            Change::SetLen { size_bytes } => self.set_len(*size_bytes),
        }
    }

    /// The space that a change takes beyond what is in use.
    pub(super) fn space_for(&self, change: &Change) -> u64 {
        if matches!(change, Change::Zero { unmap: true, .. }) {
            return 0;
        }
        let (offset, len) = change.extent();
        let holes = pieces(offset, len).filter(|(number, ..)| self.page(*number).is_none());
        holes.count() as u64 * PAGE_BYTES
    }

    fn page(&self, number: u64) -> Option<&Page> {
        let chunk = self.chunks.get(&(number / CHUNK_PAGES))?;
        chunk.pages[within_chunk(number)].as_deref()
    }

    /// The page as an owner sees it, allocated if it was not.
    fn page_mut(&mut self, number: u64) -> &mut Page {
        let empty = || {
            Rc::new(Chunk {
                pages: [const { None }; 64],
            })
        };
        let chunk = self.chunks.entry(number / CHUNK_PAGES);
        let chunk = Rc::make_mut(chunk.or_insert_with(empty));
        let page = &mut chunk.pages[within_chunk(number)];
        self.pages += u64::from(page.is_none());
        Rc::make_mut(page.get_or_insert_with(|| Rc::new([0; 4096])))
    }

    fn remove_page(&mut self, number: u64) {
        if self.page(number).is_some()
            && let Some(chunk) = self.chunks.get_mut(&(number / CHUNK_PAGES))
        {
            Rc::make_mut(chunk).pages[within_chunk(number)] = None;
            self.pages -= 1;
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut left = bytes;
        for (number, start, len) in pieces(offset, bytes.len() as u64) {
            let (piece, rest) = left.split_at(len);
            self.page_mut(number)[start..start + len].copy_from_slice(piece);
            left = rest;
        }
        self.size_bytes = self.size_bytes.max(offset + bytes.len() as u64);
    }

    fn zero(&mut self, range: Range<u64>, unmap: bool) {
        let len = range.end.min(self.size_bytes).saturating_sub(range.start);
        for (number, start, len) in pieces(range.start, len) {
            if unmap && len as u64 == PAGE_BYTES {
                self.remove_page(number);
            } else if !unmap || self.page(number).is_some() {
                self.page_mut(number)[start..start + len].fill(0);
            }
        }
    }

    fn set_len(&mut self, size_bytes: u64) {
        if size_bytes < self.size_bytes {
            // The whole of the last page: nothing of it is left past the end.
            let pages = size_bytes.div_ceil(PAGE_BYTES)..self.size_bytes.div_ceil(PAGE_BYTES);
            let page_end = self.size_bytes.min(pages.start * PAGE_BYTES);
            self.zero(size_bytes..page_end, true);
            let chunks = pages.start / CHUNK_PAGES..=pages.end / CHUNK_PAGES;
            let chunks: Vec<u64> = self.chunks.range(chunks).map(|(chunk, _)| *chunk).collect();
            for chunk in chunks {
                let first = (chunk * CHUNK_PAGES).max(pages.start);
                (first..(chunk + 1) * CHUNK_PAGES).for_each(|page| self.remove_page(page));
            }
        }
        self.size_bytes = size_bytes;
    }
}

fn within_chunk(number: u64) -> usize {
    usize::try_from(number % CHUNK_PAGES).expect("below 64")
}

/// The pages that a range touches: number, first byte within, and how many.
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len;
    let mut at = offset;
    std::iter::from_fn(move || {
        let within = at % PAGE_BYTES;
        let len = (PAGE_BYTES - within).min(end - at);
        let number = at / PAGE_BYTES;
        at += len;
        let small = |n: u64| usize::try_from(n).expect("within a page");
        (len > 0).then(|| (number, small(within), small(len)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_make_an_image_and_come_back() {
        for len in [0, 1, 4095, 4096, 10_000, 300_000] {
            let mut bytes = vec![0; len];
            if let Some(last) = bytes.last_mut() {
                *last = 7;
            }
            let image = Image::from_bytes(&bytes);
            assert!(image.to_bytes() == bytes, "{len}");
            assert_eq!(image.allocated_bytes(), if len == 0 { 0 } else { 4096 });
        }
    }

    #[test]
    fn extents_are_runs_of_pages() {
        let mut image = Image::new(1 << 40);
        image.set_len(1000 * PAGE_BYTES + 100);
        for (offset, len) in [(8192, 8192), (4_096_000, 100)] {
            image.write(offset, &vec![1; len]);
        }
        let extent = |offset, len| {
            let found = image.extent(offset, len);
            (found.len, found.data)
        };
        assert_eq!(extent(0, 100), (100, false));
        assert_eq!(extent(0, 1 << 20), (8192, false));
        assert_eq!(extent(100, u64::MAX), (8092, false));
        assert_eq!(extent(8192, 1 << 20), (8192, true));
        assert_eq!(extent(12_000, 1 << 20), (4384, true));
        assert_eq!(extent(12_000, 7), (7, true));
        assert_eq!(extent(16_384, 1 << 30), (4_096_000 - 16_384, false));
        assert_eq!(extent(4_096_000, 1 << 20), (100, true));
        assert_eq!(extent(4_096_100, 1 << 20), (1 << 20, false));
        assert_eq!(extent(1 << 50, 512), (512, false));
    }

    #[test]
    fn what_was_cut_off_is_zeros_when_it_comes_back() {
        for cut in [0, 1, 512, 4096, 5000, 262_144, 262_145, 299_999] {
            let mut image = Image::from_bytes(&vec![1; 300_000]);
            image.set_len(cut);
            assert_eq!(image.allocated_bytes(), cut.next_multiple_of(PAGE_BYTES));
            image.set_len(300_000);
            let bytes = image.to_bytes();
            let cut = usize::try_from(cut).unwrap();
            assert!(bytes[..cut].iter().all(|byte| *byte == 1), "{cut}");
            assert!(bytes[cut..].iter().all(|byte| *byte == 0), "{cut}");
        }
    }

    #[test]
    fn clones_part_when_one_changes() {
        let mut first = Image::from_bytes(&[1; 8192]);
        let second = first.clone();
        first.write(10, &[2; 10]);
        first.zero(4096..4196, true);
        assert!(second.to_bytes() == [1; 8192]);
        assert!(first.to_bytes()[10..20] == [2; 10] && first.to_bytes()[4096..4196] == [0; 100]);
        first.zero(4096..8192, true);
        assert_eq!(
            (first.allocated_bytes(), second.allocated_bytes()),
            (4096, 8192)
        );
    }
}
