//! Where content is, as far as that fits in memory.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::fingerprint::Fingerprint;

/// What an entry takes: 48 bytes, and a place in each of two tables, which are half empty after they
/// have grown.
pub(super) const ENTRY_BYTES: u64 = 112;

/// A cluster with a certain content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where it is in the file.
    pub(super) host: u64,
    /// Where on the disk it is, or was when this was noted.
    pub(super) guest: u64,
    /// The changes of the file up to when it was there, as the flusher counts them.
    pub(super) mark: u64,
}

struct Entry {
    fingerprint: Fingerprint,
    place: Place,
    /// Whether it was found since the hand passed.
    found: bool,
}

/// The clusters whose content is known. When there is no more room, one goes that was not found since
/// the last time round (the clock algorithm).
///
/// An entry says that the cluster *had* the content. Whoever has a cluster overwritten, or used for
/// something else, must have it forgotten before.
pub(super) struct Index {
    entries: Vec<Option<Entry>>,
    vacant: Vec<usize>,
    entries_max: usize,
    /// The next entry that may go.
    hand: usize,
    /// By the first half of the fingerprint, which is random.
    by_content: HashMap<u64, usize, RandomState>,
    by_host: HashMap<u64, usize, RandomState>,
}

impl Index {
    /// One that takes at most so much memory, but has one entry at least.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let entries_max = (memory_bytes / ENTRY_BYTES).max(1);
        Self {
            entries: Vec::new(),
            vacant: Vec::new(),
            entries_max: usize::try_from(entries_max).unwrap_or(usize::MAX),
            hand: 0,
            by_content: HashMap::default(),
            by_host: HashMap::default(),
        }
    }

    /// Where this content is.
    pub(super) fn find(&mut self, fingerprint: &Fingerprint) -> Option<Place> {
        let number = *self.by_content.get(&key(fingerprint))?;
        let entry = self.entries[number].as_mut()?;
        if entry.fingerprint != *fingerprint {
            return None;
        }
        entry.found = true;
        Some(entry.place)
    }

    /// This content is there, and in no place that was known before as far as that matters.
    pub(super) fn note(&mut self, fingerprint: Fingerprint, place: Place) {
        self.forget(place.host);
        if let Some(number) = self.by_content.get(&key(&fingerprint)) {
            self.remove(*number);
        }
        let number = self.vacate();
        self.by_content.insert(key(&fingerprint), number);
        self.by_host.insert(place.host, number);
        self.entries[number] = Some(Entry {
            fingerprint,
            place,
            found: false,
        });
    }

    /// The cluster at `host` is about to have other content.
    pub(super) fn forget(&mut self, host: u64) {
        if let Some(number) = self.by_host.get(&host) {
            self.remove(*number);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.vacant.clear();
        self.by_content.clear();
        self.by_host.clear();
        self.hand = 0;
    }

    fn remove(&mut self, number: usize) {
        if let Some(entry) = self.entries[number].take() {
            self.by_content.remove(&key(&entry.fingerprint));
            self.by_host.remove(&entry.place.host);
            self.vacant.push(number);
        }
    }

    /// The number of an entry that is not used.
    fn vacate(&mut self) -> usize {
        if self.vacant.is_empty() && self.entries.len() < self.entries_max {
            self.entries.push(None);
            return self.entries.len() - 1;
        }
        loop {
            if let Some(number) = self.vacant.pop() {
                return number;
            }
            // Every entry is passed twice at most: then it was not found since.
            let number = self.hand;
            self.hand = (number + 1) % self.entries.len();
            match &mut self.entries[number] {
                Some(entry) if entry.found => entry.found = false,
                _ => self.remove(number),
            }
        }
    }
}

fn key(fingerprint: &Fingerprint) -> u64 {
    let (first, _) = fingerprint.split_first_chunk().expect("16 bytes");
    u64::from_le_bytes(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(n: u64) -> Fingerprint {
        let mut fingerprint = Fingerprint::default();
        fingerprint[..8].copy_from_slice(&n.to_le_bytes());
        fingerprint
    }

    fn place(host: u64) -> Place {
        Place {
            host,
            guest: 1 << 40 | host,
            mark: 7,
        }
    }

    #[test]
    fn a_cluster_has_one_content_and_content_one_place() {
        let mut index = Index::new(10 * ENTRY_BYTES);
        index.note(content(1), place(100));
        index.note(content(2), place(100));
        assert_eq!(index.find(&content(1)), None, "it was overwritten");
        assert_eq!(index.find(&content(2)), Some(place(100)));
        index.note(content(2), place(200));
        assert_eq!(index.find(&content(2)), Some(place(200)));
        index.forget(100);
        assert_eq!(index.find(&content(2)), Some(place(200)));
        index.forget(200);
        assert_eq!(index.find(&content(2)), None);
    }

    #[test]
    fn half_a_fingerprint_is_not_enough() {
        let mut index = Index::new(10 * ENTRY_BYTES);
        let mut alike = content(1);
        alike[15] = 1;
        index.note(content(1), place(1));
        assert_eq!(index.find(&alike), None);
        index.note(alike, place(2));
        assert_eq!(index.find(&alike), Some(place(2)));
        assert_eq!(index.find(&content(1)), None, "it had to go");
        assert_eq!((index.by_content.len(), index.by_host.len()), (1, 1));
    }

    #[test]
    fn what_is_found_stays_and_memory_is_bounded() {
        let mut index = Index::new(10 * ENTRY_BYTES);
        for n in 0..1000 {
            index.note(content(n), place(n));
            assert!(index.find(&content(0)).is_some(), "{n}");
        }
        assert_eq!(index.entries.len(), 10);
        assert_eq!((index.by_content.len(), index.by_host.len()), (10, 10));
        index.clear();
        assert_eq!(index.find(&content(0)), None);
        index.note(content(1), place(1));
        assert_eq!(index.find(&content(1)), Some(place(1)));
    }
}
