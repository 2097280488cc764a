//! The classes of a disk's blocks, as far as they are known.

use std::collections::HashMap;
use std::ops::Range;

use disk::Class;

/// Blocks that share a page of labels, two to a byte.
const PAGE_BLOCKS: u64 = 4096;
const PAGE_BYTES: usize = 2048;
/// 64 MiB, which is half a terabyte of blocks.
const PAGES_MAX: usize = 32 << 10;
/// In place of a class: nothing is known.
const UNKNOWN: u8 = 0;

/// A label for each block.
#[derive(Default)]
pub(super) struct Labels {
    pages: HashMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Labels {
    /// What block number `block` is known as.
    pub(super) fn get(&self, block: u64) -> Option<Class> {
        let page = self.pages.get(&(block / PAGE_BLOCKS))?;
        let (byte, shift) = place(block);
        let label = (page[byte] >> shift) & 0xf;
        Class::ALL.get(usize::from(label.checked_sub(1)?)).copied()
    }

    /// Notes what a block is, or that nothing is known of it any more.
    pub(super) fn set(&mut self, block: u64, class: Option<Class>) {
        let number = block / PAGE_BLOCKS;
        if !self.pages.contains_key(&number) {
            if class.is_none() || self.pages.len() >= PAGES_MAX {
                return;
            }
            let page = Box::new([0; PAGE_BYTES]);
            self.pages.insert(number, page);
        }
        let label = class.map_or(UNKNOWN, |class| class as u8 + 1);
        let (byte, shift) = place(block);
        if let Some(page) = self.pages.get_mut(&number) {
            page[byte] = (page[byte] & !(0xf << shift)) | (label << shift);
        }
    }

    /// Forgets a range of blocks.
    pub(super) fn forget(&mut self, blocks: Range<u64>) {
        let pages = blocks.start.div_ceil(PAGE_BLOCKS)..blocks.end / PAGE_BLOCKS;
        if pages.is_empty() {
            blocks.for_each(|block| self.set(block, None));
            return;
        }
        self.pages.retain(|number, _| !pages.contains(number));
        let inner = pages.start * PAGE_BLOCKS..pages.end * PAGE_BLOCKS;
        for block in (blocks.start..inner.start).chain(inner.end..blocks.end) {
            self.set(block, None);
        }
    }
}

/// The byte of a block in its page, and where in that.
fn place(block: u64) -> (usize, u32) {
    let within = block % PAGE_BLOCKS;
    let byte = usize::try_from(within / 2).unwrap_or_default();
    (byte, if within.is_multiple_of(2) { 0 } else { 4 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_do_not_disturb_each_other() {
        let mut labels = Labels::default();
        for (block, class) in (10..).zip(Class::ALL) {
            labels.set(block, Some(class));
        }
        labels.set(12, None);
        let seen: Vec<_> = (9..17).map(|block| labels.get(block)).collect();
        let mut expected: Vec<_> = Class::ALL.map(Some).into();
        expected[2] = None;
        assert_eq!(seen, [vec![None], expected, vec![None]].concat());
    }

    #[test]
    fn a_range_is_forgotten_and_nothing_beside_it() {
        for (start, end) in [(5, 9), (4090, 4100), (4000, 3 * 4096 + 5), (4096, 8192)] {
            let mut labels = Labels::default();
            for block in [start - 1, start, u64::midpoint(start, end), end - 1, end] {
                labels.set(block, Some(Class::Metadata));
            }
            labels.forget(start..end);
            let known = (0..20_000).filter(|&block| labels.get(block).is_some());
            assert_eq!(known.collect::<Vec<_>>(), [start - 1, end]);
        }
    }
}
