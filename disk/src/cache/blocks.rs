//! Which blocks are in the cache, in which slots, and what is to become of each slot.
//!
//! ```text
//!            read: filling ──> clean ──evicted──────────────────────────> free
//!   free ──<                     ^ brought home, durably                   ^
//!            written ────────> dirty ──overwritten──> retired ──void, durably┘
//! ```
//! A block is never written over in its slot: a new version goes to another one. So a slot that is
//! read, sealed or on its way home stays what it is. "Retired" and "void" are of cache files only,
//! whose table may still say that the slot has the newest version of a block: see docs/cache-format.md.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use foldhash::fast::RandomState;

use super::counts::CacheStatistics;
use super::format::{ENTRIES_PER_SECTOR, Entry, EntryState};
use super::policy::{Arrival, Policy};
use crate::Class;
use crate::mutant::mutant;

/// The change of a disk that is never durable.
const NEVER: u64 = u64::MAX;
/// The change of a disk that always is.
const LONG_AGO: u64 = 0;
/// So many blocks leave for another one at most.
const EVICTIONS_MAX: usize = 8;

/// Blocks and slots. No I/O.
pub(super) struct Blocks {
    slots: Vec<Slot>,
    /// Those with nothing in them. The one that is free longest is used next: what is written
    /// together then lies together.
    free: VecDeque<u32>,
    /// Blocks that are clean or dirty.
    places: BTreeMap<u64, u32>,
    /// Blocks that are on their way into a slot.
    filling: HashMap<u64, u32, RandomState>,
    /// Blocks that are dirty.
    dirty: BTreeMap<u64, u32>,
    /// Slots, by block, that hold what is of no use any more, but that the file's table has; with
    /// the first change of the disk that brought it something newer: [`NEVER`] if none did.
    retired: BTreeMap<(u64, u32), u64>,
    /// Dirty slots that the table does not have.
    unsealed: Vec<u32>,
    /// Slots that became clean, and that the table has.
    cleaned: Vec<u32>,
    /// Slots that the table does not have any more once it is durable.
    voiding: Vec<u32>,
    /// Sectors of the table that are other than in the file.
    stale: BTreeSet<u32>,
    policy: Box<dyn Policy>,
    next_sequence: u64,
    /// All versions up to this one that the table has are durable.
    durable_sequence: u64,
    /// The most slots that may be dirty or retired.
    dirty_max: usize,
    /// Slots that were taken for dirty blocks, which are being written.
    writing: usize,
    pub(super) counts: CacheStatistics,
}

#[derive(Clone, Copy)]
struct Slot {
    block: u64,
    sequence: u64,
    crc: u32,
    /// How many read it.
    pins: u32,
    class: Class,
    state: State,
    /// Whether the table in the file may say that this is a dirty block.
    in_table: bool,
    /// Whether the table in memory does not any more.
    is_void: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// Being filled or written.
    Busy,
    Clean,
    Dirty,
    Retired,
    /// Free as soon as nobody reads it.
    Left,
}

/// A block in the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) block: u64,
    pub(super) slot: u32,
    pub(super) sequence: u64,
    pub(super) crc: u32,
    pub(super) class: Class,
    pub(super) is_dirty: bool,
}

/// A slot's content, as it was put there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) block: u64,
    pub(super) slot: u32,
    pub(super) crc: u32,
    pub(super) arrival: Arrival,
}

/// What is to be written to the table.
pub(super) struct Sealed {
    pub(super) sectors: BTreeMap<u32, Vec<Entry>>,
    /// What is durable before.
    pub(super) durable_sequence: u64,
    sequence: u64,
}

