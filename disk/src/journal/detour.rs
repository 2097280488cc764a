//! New data that goes home by way of the journal.
//!
//! Where the host's file system has no place yet for what is written, the next sync has to make one
//! durable: on most, that is a commit of a journal of its own. So a little new data goes into the
//! record as a whole, and home with the next checkpoint, together with that of hundreds of other
//! flushes. With more between two flushes, the sync takes longer than such a commit, and the data
//! is not worth to be written twice: it goes home at once.
//!
//! All of this is advice. Whatever is said here, what goes into a record is safe there, and what
//! does not is safe by its checksum.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use super::format::BLOCK_BYTES;
use crate::between_flushes::BetweenFlushes;
use crate::ranges::Ranges;

/// So much new data between two flushes takes the detour: less than a cluster of the usual size,
/// which is better written once.
const BYTES_MAX: u64 = 48 << 10;
/// So many unwritten places are known. When there are more, they are forgotten.
const PLACES_MAX: usize = 1 << 16;

/// The places in a file that were never written, and how much goes to them between two flushes.
#[derive(Default)]
pub(crate) struct Detour {
    unwritten: RefCell<Ranges>,
    /// How much new data came for such places.
    bytes: BetweenFlushes,
    /// Whether the host may soon be full. Data in a record has its place only later, when it is too
    /// late to refuse it.
    is_barred: Cell<bool>,
}

impl Detour {
    /// Nothing was ever written to a range.
    pub(crate) fn note_new(&self, range: Range<u64>) {
        self.unwritten.borrow_mut().insert(range);
        self.bound();
    }

    /// A range is about to be written, or is nobody's any more.
    pub(crate) fn note_written(&self, range: &Range<u64>) {
        let start = range.start - range.start % BLOCK_BYTES;
        let blocks = start..range.end.next_multiple_of(BLOCK_BYTES);
        let mut unwritten = self.unwritten.borrow_mut();
        if unwritten.overlaps(&blocks) {
            unwritten.remove(&blocks);
            drop(unwritten);
            self.bound();
        }
    }

    fn bound(&self) {
        let mut unwritten = self.unwritten.borrow_mut();
        if unwritten.len() > PLACES_MAX {
            *unwritten = Ranges::default();
        }
    }

    /// Whether nothing new came since the last flush.
    pub(crate) fn is_unused(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether nothing was ever written to some of a range.
    pub(crate) fn has(&self, range: &Range<u64>) -> bool {
        self.unwritten.borrow().overlaps(range)
    }

    /// The parts of a range whose new data should go into a record.
    pub(crate) fn parts(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let parts: Vec<_> = self.unwritten.borrow().within(range).collect();
        let bytes = parts.iter().map(|part| part.end - part.start).sum();
        self.bytes.add(bytes);
        if self.is_open() { parts } else { Vec::new() }
    }

    /// Whether new data takes the detour, as far as can be told.
    pub(crate) fn is_open(&self) -> bool {
        self.bytes.max() <= BYTES_MAX && !self.is_barred.get()
    }

    /// The guest has flushed.
    pub(crate) fn flushed(&self) {
        self.bytes.flushed();
    }

    /// Whether the host might have no room for what is on the way.
    pub(crate) fn bar(&self, is_barred: bool) {
        self.is_barred.set(is_barred);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Range<u64> = 65_536..131_072;

    /// The one part of a range that takes the detour, if any does.
    fn part(detour: &Detour, range: Range<u64>) -> Option<Range<u64>> {
        let parts = detour.parts(&range);
        assert!(parts.len() <= 1);
        parts.into_iter().next()
    }

    #[test]
    fn a_little_new_data_takes_the_detour() {
        let detour = Detour::default();
        detour.note_new(PLACE);
        assert_eq!(part(&detour, 61_440..69_632), Some(65_536..69_632));
        detour.note_written(&(66_000..66_512));
        let rest = part(&detour, 65_536..73_728);
        assert_eq!(
            rest,
            Some(69_632..73_728),
            "the host allocates whole blocks"
        );
        detour.note_written(&PLACE);
        assert!(!detour.has(&PLACE));
        assert_eq!(part(&detour, PLACE), None);
    }

    #[test]
    fn much_between_two_flushes_goes_home_until_it_is_little_again() {
        let detour = Detour::default();
        detour.note_new(0..1 << 30);
        let write = |bytes| part(&detour, 0..bytes).is_some();
        assert!(write(BYTES_MAX));
        assert!(!write(4096));
        for _ in 0..3 {
            detour.flushed();
            assert!(!write(4096), "there was much a few flushes ago");
        }
        detour.flushed();
        assert!(write(4096));
        detour.bar(true);
        assert!(!write(4096));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let detour = Detour::default();
        for n in 0..=PLACES_MAX as u64 {
            detour.note_new(n * 8192..n * 8192 + 4096);
        }
        assert!(detour.unwritten.borrow().len() <= PLACES_MAX);
        detour.note_new(0..1 << 30);
        for n in 0..=PLACES_MAX as u64 {
            detour.note_written(&(n * 8192..n * 8192 + 1));
        }
        assert!(detour.unwritten.borrow().len() <= PLACES_MAX);
    }
}
