//! Sparse content in memory.

use std::collections::BTreeMap;
use std::io;

use super::cache::Change;
use crate::Buffers;

/// The unit of allocation.
pub(super) const PAGE_BYTES: u64 = 4096;

type Page = [u8; 4096];

/// Pages that were written; what has none is a hole, and reads as zeros.
#[derive(Clone)]
pub(super) struct Image {
    pages: BTreeMap<u64, Box<Page>>,
    size_bytes: u64,
}

impl Image {
    pub(super) fn new(size_bytes: u64) -> Self {
        Self {
            pages: BTreeMap::new(),
            size_bytes,
        }
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
        self.pages
            .entry(number)
            .or_insert_with(|| Box::new([0; 4096]))
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
                page[start..start + len].fill(0);
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
