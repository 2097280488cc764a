//! Blocks of files: when each was read and written last, and how long what was written stayed.
//!
//! All of them are followed as long as there is room. Then half of them is let go, and half of
//! those to come is not looked at, chosen by a hash of their place; each that is left stands for
//! two, and so on (spatially hashed sampling: Waldspurger et al., "Efficient MRC construction with
//! SHARDS", FAST 2015). What is told then is an estimate that leans to no side.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Range;

use disk::CLASS_BLOCK_BYTES;
use foldhash::fast::FixedState;

use super::super::fingerprints::FileId;
use super::histogram::Histogram;
use super::summary::{BlockLifetimes, WorkingSet};
use super::working_set::{Intervals, WINDOWS, window_ms};

/// Neighbours that are followed together.
const GROUP_BLOCKS: u64 = 16;
const SLOTS: usize = 16;
const _: () = assert!(SLOTS as u64 == GROUP_BLOCKS);
/// Groups that are followed: a gibibyte of blocks, in about 10 MiB.
const GROUPS_MAX: usize = 16 << 10;
/// The most of one call that is looked at: 16 MiB.
const CALL_BLOCKS_MAX: u64 = 4096;
/// One in 2^63 is as good as none.
const HALVINGS_MAX: u32 = 63;
const NEVER: u64 = u64::MAX;

/// A block, by moments in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Block {
    read: u64,
    written: u64,
    /// When what is in it was written: what is only added to stays as old as it is.
    born: u64,
}

const UNTOUCHED: Block = Block {
    read: NEVER,
    written: NEVER,
    born: NEVER,
};

type Group = [Block; SLOTS];

/// Why what was in a block is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    Overwritten,
    Truncated,
    Unlinked,
}

/// All that are followed.
#[derive(Debug)]
pub(super) struct Blocks {
    groups: BTreeMap<(FileId, u64), Group>,
    groups_max: usize,
    hasher: FixedState,
    /// One in 2^this is followed.
    halvings: u32,
    /// By [`Death`].
    lifetimes: [Histogram; 3],
    reads: Intervals,
    writes: Intervals,
    /// Blocks of calls that were too long.
    skipped: u64,
}

impl Default for Blocks {
    fn default() -> Self {
        Self::with_room(GROUPS_MAX)
    }
}

impl Blocks {
    fn with_room(groups_max: usize) -> Self {
        Self {
            groups: BTreeMap::new(),
            groups_max,
            hasher: FixedState::with_seed(0),
            halvings: 0,
            lifetimes: Default::default(),
            reads: Intervals::default(),
            writes: Intervals::default(),
            skipped: 0,
        }
    }

    /// Notes that these bytes of a file are read.
    pub(super) fn read(&mut self, at_ms: u64, file: FileId, bytes: Range<u64>) {
        let weight = self.one_in();
        let mut intervals = std::mem::take(&mut self.reads);
        self.touch(file, bytes, |_, block| {
            if block.read != NEVER {
                intervals.add(at_ms.saturating_sub(block.read), weight);
            }
            block.read = at_ms;
        });
        self.reads = intervals;
    }

    /// Notes that these bytes of a file are written, which had `size_bytes` before: what is behind
    /// that overwrites nothing.
    pub(super) fn write(&mut self, at_ms: u64, file: FileId, bytes: Range<u64>, size_bytes: u64) {
        let weight = self.one_in();
        let mut intervals = std::mem::take(&mut self.writes);
        let mut lifetimes = std::mem::take(&mut self.lifetimes[Death::Overwritten as usize]);
        let overwritten = bytes.start..bytes.end.min(size_bytes);
        self.touch(file, bytes, |number, block| {
            if block.written != NEVER {
                intervals.add(at_ms.saturating_sub(block.written), weight);
            }
            block.written = at_ms;
            let start = number.saturating_mul(CLASS_BLOCK_BYTES);
            let end = start.saturating_add(CLASS_BLOCK_BYTES);
            let meets = overwritten.start.max(start) < overwritten.end.min(end);
            if block.born == NEVER {
                block.born = at_ms;
            } else if meets {
                add_death(&mut lifetimes, at_ms, block, weight);
                block.born = at_ms;
            }
        });
        self.writes = intervals;
        self.lifetimes[Death::Overwritten as usize] = lifetimes;
    }

    /// Notes that a file has only its first `size_bytes` from now on.
    pub(super) fn end(&mut self, at_ms: u64, file: FileId, size_bytes: u64, death: Death) {
        let weight = self.one_in();
        for gone in self.take(file, size_bytes) {
            if gone.read != NEVER {
                self.reads.add(at_ms.saturating_sub(gone.read), weight);
            }
            if gone.written != NEVER {
                self.writes.add(at_ms.saturating_sub(gone.written), weight);
            }
            add_death(&mut self.lifetimes[death as usize], at_ms, &gone, weight);
        }
    }

    /// What became of a file behind so many bytes is not known.
    pub(super) fn forget(&mut self, file: FileId, size_bytes: u64) {
        self.take(file, size_bytes);
    }

