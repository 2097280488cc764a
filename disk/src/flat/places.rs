//! Which places of a compact image's file are taken. They are numbered from 0.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::rc::Rc;

use super::format::{Chunks, Header};
use super::snapshots::{Frozen, Snapshots};
use crate::ranges::ones;
use crate::storage::len;

const WORD_BITS: u64 = 64;

/// A bit a place: whether the disk has it, or the metadata. Snapshots may have it, too.
pub(super) struct Places {
    words: RefCell<Vec<u64>>,
    /// Those that snapshots have, whoever else does.
    frozen: Rc<Frozen>,
    max: u64,
    /// Which places the metadata has, in order; some may be behind those that chunks can have.
    metadata: Vec<Range<u64>>,
    /// How many of those that are taken are not the disk's alone.
    others: u64,
    taken: Cell<u64>,
    /// No place below is free.
    hint: Cell<u64>,
}

impl Places {
    /// Where only the metadata has places, if it is not before them, and snapshots have theirs.
    pub(super) fn new(header: &Header, chunks: &Chunks, snapshots: &Snapshots) -> Self {
        let frozen = Rc::clone(&snapshots.frozen);
        let parts = metadata_parts(header, chunks, snapshots);
        let metadata = joined(parts.iter().map(|part| places_of(part, header, chunks)));
        let max = places_max(header, chunks, &parts) + frozen.counted();
        let places = Self {
            words: RefCell::new(vec![0; len(max.div_ceil(WORD_BITS))]),
            max,
            metadata: Vec::new(),
            others: 0,
            taken: Cell::new(frozen.places()),
            hint: Cell::new(0),
            frozen,
        };
        for place in metadata.iter().flat_map(|run| run.start..run.end.min(max)) {
            places.take(place);
        }
        Self {
            metadata,
            others: places.taken(),
            ..places
        }
    }

    /// How many chunks have one of their own, or had one that is not free yet.
    pub(super) fn of_chunks(&self) -> u64 {
        self.taken().saturating_sub(self.others)
    }

    /// How many there can be.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// How many are taken.
    pub(super) fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Whether the disk, the metadata or a snapshot has a place.
    pub(super) fn is_taken(&self, place: u64) -> bool {
        self.is_ours(place) || self.is_frozen(place) || self.is_metadata(place)
    }

    /// Whether a snapshot has a place.
    pub(super) fn is_frozen(&self, place: u64) -> bool {
        self.frozen.has(place)
    }

    /// Whether the metadata has a place.
    pub(super) fn is_metadata(&self, place: u64) -> bool {
        let behind = self.metadata.partition_point(|run| run.end <= place);
        let run = self.metadata.get(behind);
        run.is_some_and(|run| run.start <= place)
    }

    /// Whether the disk has a place, or the metadata.
    fn is_ours(&self, place: u64) -> bool {
        let words = self.words.borrow();
        let word = words.get(len(place / WORD_BITS)).copied();
        word.is_some_and(|word| word >> (place % WORD_BITS) & 1 == 1)
    }

    /// The disk, or the metadata, takes a place, if there is such a one, and it has not. It may be a
    /// snapshot's too.
    pub(super) fn take(&self, place: u64) -> bool {
        if place >= self.max || self.is_ours(place) {
            return false;
        }
        self.words.borrow_mut()[len(place / WORD_BITS)] |= 1 << (place % WORD_BITS);
        self.count(place, 1);
        true
    }

    /// Counts those that are taken. One that is frozen is always.
    fn count(&self, place: u64, change: i64) {
        if !self.is_frozen(place) {
            self.taken
                .set(self.taken.get().saturating_add_signed(change));
        }
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
            let word = word | self.frozen.word(place / WORD_BITS);
            let taken = u64::from((word >> (place % WORD_BITS)).trailing_ones());
            place += taken;
            if taken == 0 || !place.is_multiple_of(WORD_BITS) {
                break;
            }
        }
        place
    }

    /// The first run of so many that are free, from one on, and below `limit`, which may be behind
    /// the last.
    pub(super) fn find_run(&self, from: u64, count: u64, limit: u64) -> Option<u64> {
        let mut start = from;
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

    /// The disk has a place no more; it is free, unless a snapshot has it.
    pub(super) fn give_back(&self, place: u64) {
        if self.is_ours(place) {
            self.words.borrow_mut()[len(place / WORD_BITS)] &= !(1 << (place % WORD_BITS));
            self.count(place, -1);
            self.hint.set(self.hint.get().min(place));
        }
    }

    /// The end of all that are taken.
    pub(super) fn end(&self) -> u64 {
        let words = self.words.borrow();
        let last = words.iter().rposition(|word| *word != 0);
        let end = last.map_or(0, |n| {
            (n as u64 + 1) * WORD_BITS - u64::from(words[n].leading_zeros())
        });
        let metadata_end = self.metadata.last().map_or(0, |run| run.end);
        end.max(metadata_end).max(self.frozen.end())
    }

    /// What is taken here, and by nobody in `new`.
    pub(super) fn without(&self, new: &Self) -> Vec<Range<u64>> {
        let words = 0..self.max.div_ceil(WORD_BITS);
        let gone = words.flat_map(|index| {
            let gone = self.word(index) & !new.word(index);
            let places = move |(start, end)| {
                index * WORD_BITS + start as u64..index * WORD_BITS + end as u64
            };
            ones(gone).flat_map(places)
        });
        let behind = self.metadata.iter();
        let behind = behind.flat_map(|run| run.start.max(self.max)..run.end);
        let gone = gone.chain(behind).filter(|place| !new.is_taken(*place));
        joined(gone.map(|place| place..place + 1))
    }

    /// The bits of 64 places: whether anybody has them.
    fn word(&self, index: u64) -> u64 {
        let words = self.words.borrow();
        words.get(len(index)).copied().unwrap_or(0) | self.frozen.word(index)
    }
}

