//! Sparse content in memory.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;

use super::cache::Change;
use crate::Buffers;
use crate::storage::StorageExtent;

/// The unit of allocation.
pub(super) const PAGE_BYTES: u64 = 4096;

type Page = [u8; 4096];

/// Pages that were written; what has none is a hole, and reads as zeros. Clones share pages until
/// one of them changes.
#[derive(Clone)]
pub(super) struct Image {
    pages: BTreeMap<u64, Rc<Page>>,
    size_bytes: u64,
}

impl Image {
    pub(super) fn new(size_bytes: u64) -> Self {
        Self {
            pages: BTreeMap::new(),
            size_bytes,
        }
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        let mut image = Self::new(bytes.len() as u64);
        for (number, page) in (0..).zip(bytes.chunks(4096)) {
            if page.iter().any(|byte| *byte != 0) {
                image.page(number)[..page.len()].copy_from_slice(page);
            }
        }
        image
    }

    /// Everything; a simulated disk is small.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let len = usize::try_from(self.size_bytes).expect("a simulated disk fits memory");
        let mut bytes = vec![0; len];
        for (number, page) in &self.pages {
            let start = usize::try_from(number * PAGE_BYTES).expect("within the size");
            let end = len.min(start + page.len());
            bytes[start..end].copy_from_slice(&page[..end - start]);
        }
        bytes
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES
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
            match self.pages.get(&number) {
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
        let end = offset.saturating_add(len);
        let first = offset / PAGE_BYTES;
        let mut pages = self.pages.range(first..=(end - 1) / PAGE_BYTES);
        let until = |page: u64| (page * PAGE_BYTES).min(end) - offset;
        match pages.next() {
            None => StorageExtent { len, data: false },
            Some((&page, _)) if page > first => StorageExtent {
                len: until(page),
                data: false,
            },
            Some(_) => {
                let more = pages.zip(first + 1..);
                let alike = more.take_while(|((page, _), next)| **page == *next).count();
                StorageExtent {
                    len: until(first + 1 + alike as u64).min(self.size_bytes - offset),
                    data: true,
                }
            }
        }
    }

    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, bytes } => self.write(*offset, bytes),
            Change::Zero { offset, len, unmap } => self.zero(*offset, *len, *unmap),
            Change::SetLen { size_bytes } => self.set_len(*size_bytes),
        }
    }

    /// The space that a change takes beyond what is in use.
    pub(super) fn space_for(&self, change: &Change) -> u64 {
        let (offset, len) = match change {
            Change::Write { offset, bytes } => (*offset, bytes.len() as u64),
            Change::Zero {
                offset,
                len,
                unmap: false,
            } => (*offset, *len),
            Change::Zero { .. } | Change::SetLen { .. } => return 0,
        };
        let holes = pieces(offset, len).filter(|(number, ..)| !self.pages.contains_key(number));
        holes.count() as u64 * PAGE_BYTES
    }

    fn page(&mut self, number: u64) -> &mut Page {
        let page = self.pages.entry(number);
        Rc::make_mut(page.or_insert_with(|| Rc::new([0; 4096])))
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut left = bytes;
        for (number, start, len) in pieces(offset, bytes.len() as u64) {
            let (piece, rest) = left.split_at(len);
            self.page(number)[start..start + len].copy_from_slice(piece);
            left = rest;
        }
        self.size_bytes = self.size_bytes.max(offset + bytes.len() as u64);
    }

    fn zero(&mut self, offset: u64, len: u64, unmap: bool) {
        let len = len.min(self.size_bytes.saturating_sub(offset));
        for (number, start, len) in pieces(offset, len) {
            if !unmap {
                self.page(number)[start..start + len].fill(0);
            } else if len as u64 == PAGE_BYTES {
                self.pages.remove(&number);
            } else if let Some(page) = self.pages.get_mut(&number) {
                Rc::make_mut(page)[start..start + len].fill(0);
            }
        }
    }

    fn set_len(&mut self, size_bytes: u64) {
        if size_bytes < self.size_bytes {
            self.zero(size_bytes, self.size_bytes - size_bytes, true);
        }
        self.size_bytes = size_bytes;
    }
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
        for len in [0, 1, 4095, 4096, 10_000] {
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
        let mut image = Image::new(10 * PAGE_BYTES + 100);
        for (offset, len) in [(8192, 8192), (40_960, 100)] {
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
        assert_eq!(extent(40_960, 1 << 20), (100, true));
        assert_eq!(extent(41_060, 1 << 20), (1 << 20, false));
        assert_eq!(extent(1 << 30, 512), (512, false));
    }

    #[test]
    fn clones_part_when_one_changes() {
        let mut first = Image::from_bytes(&[1; 8192]);
        let second = first.clone();
        first.write(10, &[2; 10]);
        first.zero(4096, 100, true);
        assert!(second.to_bytes() == [1; 8192]);
        assert!(first.to_bytes()[10..20] == [2; 10] && first.to_bytes()[4096..4196] == [0; 100]);
    }
}
