//! Where content is, as far as that fits in memory.

mod chains;

use foldhash::fast::RandomState;
use std::hash::BuildHasher as _;

use super::fingerprint::Fingerprint;
use chains::{Chains, Link};

/// What an entry takes: itself, and a head in each of two tables.
pub(super) const ENTRY_BYTES: u64 = (size_of::<Entry>() + 2 * size_of::<Link>()) as u64;
/// The memory for entries grows by a part of itself: it must not be much more than what is used.
const GROWTH_PART: usize = 4;

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
    /// The next one with the same head among fingerprints; of those not used, the next of those.
    next_by_content: Link,
    /// The next one with the same head among places.
    next_by_host: Link,
}

/// The clusters whose content is known. When there is no more room, one goes that was not found since
/// the last time round (the clock algorithm).
///
/// An entry says that the cluster *had* the content. Whoever has a cluster overwritten, or used for
/// something else, must have it forgotten before.
pub(super) struct Index {
    entries: Vec<Entry>,
    entries_max: usize,
    /// The first of the entries that are not used.
    vacant: Link,
    /// The next entry that may go.
    hand: usize,
    /// By fingerprints, which are random.
    by_content: Chains,
    by_host: Chains,
    host_hasher: RandomState,
}

impl Index {
    /// One that takes at most so much memory, but has one entry at least.
    pub(super) fn new(memory_bytes: u64) -> Self {
        let entries_max = (memory_bytes / ENTRY_BYTES).clamp(1, Link::MAX);
        let entries_max = usize::try_from(entries_max).expect("it is of memory");
        Self {
            entries: Vec::new(),
            entries_max,
            vacant: Link::default(),
            hand: 0,
            by_content: Chains::new(entries_max),
            by_host: Chains::new(entries_max),
            host_hasher: RandomState::default(),
        }
    }

    /// Where this content is.
    pub(super) fn find(&mut self, fingerprint: &Fingerprint) -> Option<Place> {
        let number = self.number_of(fingerprint)?;
        let entry = &mut self.entries[number];
        entry.found = true;
        Some(entry.place)
    }

    /// This content is there, and in no place that was known before as far as that matters.
    pub(super) fn note(&mut self, fingerprint: Fingerprint, place: Place) {
        self.forget(place.host);
        if let Some(number) = self.number_of(&fingerprint) {
            self.remove(number);
        }
        let entry = Entry {
            fingerprint,
            place,
            found: false,
            next_by_content: Link::default(),
            next_by_host: Link::default(),
        };
        let number = self.put(entry);
        let by_host = self.host_hasher.hash_one(place.host);
        let entry = &mut self.entries[number];
        entry.next_by_content = self.by_content.push(key(&fingerprint), number);
        entry.next_by_host = self.by_host.push(by_host, number);
    }

    /// The cluster at `host` is about to have other content.
    pub(super) fn forget(&mut self, host: u64) {
        let entries = &self.entries;
        let found = self.by_host.find(
            self.host_hasher.hash_one(host),
            |number| entries[number].place.host == host,
            |number| entries[number].next_by_host,
        );
        if let Some(number) = found {
            self.remove(number);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.vacant = Link::default();
        self.hand = 0;
        self.by_content.clear();
        self.by_host.clear();
    }

    fn number_of(&self, fingerprint: &Fingerprint) -> Option<usize> {
        self.by_content.find(
            key(fingerprint),
            |number| self.entries[number].fingerprint == *fingerprint,
            |number| self.entries[number].next_by_content,
        )
    }

    /// Takes an entry out that is used.
    fn remove(&mut self, number: usize) {
        let Entry {
            fingerprint, place, ..
        } = self.entries[number];
        let by_host = self.host_hasher.hash_one(place.host);
        let (by_content, entries) = (key(&fingerprint), &mut self.entries);
        self.by_content
            .remove(by_content, number, entries, |entry| {
                &mut entry.next_by_content
            });
        self.by_host
            .remove(by_host, number, entries, |entry| &mut entry.next_by_host);
        entries[number].next_by_content = self.vacant;
        self.vacant = Link::to(number);
    }

    /// Puts an entry where there is room, or was none and some is made.
    fn put(&mut self, entry: Entry) -> usize {
        let len = self.entries.len();
        if self.vacant.number().is_none() && len < self.entries_max {
            if len == self.entries.capacity() {
                let more = (len / GROWTH_PART).max(1);
                self.entries.reserve_exact(more.min(self.entries_max - len));
            }
            self.entries.push(entry);
            return len;
        }
        let number = self.vacate();
        self.entries[number] = entry;
        number
    }

    /// The number of an entry that is not used any more.
    fn vacate(&mut self) -> usize {
        loop {
            if let Some(number) = self.vacant.number() {
                self.vacant = self.entries[number].next_by_content;
                return number;
            }
            // All are used. Each is passed twice at most: then it was not found since.
            let number = self.hand;
            self.hand = (number + 1) % self.entries.len();
            if !std::mem::take(&mut self.entries[number].found) {
                self.remove(number);
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
    use crate::rng::Rng;

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

    /// With few heads, so that chains are long, against a plain list.
    #[test]
    fn what_is_noted_and_not_forgotten_is_found() {
        let mut index = Index::new(50 * ENTRY_BYTES);
        let mut model: Vec<(u64, u64)> = Vec::new();
        let mut rng = Rng::new(1);
        for _ in 0..20_000 {
            let (n, host) = (rng.below(40), rng.below(45));
            if rng.coin() {
                index.forget(host);
                model.retain(|(_, other)| *other != host);
            } else {
                index.note(content(n), place(host));
                model.retain(|(other, at)| *other != n && *at != host);
                model.push((n, host));
            }
            for n in 0..40 {
                let expected = model.iter().find(|(other, _)| *other == n);
                assert_eq!(
                    index.find(&content(n)),
                    expected.map(|(_, host)| place(*host))
                );
            }
        }
    }

    /// Whatever comes and goes.
    #[test]
    fn memory_is_as_much_as_was_said() {
        for entries_max in [500, 900, 1100, 4000, 58_000] {
            let memory_bytes = entries_max * ENTRY_BYTES;
            let mut index = Index::new(memory_bytes);
            for n in 0..entries_max * 5 {
                let random = (n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                index.note(content(random), place(n));
            }
            assert_eq!(index.entries.len() as u64, entries_max);
            let entries = index.entries.capacity() * size_of::<Entry>();
            let heads = index.by_content.memory_bytes() + index.by_host.memory_bytes();
            let all = (entries + heads) as u64;
            assert!(
                all <= memory_bytes,
                "{entries_max}: {all}, not {memory_bytes}"
            );
        }
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
        assert_eq!(index.find(&content(1)), Some(place(1)));
    }

    #[test]
    fn what_is_found_stays_and_memory_is_bounded() {
        let mut index = Index::new(10 * ENTRY_BYTES);
        for n in 0..1000 {
            index.note(content(n), place(n));
            assert!(index.find(&content(0)).is_some(), "{n}");
        }
        assert_eq!(index.entries.len(), 10);
        index.clear();
        assert_eq!(index.find(&content(0)), None);
        index.note(content(1), place(1));
        assert_eq!(index.find(&content(1)), Some(place(1)));
    }
}