/// Where in the file all metadata is that may be in places.
fn metadata_parts(header: &Header, chunks: &Chunks, snapshots: &Snapshots) -> Vec<Range<u64>> {
    let mut parts = snapshots.parts(header, chunks);
    parts.extend([header.bitmap.clone(), chunks.table.clone()]);
    parts
}

/// How many places there can be: one for each chunk that the table has room for, wherever the
/// metadata is.
fn places_max(header: &Header, chunks: &Chunks, parts: &[Range<u64>]) -> u64 {
    let metadata = parts.iter().map(|part| places_of(part, header, chunks));
    chunks.places_max() + metadata.map(|run| run.end - run.start).sum::<u64>()
}

/// So many places need a count, lest the disk's last one, which ends at `end`, is more than there
/// can be.
pub(super) fn counts_least(
    header: &Header,
    chunks: &Chunks,
    snapshots: &Snapshots,
    end: u64,
) -> u64 {
    let parts = metadata_parts(header, chunks, snapshots);
    end.saturating_sub(places_max(header, chunks, &parts))
}

/// Runs in order, joined where they touch each other.
fn joined(runs: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut runs: Vec<_> = runs.filter(|run| !run.is_empty()).collect();
    runs.sort_unstable_by_key(|run| run.start);
    let mut all: Vec<Range<u64>> = Vec::new();
    for run in runs {
        match all.last_mut() {
            Some(last) if run.start <= last.end => last.end = last.end.max(run.end),
            _ => all.push(run),
        }
    }
    all
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
    use crate::flat::snapshots::Counts;

    fn places() -> Places {
        let mut options = CreateOptions::new(1 << 30);
        options.chunk_bits = Some(20);
        let header = options.header().unwrap();
        Places::new(
            &header,
            header.chunks.as_ref().unwrap(),
            &Snapshots::default(),
        )
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
        let found = [1, 2, 3, 65, 66].map(|count| places.find_run(0, count, limit));
        assert_eq!(found, [Some(0), Some(2), Some(5), Some(5), Some(71)]);
        let behind = places.find_run(0, limit, 3 * limit);
        assert_eq!(behind, Some(71));
        assert_eq!(places.find_run(0, limit, limit), None);
        assert_eq!(places.find_run(3, 2, limit), Some(5));
    }

    /// Whoever else has it.
    #[test]
    fn what_a_snapshot_has_is_nobody_elses_to_take() {
        let mut options = CreateOptions::new(1 << 30);
        options.chunk_bits = Some(20);
        let header = options.header().unwrap();
        let chunks = header.chunks.as_ref().unwrap();
        let mut counts = Counts::default();
        for place in [0, 2, 64] {
            assert!(counts.add(place));
        }
        let snapshots = Snapshots::new(Vec::new(), &counts);
        let before = Places::new(&header, chunks, &Snapshots::default());
        let places = Places::new(&header, chunks, &snapshots);
        assert_eq!(places.max(), before.max() + 65);
        assert_eq!(
            (places.taken(), places.of_chunks(), places.end()),
            (3, 0, 65)
        );
        // The disk has it from before.
        assert!(places.take(2) && !places.take(2));
        assert_eq!((places.taken(), places.of_chunks()), (3, 0));
        let taken: Vec<_> = (0..3).map(|_| places.take_first(100)).collect();
        assert_eq!(taken, [Some(1), Some(3), Some(4)]);
        assert_eq!((places.taken(), places.of_chunks()), (6, 3));
        places.give_back(2);
        places.give_back(3);
        assert_eq!((places.taken(), places.of_chunks()), (5, 2));
        assert_eq!(places.take_first(100), Some(3));
        assert_eq!(places.find_run(0, 60, 1000), Some(65));
        assert_eq!(places.without(&before), [0..5, 64..65]);
        assert_eq!(before.without(&places), []);
    }
}
