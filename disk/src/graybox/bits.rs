//! A bit for each block of a file system, where only the parts with a one take memory.

use std::collections::BTreeMap;
use std::ops::Range;

/// Blocks whose bits lie together.
const PAGE_BLOCKS: u64 = 1 << 15;
const WORDS: usize = (PAGE_BLOCKS / 64) as usize;

/// A set of blocks. It takes 4 KiB for each 32768 blocks of which one is in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Bits {
    pages: BTreeMap<u64, Box<Page>>,
}

#[derive(Clone, Debug)]
struct Page {
    ones: u64,
    words: [u64; WORDS],
}

impl Bits {
    /// Adds blocks.
    pub(super) fn insert(&mut self, blocks: Range<u64>) {
        if blocks.is_empty() {
            return;
        }
        for number in blocks.start / PAGE_BLOCKS..=(blocks.end - 1) / PAGE_BLOCKS {
            let page = self.pages.entry(number).or_insert_with(|| {
                Box::new(Page {
                    ones: 0,
                    words: [0; WORDS],
                })
            });
            page.change(&places(number, &blocks), |word, mask| word | mask);
        }
    }

    /// Takes blocks out. What is not in the set costs nothing.
    pub(super) fn remove(&mut self, blocks: Range<u64>) {
        if blocks.is_empty() {
            return;
        }
        let (first, last) = (blocks.start / PAGE_BLOCKS, (blocks.end - 1) / PAGE_BLOCKS);
        let mut empty = Vec::new();
        for (number, page) in self.pages.range_mut(first..=last) {
            page.change(&places(*number, &blocks), |word, mask| word & !mask);
            if page.ones == 0 {
                empty.push(*number);
            }
        }
        for number in empty {
            self.pages.remove(&number);
        }
    }

    /// Whether a block is in the set.
    pub(super) fn contains(&self, block: u64) -> bool {
        let place = block % PAGE_BLOCKS;
        self.pages
            .get(&(block / PAGE_BLOCKS))
            .is_some_and(|page| page.word(place / 64) >> (place % 64) & 1 == 1)
    }

    /// The first block of `blocks` that is in the set.
    pub(super) fn first_in(&self, blocks: &Range<u64>) -> Option<u64> {
        if blocks.is_empty() {
            return None;
        }
        let last = (blocks.end - 1) / PAGE_BLOCKS;
        for (number, page) in self.pages.range(blocks.start / PAGE_BLOCKS..=last) {
            let start = number * PAGE_BLOCKS;
            let from = blocks.start.max(start) - start;
            if let Some(place) = page.first_from(from) {
                return Some(start + place).filter(|block| *block < blocks.end);
            }
        }
        None
    }

    /// The bytes of memory that the bits take.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        self.pages.len() * size_of::<Page>()
    }
}

impl Page {
    fn word(&self, number: u64) -> u64 {
        usize::try_from(number)
            .ok()
            .and_then(|number| self.words.get(number))
            .copied()
            .unwrap_or(0)
    }

    fn change(&mut self, places: &Range<u64>, change: impl Fn(u64, u64) -> u64) {
        let words = (places.start / 64..places.end.div_ceil(64)).zip(
            self.words
                .iter_mut()
                .skip(usize::try_from(places.start / 64).unwrap_or(WORDS)),
        );
        for (number, word) in words {
            let start = number * 64;
            let (from, to) = (places.start.max(start), places.end.min(start + 64));
            let mask = (u64::MAX >> (64 - (to - from))) << (from - start);
            let new = change(*word, mask);
            self.ones = self.ones + u64::from(new.count_ones()) - u64::from(word.count_ones());
            *word = new;
        }
    }

    fn first_from(&self, place: u64) -> Option<u64> {
        let first = place / 64;
        (first..WORDS as u64).find_map(|number| {
            let mask = if number == first {
                u64::MAX << (place % 64)
            } else {
                u64::MAX
            };
            let word = self.word(number) & mask;
            (word != 0).then(|| number * 64 + u64::from(word.trailing_zeros()))
        })
    }
}

/// What of `blocks`, some of which lie in the page, are its places; not none.
fn places(number: u64, blocks: &Range<u64>) -> Range<u64> {
    let start = number * PAGE_BLOCKS;
    blocks.start.max(start) - start..(blocks.end - start).min(PAGE_BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::Ranges;
    use crate::rng::Rng;
    use crate::test_support::seeded;

    #[test]
    fn bits_are_a_set() {
        seeded(100, |seed| {
            let mut rng = Rng::new(seed);
            let (mut bits, mut ranges) = (Bits::default(), Ranges::default());
            for _ in 0..100 {
                let start = rng.below(5 * PAGE_BLOCKS);
                let reach = [3, 100, 3 * PAGE_BLOCKS][rng.index(3)];
                let range = start..start + rng.below(reach);
                if rng.coin() {
                    bits.insert(range.clone());
                    ranges.insert(range);
                } else {
                    bits.remove(range.clone());
                    ranges.remove(&range);
                }
                let start = rng.below(8 * PAGE_BLOCKS);
                let range = start..start + rng.below(2 * PAGE_BLOCKS);
                let first = ranges.within(&range).next().map(|part| part.start);
                assert_eq!(bits.first_in(&range), first);
                assert_eq!(bits.contains(start), ranges.overlaps(&(start..start + 1)));
            }
        });
    }

    #[test]
    fn what_is_empty_takes_no_memory() {
        let mut bits = Bits::default();
        bits.insert(0..10 * PAGE_BLOCKS);
        assert!(bits.memory_bytes() < 10 * 4200);
        bits.remove(0..u64::MAX);
        assert_eq!(bits.memory_bytes(), 0);
    }
}
