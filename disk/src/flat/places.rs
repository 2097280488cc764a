//! Which places of a compact image's file are taken. They are numbered from 0.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::format::{Chunks, Header};
use crate::storage::len;

const WORD_BITS: u64 = 64;

/// A bit a place: whether anybody has it.
pub(super) struct Places {
    words: RefCell<Vec<u64>>,
    max: u64,
    /// How many of those that are taken the metadata has.
    metadata: u64,
    taken: Cell<u64>,
    /// No place below is free.
    hint: Cell<u64>,
}

impl Places {
    /// Where only the metadata has places, if it is not before them.
    pub(super) fn new(header: &Header, chunks: &Chunks) -> Self {
        let parts = [&header.bitmap, &chunks.table].map(|part| places_of(part, header, chunks));
        let metadata: u64 = parts.iter().map(|part| part.end - part.start).sum();
        // Each chunk can have one, wherever the metadata is.
        let max = chunks.places_max() + metadata;
        let mut places = Self {
            words: RefCell::new(vec![0; len(max.div_ceil(WORD_BITS))]),
            max,
            metadata: 0,
            taken: Cell::new(0),
            hint: Cell::new(0),
        };
        for place in parts.into_iter().flatten() {
            places.take(place);
        }
        places.metadata = places.taken();
        places
    }

    /// How many chunks have one, or had one that is not free yet.
    pub(super) fn of_chunks(&self) -> u64 {
        self.taken() - self.metadata
    }

    /// How many there can be.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.get()
    }

    pub(super) fn is_taken(&self, place: u64) -> bool {
        let words = self.words.borrow();
        let word = words.get(len(place / WORD_BITS)).copied();
        word.is_some_and(|word| word >> (place % WORD_BITS) & 1 == 1)
    }

    /// Takes a place, if there is such a one, and nobody has it.
    pub(super) fn take(&self, place: u64) -> bool {
        if place >= self.max || self.is_taken(place) {
            return false;
        }
        self.words.borrow_mut()[len(place / WORD_BITS)] |= 1 << (place % WORD_BITS);
        self.taken.set(self.taken.get() + 1);
        true
    }

    /// Takes the first that is free, below `limit`.
    pub(super) fn take_first(&self, limit: u64) -> Option<u64> {
        let place = self.first_free(self.hint.get());
        self.hint.set(place);
        (place < limit && self.take(place)).then_some(place)
    }

    /// The first that is free, from one on; some number behind the last if there is none.
    fn first_free(&self, from: u64) -> u64 {
        let words = self.words.borrow();
        let mut place = from;
        while let Some(word) = words.get(len(place / WORD_BITS)) {
            let taken = u64::from((word >> (place % WORD_BITS)).trailing_ones());
            place += taken;
            if taken == 0 || !place.is_multiple_of(WORD_BITS) {
                break;
            }
        }
        place
    }

    /// The first run of so many that are free, below `limit`, which may be behind the last.
    pub(super) fn find_run(&self, count: u64, limit: u64) -> Option<u64> {
        let mut start = 0;
        loop {
            start = self.first_free(start);
            if start.checked_add(count).is_none_or(|end| end > limit) {
                return None;
            }
            match (start..start + count).find(|place| self.is_taken(*place)) {
                Some(taken) => start = taken + 1,
                None => return Some(start),
            }
        }
    }

    /// Nobody has a place any more.
    pub(super) fn give_back(&self, place: u64) {
        if self.is_taken(place) {
            self.words.borrow_mut()[len(place / WORD_BITS)] &= !(1 << (place % WORD_BITS));
            self.taken.set(self.taken.get() - 1);
            self.hint.set(self.hint.get().min(place));
        }
    }

    /// The end of all that are taken.
    pub(super) fn end(&self) -> u64 {
        let words = self.words.borrow();
        let last = words.iter().rposition(|word| *word != 0);
        last.map_or(0, |n| {
            (n as u64 + 1) * WORD_BITS - u64::from(words[n].leading_zeros())
        })
    }
}

/// The places that a part of the file touches.
pub(super) fn places_of(part: &Range<u64>, header: &Header, chunks: &Chunks) -> Range<u64> {
    let start = part.start.saturating_sub(header.data_offset) >> chunks.bits;
    let end = part.end.saturating_sub(header.data_offset);
    start..end.div_ceil(chunks.bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flat::CreateOptions;

    fn places() -> Places {
        let mut options = CreateOptions::new(1 << 30);
        options.chunk_bits = Some(20);
        let header = options.header().unwrap();
        Places::new(&header, header.chunks.as_ref().unwrap())
    }

    #[test]
    fn the_first_that_is_free_is_taken() {
        let places = places();
        for expected in 0..130 {
            assert_eq!(places.take_first(130), Some(expected));
        }
        assert_eq!((places.take_first(130), places.end()), (None, 130));
        places.give_back(129);
        places.give_back(64);
        assert_eq!((places.taken(), places.end()), (128, 129));
        assert_eq!(places.take_first(130), Some(64));
        assert_eq!(places.take_first(130), Some(129));
        assert!(!places.take(5) && !places.take(places.max()));
    }

    #[test]
    fn runs_are_found_between_others_and_behind_them() {
        let places = places();
        for place in [1, 4, 70] {
            assert!(places.take(place));
        }
        let limit = places.max();
        let found = [1, 2, 3, 65, 66].map(|count| places.find_run(count, limit));
        assert_eq!(found, [Some(0), Some(2), Some(5), Some(5), Some(71)]);
        let behind = places.find_run(limit, 3 * limit);
        assert_eq!(behind, Some(71));
        assert_eq!(places.find_run(limit, limit), None);
    }
}