impl Blocks {
    pub(super) fn new(slots: u32, policy: Box<dyn Policy>) -> Self {
        let slot = Slot {
            block: 0,
            sequence: 0,
            crc: 0,
            pins: 0,
            class: Class::Other,
            state: State::Free,
            in_table: false,
            is_void: false,
        };
        Self {
            slots: vec![slot; slots as usize],
            free: (0..slots).collect(),
            places: BTreeMap::new(),
            filling: HashMap::default(),
            dirty: BTreeMap::new(),
            retired: BTreeMap::new(),
            unsealed: Vec::new(),
            cleaned: Vec::new(),
            voiding: Vec::new(),
            stale: BTreeSet::new(),
            policy,
            next_sequence: 1,
            durable_sequence: 0,
            dirty_max: slots as usize / 4 * 3,
            writing: 0,
            counts: CacheStatistics::default(),
        }
    }

    fn at(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    /// What the cache has of a block.
    pub(super) fn find(&self, block: u64) -> Option<Version> {
        let slot = *self.places.get(&block)?;
        let Slot {
            sequence,
            crc,
            class,
            state,
            ..
        } = self.slots[slot as usize];
        Some(Version {
            block,
            slot,
            sequence,
            crc,
            class,
            is_dirty: state == State::Dirty,
        })
    }

    /// Whether this is still what the cache has of its block.
    pub(super) fn is_current(&self, version: &Version) -> bool {
        self.find(version.block)
            .is_some_and(|found| (found.slot, found.sequence) == (version.slot, version.sequence))
    }

    /// A block was used.
    pub(super) fn touch(&mut self, version: &Version) {
        if !version.is_dirty {
            self.policy.touch(version.slot);
        }
    }

    /// Keeps what is in a slot there until [`Blocks::unpin`].
    pub(super) fn pin(&mut self, slot: u32) {
        self.at(slot).pins += 1;
    }

    pub(super) fn unpin(&mut self, slot: u32) {
        let it = self.at(slot);
        it.pins -= 1;
        if it.pins == 0 && it.state == State::Left {
            self.set_free(slot);
        }
    }

    /// The dirty blocks of a range, in order.
    pub(super) fn dirty_within(&self, blocks: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        self.dirty.range(blocks).map(|(block, _)| *block)
    }

    pub(super) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Whether so many blocks are dirty, or slots retired, that there will be no room for more.
    pub(super) fn is_pressed(&self) -> bool {
        self.dirty.len() + self.retired.len() >= self.dirty_max / 2
    }

    pub(super) fn durable_sequence(&self) -> u64 {
        self.durable_sequence
    }

    /// All that is cached from `first` on, in order.
    pub(super) fn versions(&self, first: u64) -> impl Iterator<Item = Version> + '_ {
        let places = self.places.range(first..);
        places.filter_map(|(block, _)| self.find(*block))
    }

