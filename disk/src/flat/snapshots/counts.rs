//! How many snapshots have each place of an image, in memory only while that changes.

use crate::flat::format::COUNT_BYTES;
use crate::storage::len;

const WORD_BITS: u64 = 64;

/// A number a place: of how many snapshots it is. The disk itself is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::flat) struct Counts(Vec<u16>);

/// A bit a place: whether any snapshot has it.
#[derive(Default)]
pub(in crate::flat) struct Frozen {
    words: Vec<u64>,
    /// How many places have a count, 0 or not.
    counted: u64,
    /// How many of those are not 0.
    places: u64,
}

impl Counts {
    /// As they are in the file.
    pub(in crate::flat) fn of(bytes: &[u8]) -> Self {
        let counts = bytes.chunks_exact(len(COUNT_BYTES));
        Self(
            counts
                .map(|count| u16::from_le_bytes(count.try_into().expect("two bytes")))
                .collect(),
        )
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|count| count.to_le_bytes())
            .collect()
    }

    /// How many places have one.
    pub(in crate::flat) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// That of a place.
    pub(in crate::flat) fn get(&self, place: u64) -> u16 {
        self.0.get(len(place)).copied().unwrap_or(0)
    }

    pub(in crate::flat) fn set(&mut self, place: u64, count: u16) {
        if self.len() <= place {
            self.0.resize(len(place + 1), 0);
        }
        self.0[len(place)] = count;
    }

    /// One more snapshot has a place. Returns false if it cannot be counted.
    pub(in crate::flat) fn add(&mut self, place: u64) -> bool {
        let count = self.get(place).checked_add(1);
        count.is_some_and(|count| {
            self.set(place, count);
            true
        })
    }

    /// One snapshot less has a place. Returns false if none had it.
    pub(in crate::flat) fn remove(&mut self, place: u64) -> bool {
        let count = self.get(place).checked_sub(1);
        count.is_some_and(|count| {
            self.set(place, count);
            true
        })
    }

    /// Leaves out the zeros at the end, but for those of the first `least` places.
    pub(in crate::flat) fn trim(&mut self, least: u64) {
        let end = self.0.iter().rposition(|count| *count != 0);
        let end = end.map_or(0, |last| last as u64 + 1);
        self.0.resize(len(end.max(least)), 0);
    }

    pub(in crate::flat) fn frozen(&self) -> Frozen {
        let words: Vec<u64> = self
            .0
            .chunks(len(WORD_BITS))
            .map(|counts| {
                let bits = counts.iter().zip(0..).filter(|(count, _)| **count != 0);
                bits.fold(0, |word, (_, bit)| word | 1 << bit)
            })
            .collect();
        Frozen {
            counted: self.len(),
            places: words.iter().map(|word| u64::from(word.count_ones())).sum(),
            words,
        }
    }
}

impl Frozen {
    /// Whether some snapshot has a place.
    pub(in crate::flat) fn has(&self, place: u64) -> bool {
        self.word(place / WORD_BITS) >> (place % WORD_BITS) & 1 == 1
    }

    /// The bits of 64 places.
    pub(in crate::flat) fn word(&self, index: u64) -> u64 {
        self.words.get(len(index)).copied().unwrap_or(0)
    }

    /// How many places have a count, be it 0.
    pub(in crate::flat) fn counted(&self) -> u64 {
        self.counted
    }

    /// How many places snapshots have.
    pub(in crate::flat) fn places(&self) -> u64 {
        self.places
    }

    /// The end of all that snapshots have.
    pub(in crate::flat) fn end(&self) -> u64 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |n| {
            (n as u64 + 1) * WORD_BITS - u64::from(self.words[n].leading_zeros())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_frozen_while_any_snapshot_has_them() {
        let mut counts = Counts::default();
        for place in [3, 70, 3] {
            assert!(counts.add(place));
        }
        assert!(counts.remove(3) && counts.remove(70));
        assert!(!counts.remove(70) && !counts.remove(1000));
        assert_eq!(counts, Counts::of(&counts.to_bytes()));
        let frozen = counts.frozen();
        let found: Vec<_> = (0..200).filter(|place| frozen.has(*place)).collect();
        assert_eq!((found, frozen.places(), frozen.counted()), (vec![3], 1, 71));
        counts.trim(0);
        assert_eq!((counts.len(), counts.frozen().end()), (4, 4));
        counts.trim(9);
        assert_eq!((counts.len(), counts.frozen().end()), (9, 4));
    }

    #[test]
    fn a_count_does_not_overflow() {
        let mut counts = Counts::default();
        counts.set(0, u16::MAX);
        assert!(!counts.add(0));
        assert_eq!(counts.get(0), u16::MAX);
    }
}
