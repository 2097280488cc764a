//! What is known of a disk's blocks.

use std::collections::HashMap;
use std::ops::Range;

use disk::{CLASS_BLOCK_BYTES, Class, DedupHint};

/// Blocks that share a page of labels, a byte each.
const PAGE_BLOCKS: u64 = 4096;
const PAGE_BYTES: usize = 4096;
/// 64 MiB, which is a quarter of a terabyte of blocks.
const PAGES_MAX: usize = 16 << 10;
/// In place of a label: nothing is known.
const UNKNOWN: u8 = 0;
/// The bits of a label that have the class, counted from 1 on. The hint is above them.
const CLASS_MASK: u8 = 0xf;
const HINT_SHIFT: u32 = 4;

/// What a block is known as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) class: Class,
    pub(super) dedup: DedupHint,
}

impl Label {
    fn byte(self) -> u8 {
        (self.class as u8 + 1) | ((self.dedup as u8) << HINT_SHIFT)
    }

    fn of(byte: u8) -> Option<Self> {
        let class = (byte & CLASS_MASK).checked_sub(1)?;
        Some(Self {
            class: *Class::ALL.get(usize::from(class))?,
            dedup: *DedupHint::ALL.get(usize::from(byte >> HINT_SHIFT))?,
        })
    }
}

/// A label for each block.
#[derive(Default)]
pub(super) struct Labels {
    pages: HashMap<u64, Box<[u8; PAGE_BYTES]>>,
}

impl Labels {
    /// What `blocks` are known as, in their order.
    pub(super) fn of(&self, blocks: Range<u64>) -> impl Iterator<Item = Option<Label>> {
        pieces(blocks).flat_map(|(number, blocks)| {
            let page = self.pages.get(&number);
            blocks.map(move |block| Label::of(page.map_or(UNKNOWN, |page| page[place(block)])))
        })
    }

    /// What `of` says of the label of the block at `offset` of the disk, in bytes, and how many of the
    /// `len` bytes there have labels of which it says the same.
    pub(super) fn run<T: PartialEq>(
        &self,
        offset: u64,
        len: u64,
        of: impl Fn(Label) -> T,
    ) -> (T, u64) {
        let mut said = self
            .of(blocks(offset, len))
            .map(|label| of(label.unwrap_or_default()));
        let Some(first) = said.next() else {
            return (of(Label::default()), len);
        };
        let alike = said.take_while(|next| *next == first).count() as u64;
        let end = (offset / CLASS_BLOCK_BYTES + 1 + alike) * CLASS_BLOCK_BYTES;
        (first, (end - offset).min(len))
    }

    /// Notes what `blocks` are.
    pub(super) fn set(&mut self, blocks: Range<u64>, label: Label) {
        for (number, blocks) in pieces(blocks) {
            if !self.pages.contains_key(&number) && self.pages.len() >= PAGES_MAX {
                continue;
            }
            let page = self.pages.entry(number);
            let page = page.or_insert_with(|| Box::new([UNKNOWN; PAGE_BYTES]));
            blocks.for_each(|block| page[place(block)] = label.byte());
        }
    }

    /// Forgets what is known of the content of `blocks`, and not of their place.
    pub(super) fn forget_hints(&mut self, blocks: Range<u64>) {
        for (number, blocks) in pieces(blocks) {
            if let Some(page) = self.pages.get_mut(&number) {
                blocks.for_each(|block| page[place(block)] &= CLASS_MASK);
            }
        }
    }

    /// Forgets a range of blocks.
    pub(super) fn forget(&mut self, blocks: &Range<u64>) {
        let forget = |page: &mut [u8; PAGE_BYTES], blocks: Range<u64>| {
            let whole = blocks.end.saturating_sub(blocks.start) == PAGE_BLOCKS;
            blocks.for_each(|block| page[place(block)] = UNKNOWN);
            whole
        };
        let pages = pages(blocks);
        // The range may be as long as the disk.
        if pages.end - pages.start > self.pages.len() as u64 {
            self.pages
                .retain(|&number, page| !forget(page, piece(number, blocks)));
            return;
        }
        for number in pages {
            if let Some(page) = self.pages.get_mut(&number)
                && forget(page, piece(number, blocks))
            {
                self.pages.remove(&number);
            }
        }
    }
}

/// The blocks that have any of the `len` bytes at `offset`.
pub(super) fn blocks(offset: u64, len: u64) -> Range<u64> {
    offset / CLASS_BLOCK_BYTES..(offset + len).div_ceil(CLASS_BLOCK_BYTES)
}