    /// Whether the table has, or must have, anything but clean blocks.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty.is_empty()
            && self.retired.is_empty()
            && self.cleaned.is_empty()
            && self.voiding.is_empty()
            && self.stale.is_empty()
    }

    /// Takes slots for so many blocks that will be dirty, if there may be so many. They are given
    /// back by [`Blocks::give_back`] or used by [`Blocks::put_dirty`].
    pub(super) fn take(&mut self, count: usize) -> Option<Vec<u32>> {
        let used = self.dirty.len() + self.retired.len() + self.writing;
        if count > self.dirty_max.saturating_sub(used) {
            return None;
        }
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            let Some(slot) = self.take_one() else {
                self.writing += taken.len();
                self.give_back(&taken);
                return None;
            };
            taken.push(slot);
        }
        self.writing += count;
        Some(taken)
    }

    fn take_one(&mut self) -> Option<u32> {
        let slot = self.free.pop_front().or_else(|| self.make_room())?;
        self.at(slot).state = State::Busy;
        Some(slot)
    }

    pub(super) fn give_back(&mut self, slots: &[u32]) {
        self.writing -= slots.len();
        for slot in slots {
            self.set_free(*slot);
        }
    }

    /// Has clean blocks leave until a slot is free. Those that are being read, or that the table
    /// has, are so later.
    fn make_room(&mut self) -> Option<u32> {
        for _ in 0..EVICTIONS_MAX {
            let slot = self.policy.evict()?;
            let Slot { block, class, .. } = self.slots[slot as usize];
            self.places.remove(&block);
            self.counts.of(class).evictions += 1;
            self.release(slot, LONG_AGO);
            if let Some(free) = self.free.pop_front() {
                return Some(free);
            }
        }
        None
    }

    fn set_free(&mut self, slot: u32) {
        self.at(slot).state = State::Free;
        self.free.push_back(slot);
    }

    /// What is in a slot is of no use any more, once the change `mark` of the disk is durable, or a
    /// newer version in another slot.
    fn release(&mut self, slot: u32, mark: u64) {
        let it = self.at(slot);
        if it.in_table && !mutant("a cached version is overwritten before that is durable") {
            it.state = State::Retired;
            let block = it.block;
            self.retired.insert((block, slot), mark);
        } else if it.pins > 0 {
            it.state = State::Left;
        } else {
            it.in_table = false;
            self.set_free(slot);
        }
    }

    /// A block is on its way into a slot, unless the cache has it already or has no room.
    pub(super) fn begin_fill(&mut self, block: u64) -> Option<u32> {
        if self.places.contains_key(&block) || self.filling.contains_key(&block) {
            return None;
        }
        let slot = self.take_one()?;
        self.at(slot).block = block;
        self.filling.insert(block, slot);
        Some(slot)
    }

    /// It is there, or could not be put there. It is cached unless somebody wrote it meanwhile.
    pub(super) fn end_fill(&mut self, content: Content, is_there: bool) {
        let Content { block, slot, .. } = content;
        let is_wanted = self.filling.get(&block) == Some(&slot);
        if is_wanted {
            self.filling.remove(&block);
        }
        if is_wanted && is_there {
            self.put(content, State::Clean);
            self.policy.insert(slot, block, content.arrival);
            self.counts.of(content.arrival.class).fills += 1;
        } else {
            self.set_free(slot);
        }
    }

    fn put(&mut self, content: Content, state: State) {
        let Content {
            block,
            slot,
            crc,
            arrival: Arrival { class, .. },
        } = content;
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let pins = self.slots[slot as usize].pins;
        *self.at(slot) = Slot {
            block,
            sequence,
            crc,
            pins,
            class,
            state,
            in_table: false,
            is_void: false,
        };
        self.places.insert(block, slot);
    }

    /// A slot has the newest version of its block, which the disk has not.
    pub(super) fn put_dirty(&mut self, content: Content) {
        self.forget(content.block);
        if let Some(old) = self.dirty.remove(&content.block) {
            self.places.remove(&content.block);
            self.release(old, NEVER);
        }
        self.put(content, State::Dirty);
        self.writing -= 1;
        self.dirty.insert(content.block, content.slot);
        self.unsealed.push(content.slot);
        let counts = self.counts.of(content.arrival.class);
        counts.fills += 1;
        counts.dirtied += 1;
    }

    /// Drops what is cached of a block, unless it is dirty.
    pub(super) fn forget(&mut self, block: u64) {
        self.filling.remove(&block);
        if self.dirty.contains_key(&block) {
            return;
        }
        if let Some(slot) = self.places.remove(&block) {
            self.policy.remove(slot);
            self.release(slot, LONG_AGO);
        }
    }

    /// The disk itself has newer content of these blocks than the cache, by its change `mark`.
    pub(super) fn overwritten(&mut self, blocks: Range<u64>, mark: u64) {
        for block in blocks.clone() {
            self.forget(block);
        }
        let dirty: Vec<_> = self.dirty.range(blocks).map(|(b, s)| (*b, *s)).collect();
        for (block, slot) in dirty {
            self.dirty.remove(&block);
            self.places.remove(&block);
            self.superseded_at_home(block, mark);
            self.release(slot, mark);
        }
    }

    /// By its change `mark`, the disk has something newer than what is retired of a block.
    fn superseded_at_home(&mut self, block: u64, mark: u64) {
        for (_, since) in self.retired.range_mut((block, 0)..=(block, u32::MAX)) {
            *since = mark.min(*since);
        }
    }

    /// Drops all that is clean.
    pub(super) fn clear(&mut self) {
        self.filling.clear();
        let clean: Vec<u64> = self.places.keys().copied().collect();
        for block in clean {
            self.forget(block);
        }
    }

    /// A version is on the disk, durably.
    pub(super) fn brought_home(&mut self, version: &Version) {
        if !version.is_dirty
            || !self.is_current(version)
            || !self.dirty.contains_key(&version.block)
        {
            return;
        }
        self.dirty.remove(&version.block);
        self.superseded_at_home(version.block, LONG_AGO);
        let slot = self.at(version.slot);
        slot.state = State::Clean;
        if slot.in_table {
            self.cleaned.push(version.slot);
        }
        let arrival = Arrival::alone(version.class);
        self.policy.insert(version.slot, version.block, arrival);
        self.counts.of(version.class).written_back += 1;
    }

    /// Has the table say what it must once all that is complete now is durable. `home_durable` says
    /// whether a change of the disk is.
    pub(super) fn seal(&mut self, home_durable: impl Fn(u64) -> bool) -> Sealed {
        for slot in std::mem::take(&mut self.unsealed) {
            let it = self.at(slot);
            if it.state == State::Dirty && !it.in_table {
                it.in_table = true;
                self.stale.insert(slot / ENTRIES_PER_SECTOR);
            }
        }
        for slot in std::mem::take(&mut self.cleaned) {
            let it = &self.slots[slot as usize];
            if it.state == State::Clean && it.in_table && !it.is_void {
                self.make_void(slot);
            }
        }
        let done: Vec<_> = self
            .retired
            .iter()
            .filter(|((block, slot), mark)| {
                !self.slots[*slot as usize].is_void
                    && self.is_obsolete(*block, **mark, &home_durable)
            })
            .map(|((_, slot), _)| *slot)
            .collect();
        for slot in done {
            self.make_void(slot);
        }
        let stale = std::mem::take(&mut self.stale);
        Sealed {
            sectors: stale
                .iter()
                .map(|sector| (*sector, self.entries(*sector)))
                .collect(),
            durable_sequence: self.durable_sequence,
            sequence: self.next_sequence - 1,
        }
    }

    /// Whether recovery does not need any retired version of a block.
    fn is_obsolete(&self, block: u64, mark: u64, home_durable: impl Fn(u64) -> bool) -> bool {
        if mutant("a cached version is void before a newer one is durable") {
            return true;
        }
        let is_durable = |slot: &u32| {
            let newer = &self.slots[*slot as usize];
            newer.in_table && newer.sequence <= self.durable_sequence
        };
        home_durable(mark) || self.dirty.get(&block).is_some_and(is_durable)
    }

    fn make_void(&mut self, slot: u32) {
        self.at(slot).is_void = true;
        self.voiding.push(slot);
        self.stale.insert(slot / ENTRIES_PER_SECTOR);
    }

    /// The entries of a sector of the table.
    fn entries(&self, sector: u32) -> Vec<Entry> {
        self.slots_of(sector)
            .iter()
            .map(|slot| Entry {
                block: slot.block,
                sequence: slot.sequence,
                crc: slot.crc,
                class: slot.class,
                state: match slot.state {
                    _ if slot.is_void => EntryState::Void,
                    _ if slot.in_table => EntryState::Dirty,
                    _ => EntryState::Empty,
                },
            })
            .collect()
    }

    fn slots_of(&self, sector: u32) -> &[Slot] {
        let start = (sector * ENTRIES_PER_SECTOR) as usize;
        let end = (start + ENTRIES_PER_SECTOR as usize).min(self.slots.len());
        &self.slots[start..end]
    }

    /// What was sealed is durable.
    pub(super) fn committed(&mut self, sealed: &Sealed) {
        self.durable_sequence = sealed.sequence;
        for slot in std::mem::take(&mut self.voiding) {
            let it = self.at(slot);
            (it.in_table, it.is_void) = (false, false);
            if it.state == State::Retired {
                let (block, pins) = (it.block, it.pins);
                self.retired.remove(&(block, slot));
                if pins > 0 {
                    self.at(slot).state = State::Left;
                } else {
                    self.set_free(slot);
                }
            }
        }
    }

    /// What was sealed could not be written: the next seal has it too.
    pub(super) fn not_committed(&mut self, sealed: &Sealed) {
        self.stale.extend(sealed.sectors.keys());
    }

    /// What sectors of the table say at a clean close: every clean block is there.
    pub(super) fn clean_table(&self, sectors: Range<u32>) -> BTreeMap<u32, Vec<Entry>> {
        let entry = |slot: &Slot| Entry {
            block: slot.block,
            sequence: slot.sequence,
            crc: slot.crc,
            class: slot.class,
            state: match slot.state {
                State::Clean => EntryState::Clean,
                _ => EntryState::Empty,
            },
        };
        let entries = |sector| self.slots_of(sector).iter().map(entry).collect();
        sectors.map(|sector| (sector, entries(sector))).collect()
    }
}