    /// Takes away what a file has behind so many bytes.
    fn take(&mut self, file: FileId, size_bytes: u64) -> Vec<Block> {
        let first = size_bytes.div_ceil(CLASS_BLOCK_BYTES);
        let groups = (file, first / GROUP_BLOCKS)..=(file, u64::MAX);
        let (mut gone, mut empty) = (Vec::new(), Vec::new());
        for (&(_, number), group) in self.groups.range_mut(groups) {
            let blocks = (number * GROUP_BLOCKS..).zip(group.iter_mut());
            for (_, block) in blocks.filter(|(block, _)| *block >= first) {
                gone.push(std::mem::replace(block, UNTOUCHED));
            }
            if number * GROUP_BLOCKS >= first {
                empty.push(number);
            }
        }
        for number in empty {
            self.groups.remove(&(file, number));
        }
        gone
    }

    /// Each block that is followed stands for so many.
    pub(super) fn one_in(&self) -> u64 {
        1 << self.halvings
    }

    /// Blocks that were not looked at because their call was too long.
    pub(super) fn skipped(&self) -> u64 {
        self.skipped
    }

    /// How long blocks lasted.
    pub(super) fn lifetimes(&self) -> BlockLifetimes {
        let of = |death: Death| self.lifetimes[death as usize].buckets();
        let born = self.followed().filter(|block| block.born != NEVER);
        BlockLifetimes {
            overwritten: of(Death::Overwritten),
            truncated: of(Death::Truncated),
            unlinked: of(Death::Unlinked),
            alive: (born.count() as u64).saturating_mul(self.one_in()),
        }
    }

    /// The working sets at `now_ms`, and on average since `since_ms`, up to the first window that
    /// is longer than that.
    pub(super) fn working_sets(&self, since_ms: u64, now_ms: u64) -> Vec<WorkingSet> {
        let elapsed_ms = now_ms.saturating_sub(since_ms);
        let of = |last: fn(&Block) -> u64, past: &Intervals| {
            let mut intervals = past.clone();
            let mut now = Intervals::default();
            for block in self.followed().filter(|block| last(block) != NEVER) {
                let age_ms = now_ms.saturating_sub(last(block));
                intervals.add(age_ms, self.one_in());
                now.add(age_ms, self.one_in());
            }
            (now, intervals)
        };
        let reads = of(|block| block.read, &self.reads);
        let writes = of(|block| block.written, &self.writes);
        let mean = |intervals: &Intervals, number| {
            let inside_ms = intervals.inside_ms(number);
            inside_ms.checked_div(elapsed_ms).unwrap_or_default()
        };
        let longer = |number: &usize| *number > 0 && window_ms(number - 1) >= elapsed_ms;
        (0..WINDOWS)
            .take_while(|number| !longer(number))
            .map(|number| WorkingSet {
                window_s: window_ms(number) / 1000,
                read_blocks: reads.0.younger(number),
                written_blocks: writes.0.younger(number),
                mean_read_blocks: mean(&reads.1, number),
                mean_written_blocks: mean(&writes.1, number),
            })
            .collect()
    }

    fn followed(&self) -> impl Iterator<Item = &Block> {
        self.groups.values().flatten()
    }

    /// Does something with each block that is followed, and its number.
    fn touch(&mut self, file: FileId, bytes: Range<u64>, mut each: impl FnMut(u64, &mut Block)) {
        if bytes.is_empty() {
            return;
        }
        let first = bytes.start / CLASS_BLOCK_BYTES;
        let last = (bytes.end - 1) / CLASS_BLOCK_BYTES;
        let end = (last + 1).min(first.saturating_add(CALL_BLOCKS_MAX));
        self.skipped = self.skipped.saturating_add(last + 1 - end);
        for number in first / GROUP_BLOCKS..=(end - 1) / GROUP_BLOCKS {
            let key = (file, number);
            if !self.is_followed(key) {
                continue;
            }
            let group = self.groups.entry(key).or_insert([UNTOUCHED; SLOTS]);
            for (block, slot) in (number * GROUP_BLOCKS..).zip(group) {
                if (first..end).contains(&block) {
                    each(block, slot);
                }
            }
        }
        // Only now: what was noted has the weight that it had.
        self.make_room();
    }

    fn make_room(&mut self) {
        while self.groups.len() > self.groups_max && self.halvings < HALVINGS_MAX {
            self.halvings += 1;
            let (hasher, halvings) = (&self.hasher, self.halvings);
            self.groups
                .retain(|key, _| is_chosen(hasher, *key, halvings));
        }
    }

    fn is_followed(&self, key: (FileId, u64)) -> bool {
        is_chosen(&self.hasher, key, self.halvings)
    }
}

/// Whether a group is one of those that are followed when it was halved so often.
fn is_chosen(hasher: &FixedState, key: (FileId, u64), halvings: u32) -> bool {
    halvings == 0 || hasher.hash_one(key).leading_zeros() >= halvings
}

