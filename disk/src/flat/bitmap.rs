//! Which blocks are local, in memory as a whole.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

use super::changed::{Changed, Changes, SECTOR_WORDS, WORD_BYTES};
use super::format::Header;
use crate::ranges::{Ranges, ones};
use crate::storage::{for_each_piece, len};
use crate::{Error, Storage};

const WORD_BITS: u64 = 64;

/// How many blocks of an image that was closed come from its base.
pub async fn missing_blocks(storage: &impl Storage, header: &Header) -> Result<u64, Error> {
    Ok(Bitmap::read(storage, header).await?.missing())
}

/// A bit a block: for those that the base covers, or, in a compact image, for all.
pub(super) struct Bitmap {
    block_bits: u32,
    /// How many blocks have a bit.
    blocks: u64,
    /// How many of them may come from the base. Those behind are local.
    covered: u64,
    words: RefCell<Vec<u64>>,
    /// How many blocks are not local.
    missing: Cell<u64>,
    changed: Changed,
    /// Blocks that were copied here, as bits of words: the file does not say so yet, and it does
    /// not matter if it never does.
    copied: RefCell<BTreeMap<u64, u64>>,
}

impl Bitmap {
    /// Where no bit is set.
    pub(super) fn new(header: &Header) -> Self {
        let (blocks, covered) = (header.bitmap_blocks(), header.covered_blocks());
        Self {
            block_bits: header.block_bits,
            blocks,
            covered,
            words: RefCell::new(vec![0; len(blocks.div_ceil(WORD_BITS))]),
            missing: Cell::new(covered),
            changed: Changed::default(),
            copied: RefCell::default(),
        }
    }

    /// As it is in the image on `storage`.
    pub(super) async fn read(storage: &impl Storage, header: &Header) -> Result<Self, Error> {
        let bitmap = Self::new(header);
        let bytes = bitmap.blocks.div_ceil(WORD_BITS) * WORD_BYTES;
        let fill = |at, piece: &[u8]| bitmap.fill(at, piece);
        for_each_piece(storage, header.bitmap.start, bytes, fill).await?;
        bitmap.cut();
        Ok(bitmap)
    }

    /// As it is in a file that has these bytes of it.
    pub(super) fn of(bytes: &[u8], header: &Header) -> Self {
        let bitmap = Self::new(header);
        bitmap.fill(0, bytes);
        bitmap.cut();
        bitmap
    }

