//! Which words of a table in memory wait for a commit.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::ranges::ones;
use crate::request::SECTOR_BYTES;
use crate::storage::len;

/// The unit of a record's writes.
pub(super) const WORD_BYTES: u64 = 8;
/// How many there are in a sector.
pub(super) const SECTOR_WORDS: u64 = SECTOR_BYTES / WORD_BYTES;

/// Which words of which sectors have changed since the last commit.
#[derive(Default)]
pub(super) struct Changed {
    sectors: RefCell<BTreeMap<u64, u64>>,
    words: Cell<usize>,
}

/// Sectors of a table as they were at one time.
#[derive(Default)]
pub(super) struct Changes {
    /// By where they are in the table: which words have changed, and the whole content.
    sectors: Vec<(u64, u64, Vec<u8>)>,
}

impl Changed {
    pub(super) fn note(&self, word: u64) {
        let mut sectors = self.sectors.borrow_mut();
        let (mask, bit) = (
            sectors.entry(word / SECTOR_WORDS).or_default(),
            1 << (word % SECTOR_WORDS),
        );
        let is_new = *mask & bit == 0;
        *mask |= bit;
        self.words.set(self.words.get() + usize::from(is_new));
    }

    /// How many words wait for a commit.
    pub(super) fn words(&self) -> usize {
        self.words.get()
    }

    /// Takes out what waits for a commit; `content` is that of a sector, by its number.
    pub(super) fn take(&self, content: impl Fn(u64) -> Vec<u8>) -> Changes {
        self.words.set(0);
        let sectors = std::mem::take(&mut *self.sectors.borrow_mut()).into_iter();
        let sectors = sectors.map(|(sector, mask)| (sector * SECTOR_BYTES, mask, content(sector)));
        Changes {
            sectors: sectors.collect(),
        }
    }

    /// Takes back what could not be committed.
    pub(super) fn put_back(&self, changes: &Changes) {
        let mut waiting = self.sectors.borrow_mut();
        for (at, mask, _) in &changes.sectors {
            *waiting.entry(at / SECTOR_BYTES).or_default() |= mask;
        }
        let words = waiting.values().map(|mask| mask.count_ones() as usize);
        self.words.set(words.sum());
    }
}

impl Changes {
    /// Whether nothing has changed.
    pub(super) fn is_empty(&self) -> bool {
        self.sectors.is_empty()
    }

    /// Runs of words that have changed, by where they are in the table.
    pub(super) fn words(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.sectors.iter().flat_map(|(at, mask, content)| {
            let word = len(WORD_BYTES);
            ones(*mask).map(move |(first, end)| {
                (
                    at + (first * word) as u64,
                    &content[first * word..end * word],
                )
            })
        })
    }

    /// Whole sectors, joined where they follow each other.
    pub(super) fn writes(&self) -> Vec<(u64, Vec<u8>)> {
        let mut writes: Vec<(u64, Vec<u8>)> = Vec::new();
        for (at, _, content) in &self.sectors {
            match writes.last_mut() {
                Some((start, bytes)) if *start + bytes.len() as u64 == *at => {
                    bytes.extend_from_slice(content);
                }
                _ => writes.push((*at, content.clone())),
            }
        }
        writes
    }
}