/// What was found in a cache file, before anybody uses the cache.
impl Blocks {
    /// A slot has the newest version of a block, clean or dirty.
    pub(super) fn recover(&mut self, slot: u32, entry: &Entry) {
        let is_dirty = entry.state == EntryState::Dirty;
        let state = if is_dirty { State::Dirty } else { State::Clean };
        self.recover_slot(slot, entry, state);
        self.places.insert(entry.block, slot);
        if is_dirty {
            self.at(slot).in_table = true;
            self.dirty.insert(entry.block, slot);
        } else {
            let arrival = Arrival::alone(entry.class);
            self.policy.insert(slot, entry.block, arrival);
        }
    }

    /// The table has a void version, which must be there for as long as an older one is.
    pub(super) fn recover_void(&mut self, slot: u32, entry: &Entry) {
        self.recover_slot(slot, entry, State::Retired);
        self.retired.insert((entry.block, slot), LONG_AGO);
        let it = self.at(slot);
        (it.in_table, it.is_void) = (true, true);
        self.voiding.push(slot);
    }

    /// The table has a version that does not count: it is to be there no more.
    pub(super) fn recover_useless(&mut self, slot: u32, entry: &Entry) {
        self.next_sequence = self.next_sequence.max(entry.sequence.saturating_add(1));
        self.stale.insert(slot / ENTRIES_PER_SECTOR);
    }