fn add_death(lifetimes: &mut Histogram, at_ms: u64, block: &Block, weight: u64) {
    if block.born != NEVER {
        let bytes = weight.saturating_mul(CLASS_BLOCK_BYTES);
        lifetimes.add(at_ms.saturating_sub(block.born), weight, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::Bucket;
    use super::*;

    const FILE: FileId = FileId {
        device: 1,
        inode: 2,
    };
    const BLOCK: u64 = CLASS_BLOCK_BYTES;

    fn bucket(from_ms: u64, count: u64) -> Bucket {
        Bucket {
            from_ms,
            count,
            bytes: count * BLOCK,
        }
    }

    #[test]
    fn what_is_written_lasts_until_it_is_overwritten_truncated_or_unlinked() {
        let mut blocks = Blocks::default();
        blocks.write(0, FILE, 0..40 * BLOCK, 0);
        blocks.write(5, FILE, BLOCK..3 * BLOCK, 40 * BLOCK);
        blocks.end(1000, FILE, 20 * BLOCK + 1, Death::Truncated);
        blocks.end(3000, FILE, 0, Death::Unlinked);
        let found = blocks.lifetimes();
        assert_eq!(found.overwritten, [bucket(4, 2)]);
        assert_eq!(found.truncated, [bucket(512, 19)]);
        assert_eq!(found.unlinked, [bucket(2048, 21)]);
        assert_eq!(found.alive, 0);
        assert!(blocks.groups.is_empty());
    }

    #[test]
    fn what_is_added_to_a_block_overwrites_nothing() {
        let mut blocks = Blocks::default();
        blocks.write(0, FILE, 0..1000, 0);
        blocks.write(10, FILE, 1000..5000, 1000);
        assert_eq!(blocks.lifetimes().overwritten, []);
        assert_eq!(blocks.lifetimes().alive, 2);
        blocks.write(20, FILE, 999..1000, 5000);
        assert_eq!(blocks.lifetimes().overwritten, [bucket(16, 1)]);
    }

    #[test]
    fn another_file_is_not_touched() {
        let mut blocks = Blocks::default();
        let other = FileId { inode: 3, ..FILE };
        for file in [FILE, other] {
            blocks.write(0, file, 0..BLOCK, 0);
        }
        blocks.end(1, FILE, 0, Death::Unlinked);
        assert_eq!(blocks.lifetimes().alive, 1);
        blocks.forget(other, 0);
        assert_eq!(blocks.lifetimes().alive, 0);
        assert_eq!(blocks.lifetimes().unlinked, [bucket(1, 1)]);
    }

    #[test]
    fn working_sets_are_those_of_now_and_on_average() {
        let mut blocks = Blocks::default();
        blocks.read(0, FILE, 0..10 * BLOCK);
        blocks.read(6_000, FILE, 0..2 * BLOCK);
        let sets = blocks.working_sets(0, 8_000);
        let seen: Vec<_> = sets
            .iter()
            .map(|set| (set.window_s, set.read_blocks, set.mean_read_blocks))
            .collect();
        // In all 10 for a window's time from 0 on, and 2 more from 6 s on, as far as 8 s.
        assert_eq!(seen, [(1, 0, 1), (2, 0, 3), (4, 2, 5), (8, 2, 10)]);
        assert!(sets.iter().all(|set| set.written_blocks == 0));
    }

    #[test]
    fn a_block_that_is_gone_was_there_until_then() {
        let mut blocks = Blocks::default();
        blocks.write(0, FILE, 0..8 * BLOCK, 0);
        blocks.end(500, FILE, 0, Death::Unlinked);
        let sets = blocks.working_sets(0, 1_000);
        assert_eq!(sets[0].written_blocks, 0);
        assert_eq!(sets[0].mean_written_blocks, 4);
    }

    #[test]
    fn of_more_than_there_is_room_for_some_stand_for_all() {
        let mut blocks = Blocks::with_room(1000);
        let groups = 64 * 1000;
        for number in 0..groups {
            let start = number * GROUP_BLOCKS * BLOCK;
            blocks.write(0, FILE, start..start + BLOCK, start);
            assert!(blocks.groups.len() <= 1000);
        }
        assert!(blocks.one_in() >= 64);
        let close_to = |count: u64| (groups * 8 / 10..groups * 12 / 10).contains(&count);
        assert!(close_to(blocks.lifetimes().alive));
        let now = &blocks.working_sets(0, 100)[0];
        assert!(close_to(now.written_blocks), "{}", now.written_blocks);
        blocks.end(10, FILE, 0, Death::Unlinked);
        let unlinked = blocks.lifetimes().unlinked;
        assert!(close_to(unlinked[0].count), "{unlinked:?}");
    }

    #[test]
    fn calls_that_are_too_long_are_looked_at_in_part() {
        let mut blocks = Blocks::default();
        blocks.read(0, FILE, 0..u64::MAX);
        assert_eq!(blocks.groups.len() as u64 * GROUP_BLOCKS, CALL_BLOCKS_MAX);
        assert_eq!(blocks.skipped(), (1 << 52) - CALL_BLOCKS_MAX);
        blocks.write(0, FILE, u64::MAX - 1..u64::MAX, u64::MAX);
        blocks.end(0, FILE, u64::MAX, Death::Truncated);
    }
}