    /// Takes over what a file has from byte `at` on.
    fn fill(&self, at: u64, bytes: &[u8]) {
        let mut words = self.words.borrow_mut();
        let words = words[len(at / WORD_BYTES)..].iter_mut();
        for (word, bytes) in words.zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        }
    }

    /// Leaves out the bits of blocks that there are not.
    fn cut(&self) {
        let mut words = self.words.borrow_mut();
        let extra = words.len() as u64 * WORD_BITS - self.blocks;
        if let Some(last) = words.last_mut() {
            *last &= u64::MAX >> extra;
        }
        let covered = words.iter().zip(0..self.covered.div_ceil(WORD_BITS));
        let local = covered.map(|(word, n)| {
            let behind = ((n + 1) * WORD_BITS).saturating_sub(self.covered);
            u64::from((word << behind).count_ones())
        });
        self.missing.set(self.covered - local.sum::<u64>());
    }

    /// Whether every block is local.
    pub(super) fn is_full(&self) -> bool {
        self.missing.get() == 0
    }

    /// How many blocks are not local.
    pub(super) fn missing(&self) -> u64 {
        self.missing.get()
    }

    /// The blocks that a range of the disk touches.
    pub(super) fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        range.start >> self.block_bits..((range.end - 1) >> self.block_bits) + 1
    }

    /// Whether all of a range of the disk is local.
    pub(super) fn is_local(&self, range: &Range<u64>) -> bool {
        self.is_full() || {
            let blocks = self.blocks(range);
            self.run(&blocks) == (true, blocks.end)
        }
    }

    /// Whether the first of these blocks is local, and up to where the next are alike.
    pub(super) fn run(&self, blocks: &Range<u64>) -> (bool, u64) {
        self.run_before(blocks, self.covered)
    }

    /// Whether the bit of the first of these blocks is set, and up to where the next are alike.
    pub(super) fn run_of_bits(&self, blocks: &Range<u64>) -> (bool, u64) {
        self.run_before(blocks, self.blocks)
    }

    /// The first run of these blocks; those from `limit` on are taken to have their bits set.
    fn run_before(&self, blocks: &Range<u64>, limit: u64) -> (bool, u64) {
        let words = self.words.borrow();
        let word_at = |block: u64| match words.get(len(block / WORD_BITS)) {
            Some(word) if block < limit => *word,
            _ => u64::MAX,
        };
        let is_local = |block: u64| word_at(block) >> (block % WORD_BITS) & 1 == 1;
        let local = is_local(blocks.start);
        let end = if local {
            blocks.end
        } else {
            blocks.end.min(limit)
        };
        let mut at = blocks.start;
        while at < end && is_local(at) == local {
            let word = if local { word_at(at) } else { !word_at(at) };
            at += u64::from((word >> (at % WORD_BITS)).trailing_ones());
        }
        (local, at.min(end))
    }

    /// Makes blocks local, which the next commit notes in the file.
    pub(super) fn set(&self, blocks: &Range<u64>) {
        let mut words = self.words.borrow_mut();
        for block in blocks.start..blocks.end.min(self.blocks) {
            if self.set_bit(&mut words, block) {
                self.changed.note(block / WORD_BITS);
            }
        }
    }

    /// Makes blocks local that were copied here: after a crash, they come from the base again.
    pub(super) fn set_copied(&self, blocks: &Range<u64>) {
        let mut words = self.words.borrow_mut();
        for block in blocks.start..blocks.end.min(self.blocks) {
            if self.set_bit(&mut words, block) {
                let mut copied = self.copied.borrow_mut();
                *copied.entry(block / WORD_BITS).or_default() |= 1 << (block % WORD_BITS);
            }
        }
    }

    fn set_bit(&self, words: &mut [u64], block: u64) -> bool {
        let (word, bit) = (&mut words[len(block / WORD_BITS)], 1 << (block % WORD_BITS));
        let is_new = *word & bit == 0;
        *word |= bit;
        let was_missing = is_new && block < self.covered;
        self.missing
            .set(self.missing.get() - u64::from(was_missing));
        is_new
    }

    /// Whether any of some blocks were copied, and the file does not say so.
    pub(super) fn has_copied(&self, blocks: &Range<u64>) -> bool {
        let copied = self.copied.borrow();
        !copied.is_empty() && {
            let words = blocks.start / WORD_BITS..blocks.end.div_ceil(WORD_BITS);
            let is_here = |word: u64, bits: u64| {
                let (from, until) = (word * WORD_BITS, (word + 1) * WORD_BITS);
                let mut within = blocks.start.max(from)..blocks.end.min(until);
                within.any(|block| bits >> (block % WORD_BITS) & 1 == 1)
            };
            copied
                .range(words)
                .any(|(word, bits)| is_here(*word, *bits))
        }
    }

    /// Takes out those of some blocks that were copied: the next commit notes them in the file.
    pub(super) fn take_copied(&self, blocks: &Range<u64>) -> Vec<Range<u64>> {
        if blocks.is_empty() || self.copied.borrow().is_empty() {
            return Vec::new();
        }
        let mut taken = Ranges::default();
        let words = blocks.start / WORD_BITS..blocks.end.div_ceil(WORD_BITS);
        let mut copied = self.copied.borrow_mut();
        let found: Vec<u64> = copied.range(words).map(|(word, _)| *word).collect();
        for word in found {
            let first = word * WORD_BITS;
            let from = blocks.start.saturating_sub(first);
            let until = (blocks.end - first).min(WORD_BITS);
            let wanted = (u64::MAX << from) & (u64::MAX >> (WORD_BITS - until));
            let bits = copied.get_mut(&word).expect("it was just found");
            let ours = *bits & wanted;
            *bits &= !wanted;
            if *bits == 0 {
                copied.remove(&word);
            }
            for (start, end) in ones(ours) {
                taken.insert(first + start as u64..first + end as u64);
            }
            if ours != 0 {
                self.changed.note(word);
            }
        }
        taken.iter().collect()
    }

    /// How many words wait for a commit.
    pub(super) fn changed_words(&self) -> usize {
        self.changed.words()
    }

    /// Takes out what waits for a commit, as it is now.
    pub(super) fn take_changes(&self) -> Changes {
        let (words, copied) = (self.words.borrow(), self.copied.borrow());
        self.changed.take(|sector| {
            let first = sector * SECTOR_WORDS;
            let word = |index: u64| {
                let word = words.get(len(index)).copied().unwrap_or(0);
                word & !copied.get(&index).copied().unwrap_or(0)
            };
            let words = (first..first + SECTOR_WORDS).map(word);
            words.flat_map(u64::to_le_bytes).collect()
        })
    }

    /// Takes back what could not be committed.
    pub(super) fn put_back(&self, changes: &Changes) {
        self.changed.put_back(changes);
    }

    /// How many bits are set.
    pub(super) fn count(&self) -> u64 {
        let words = self.words.borrow();
        words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// All of it, as it is in the file.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let words = self.words.borrow();
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}