/// The numbers of the pages that have `blocks`.
fn pages(blocks: &Range<u64>) -> Range<u64> {
    let start = blocks.start / PAGE_BLOCKS;
    start..blocks.end.div_ceil(PAGE_BLOCKS).max(start)
}

/// What page number `number` has of `blocks`.
fn piece(number: u64, blocks: &Range<u64>) -> Range<u64> {
    let page = number * PAGE_BLOCKS..(number + 1) * PAGE_BLOCKS;
    blocks.start.max(page.start)..blocks.end.min(page.end)
}

/// The pages of `blocks` by their numbers, each with those that it has.
fn pieces(blocks: Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
    pages(&blocks).map(move |number| (number, piece(number, &blocks)))
}

/// The byte of a block in its page.
fn place(block: u64) -> usize {
    usize::try_from(block % PAGE_BLOCKS).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const METADATA: Label = Label {
        class: Class::Metadata,
        dedup: DedupHint::None,
    };

    fn all() -> Vec<Label> {
        let with = |dedup| Class::ALL.map(|class| Label { class, dedup });
        DedupHint::ALL.into_iter().flat_map(with).collect()
    }

    #[test]
    fn neighbours_do_not_disturb_each_other() {
        let mut labels = Labels::default();
        // Around the end of a page.
        for (block, label) in (4090..).zip(all()) {
            labels.set(block..block + 1, label);
        }
        labels.forget(&(4092..4093));
        let seen: Vec<_> = labels.of(4089..4109).collect();
        let mut expected: Vec<_> = all().into_iter().map(Some).collect();
        expected[2] = None;
        assert_eq!(seen, [vec![None], expected, vec![None]].concat());
    }

    #[test]
    fn a_range_is_forgotten_and_nothing_beside_it() {
        for (start, end) in [(5, 9), (4090, 4100), (4000, 3 * 4096 + 5), (4096, 8192)] {
            let mut labels = Labels::default();
            labels.set(start - 1..end + 1, METADATA);
            // Beside many pages or few, of which it may have more.
            for far in 0..start % 8 {
                labels.set((10 + far) << 12..((10 + far) << 12) + 1, METADATA);
            }
            labels.forget(&(start..end));
            let known = (0..20_000).zip(labels.of(0..20_000));
            let known = known.filter_map(|(block, label)| label.map(|_| block));
            assert_eq!(known.collect::<Vec<_>>(), [start - 1, end]);
        }
    }

    #[test]
    fn hints_go_with_the_content_and_classes_stay_with_the_place() {
        let mut labels = Labels::default();
        let unique = Label {
            class: Class::Below2Mib,
            dedup: DedupHint::NoDedup,
        };
        labels.set(4094..4098, unique);
        labels.forget_hints(4095..4097);
        let plain = Label {
            dedup: DedupHint::None,
            ..unique
        };
        let expected = [unique, plain, plain, unique].map(Some);
        assert_eq!(labels.of(4094..4098).collect::<Vec<_>>(), expected);
        labels.forget_hints(20_000..20_001);
        assert_eq!(labels.of(20_000..20_001).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn a_run_goes_as_far_as_what_is_asked_about_stays_the_same() {
        let mut labels = Labels::default();
        let label = |class, dedup| Label { class, dedup };
        let copied = label(Class::Below1Mib, DedupHint::Prefetch);
        labels.set(4095..4098, label(Class::Below1Mib, DedupHint::None));
        labels.set(4098..4100, copied);
        labels.set(4100..4101, label(Class::Other, DedupHint::Prefetch));
        let class = |offset, len| labels.run(offset, len, |label| label.class);
        let dedup = |offset, len| labels.run(offset, len, |label| label.dedup);
        let at = |block: u64| block * CLASS_BLOCK_BYTES;
        assert_eq!(class(at(4095), at(9)), (Class::Below1Mib, at(5)));
        assert_eq!(dedup(at(4095), at(9)), (DedupHint::None, at(3)));
        assert_eq!(
            dedup(at(4098) + 512, at(9)),
            (DedupHint::Prefetch, at(3) - 512)
        );
        assert_eq!(dedup(at(4098) + 512, 1024), (DedupHint::Prefetch, 1024));
        assert_eq!(class(0, at(9)), (Class::Other, at(9)));
        assert_eq!(class(0, 0), (Class::Other, 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut labels = Labels::default();
        for number in 0..=PAGES_MAX as u64 {
            let block = number * PAGE_BLOCKS;
            labels.set(block..block + 1, METADATA);
        }
        assert_eq!(labels.pages.len(), PAGES_MAX);
    }
}