    fn recover_slot(&mut self, slot: u32, entry: &Entry, state: State) {
        self.next_sequence = self.next_sequence.max(entry.sequence.saturating_add(1));
        *self.at(slot) = Slot {
            block: entry.block,
            sequence: entry.sequence,
            crc: entry.crc,
            pins: 0,
            class: entry.class,
            state,
            in_table: false,
            is_void: false,
        };
    }

    /// All is recovered but what is free. `durable_sequence` is what the table says.
    pub(super) fn recovered(&mut self, durable_sequence: u64) {
        self.durable_sequence = durable_sequence;
        let slots = (0..).zip(&self.slots);
        let free = slots.filter(|(_, slot)| slot.state == State::Free);
        self.free = free.map(|(number, _)| number).collect();
    }
}

#[cfg(test)]
impl Blocks {
    /// Every slot is what exactly one of the lists says.
    pub(super) fn check(&self) {
        let count = |state| self.slots.iter().filter(|slot| slot.state == state).count();
        assert_eq!(count(State::Free), self.free.len());
        assert_eq!(count(State::Clean), self.policy.len());
        assert_eq!(count(State::Dirty), self.dirty.len());
        assert_eq!(count(State::Retired), self.retired.len());
        assert_eq!(self.places.len(), self.policy.len() + self.dirty.len());
        assert!(self.dirty.len() <= self.slots.len() / 4 * 3);
        for (block, slot) in &self.places {
            assert_eq!(self.slots[*slot as usize].block, *block);
        }
    }
}
