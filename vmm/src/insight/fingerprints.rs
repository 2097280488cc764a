//! What was written, by its content: a block that a process hands to the kernel is met again when
//! the kernel hands it to the disk.

use std::hash::BuildHasher;

use disk::{Class, DedupHint, mutant};
use foldhash::fast::FixedState;

use super::partial_blocks::Block;

/// Entries that compete for a place: the one that was used longest ago goes.
const WAYS: usize = 8;

/// The file that a block belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// What is known of a content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) file: FileId,
    pub(super) class: Class,
    /// Whether the class follows from the file's size, which was this when the content was written.
    pub(super) by_size: bool,
    pub(super) dedup: DedupHint,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    /// 0 where there is none.
    hash: u64,
    used: u64,
    mark: Mark,
}

/// Makes fingerprints. With another seed, other contents get in each other's way.
#[derive(Clone)]
pub(super) struct Fingerprinter(FixedState);

impl Fingerprinter {
    pub(super) fn new(seed: u64) -> Self {
        Self(FixedState::with_seed(seed))
    }

    /// The fingerprint of a block. Zeros have none: everybody writes those.
    pub(super) fn of(&self, block: &Block) -> Option<u64> {
        if block.iter().all(|&byte| byte == 0) && !mutant("zeros belong to who wrote them") {
            return None;
        }
        Some(self.0.hash_one(&block[..]).max(1))
    }
}

/// The contents that were seen last, in bounded memory.
pub(super) struct Fingerprints {
    sets: Vec<[Entry; WAYS]>,
    clock: u64,
}

impl Fingerprints {
    /// Room for `capacity` of them.
    pub(super) fn new(capacity: usize) -> Self {
        let sets = (capacity / WAYS).next_power_of_two().max(1);
        Self {
            sets: vec![[Entry::default(); WAYS]; sets],
            clock: 0,
        }
    }

    /// Notes that a content belongs to a file.
    pub(super) fn insert(&mut self, hash: u64, mark: Mark) {
        self.clock += 1;
        let used = self.clock;
        let set = self.set(hash);
        let same = set.iter().position(|entry| entry.hash == hash);
        let oldest = || (0..WAYS).min_by_key(|&way| set[way].used).unwrap_or(0);
        let way = same.unwrap_or_else(oldest);
        set[way] = Entry { hash, used, mark };
    }

    /// Forgets a content that is no more.
    pub(super) fn remove(&mut self, hash: u64) {
        if let Some(entry) = self.set(hash).iter_mut().find(|entry| entry.hash == hash) {
            *entry = Entry::default();
        }
    }

    /// What is known of a content.
    pub(super) fn find(&mut self, hash: u64) -> Option<Mark> {
        self.clock += 1;
        let used = self.clock;
        let entry = self.set(hash).iter_mut().find(|entry| entry.hash == hash)?;
        entry.used = used;
        Some(entry.mark)
    }

    fn set(&mut self, hash: u64) -> &mut [Entry; WAYS] {
        let mask = self.sets.len() as u64 - 1;
        let number = usize::try_from(hash & mask).unwrap_or_default();
        &mut self.sets[number]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(number: u64) -> [u8; 4096] {
        let mut block = [7; 4096];
        block[1000..1008].copy_from_slice(&number.to_le_bytes());
        block
    }

    fn mark(inode: u64) -> Mark {
        Mark {
            file: FileId { device: 1, inode },
            class: Class::Below1Mib,
            by_size: true,
            dedup: DedupHint::None,
        }
    }

    #[test]
    fn a_content_is_known_until_it_is_forgotten() {
        let mut fingerprints = Fingerprints::new(64);
        let hash = Fingerprinter::new(1).of(&block(1)).unwrap();
        assert_eq!(fingerprints.find(hash), None);
        fingerprints.insert(hash, mark(1));
        fingerprints.insert(hash, mark(2));
        assert_eq!(fingerprints.find(hash), Some(mark(2)));
        fingerprints.remove(hash);
        assert_eq!(fingerprints.find(hash), None);
    }

    #[test]
    fn zeros_belong_to_nobody() {
        assert_eq!(Fingerprinter::new(1).of(&[0; 4096]), None);
    }

    #[test]
    fn of_more_than_there_is_room_for_the_last_are_kept() {
        let fingerprinter = Fingerprinter::new(1);
        let hash = |number| fingerprinter.of(&block(number)).unwrap();
        let mut fingerprints = Fingerprints::new(1024);
        for number in 0..10_000 {
            fingerprints.insert(hash(number), mark(number));
        }
        let mut found = |numbers: std::ops::Range<u64>| {
            numbers
                .filter(|&number| fingerprints.find(hash(number)) == Some(mark(number)))
                .count()
        };
        assert!(found(9_700..10_000) > 270);
        assert_eq!(found(0..5_000), 0);
    }

    /// What a table forgets is not known, and never another file's: of contents as many as it has
    /// room for, by how many came after them. With 8 ways, one is forgotten when 8 later ones fall
    /// into its set, whose number is Poisson's: 99.99, 98.3, 86 and 60 % are left on average.
    #[test]
    fn the_oldest_are_forgotten_first_and_none_is_mistaken() {
        const ROOM: u64 = 8192;
        const ALL: u64 = 4 * ROOM;
        let fingerprinter = Fingerprinter::new(1);
        let hash = |number| fingerprinter.of(&block(number)).unwrap();
        let mut fingerprints = Fingerprints::new(8192);
        for number in 0..ALL {
            fingerprints.insert(hash(number), mark(number));
        }
        let mut found_percent = |numbers: std::ops::Range<u64>| {
            let count = numbers.end - numbers.start;
            let found = numbers.filter(|&number| {
                let found = fingerprints.find(hash(number));
                assert!(found.is_none() || found == Some(mark(number)), "{found:?}");
                found.is_some()
            });
            100 * found.count() as u64 / count
        };
        let quarter = ROOM / 4;
        let kept: Vec<_> = (0..4)
            .map(|age| ALL - age * quarter)
            .map(|end| found_percent(end - quarter..end))
            .collect();
        println!("{kept:?} % of each quarter, the last one first");
        let least = [99, 97, 82, 54];
        assert!(kept.iter().zip(least).all(|(kept, least)| *kept >= least));
        assert_eq!(found_percent(0..ROOM), 0);
    }
}
