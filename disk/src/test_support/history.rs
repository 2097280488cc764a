//! What may be found on a disk, now and after a power cut.
//!
//! For each sector, the stamps that were written to it, in the order in which the writes began. A
//! write that is done hides those before it from readers; a flush hides them for ever.

use std::collections::BTreeMap;

use super::content::Stamp;

/// What happens to a disk. Sectors are numbered from 0 within what a program uses of the disk.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A change of the sectors from `first` on begins.
    Begin {
        change: u64,
        first: usize,
        stamps: Vec<Stamp>,
        /// Whether the sectors have these stamps for sure when the change is done; a discard may
        /// do nothing.
        sure: bool,
    },
    /// It is done.
    End { change: u64 },
    /// It failed: it may have happened, in parts.
    Fail { change: u64 },
    /// A flush begins: it covers what is done.
    FlushBegin { flush: u64 },
    /// What it covers is durable.
    FlushEnd { flush: u64 },
    /// A sector that could have had several stamps was read, and has this one.
    Found { sector: usize, stamp: Stamp },
    /// The disk is about to have another size.
    SizeBegin { sectors: u64 },
    /// It has.
    SizeEnd,
    /// A snapshot is about to be taken, of these sectors and this size.
    SnapshotBegin {
        name: String,
        stamps: Vec<Stamp>,
        sectors: u64,
    },
    /// A snapshot is about to be deleted.
    DeleteBegin { name: String },
    /// It exists, or is deleted, for sure.
    SnapshotEnd { name: String, exists: bool },
}

/// What was written to a sector at some time.
#[derive(Clone, Copy, Debug)]
struct Entry {
    stamp: Stamp,
    /// The first of the entries that were in flight when this one began.
    rivals: usize,
    sure: bool,
}

#[derive(Clone, Debug)]
struct Sector {
    /// The oldest first.
    entries: Vec<Entry>,
    in_flight: usize,
    /// How many writes have ended.
    ended: usize,
    /// The first entry that may be read.
    live: usize,
    /// The first that may be there after a power cut.
    durable: usize,
}

/// A snapshot, which a power cut may leave or not.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) stamps: Vec<Stamp>,
    pub(crate) sectors: u64,
    /// Whether it is neither being made nor being deleted.
    pub(crate) sure: bool,
}

/// What was known of a sector when a read began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    live: usize,
    ended: usize,
}

#[derive(Clone, Debug)]
struct Change {
    first: usize,
    /// The index of the entry in each sector.
    entries: Vec<usize>,
}

/// All that happened to a disk so far.
#[derive(Clone, Debug)]
pub(crate) struct History {
    sectors: Vec<Sector>,
    changes: BTreeMap<u64, Change>,
    flushes: BTreeMap<u64, Vec<usize>>,
    sizes: Vec<u64>,
    snapshots: BTreeMap<String, Snapshot>,
}

impl History {
    /// A disk of `size_sectors` that has these stamps, for good.
    pub(crate) fn new(stamps: &[Stamp], size_sectors: u64) -> Self {
        let entry = |stamp| Entry {
            stamp,
            rivals: 0,
            sure: true,
        };
        let sector = |stamp: &Stamp| Sector {
            entries: vec![entry(*stamp)],
            in_flight: 0,
            ended: 0,
            live: 0,
            durable: 0,
        };
        Self {
            sectors: stamps.iter().map(sector).collect(),
            changes: BTreeMap::new(),
            flushes: BTreeMap::new(),
            sizes: vec![size_sectors],
            snapshots: BTreeMap::new(),
        }
    }

    pub(crate) fn apply(&mut self, event: &Event) {
        match event {
            Event::Begin {
                change,
                first,
                stamps,
                sure,
            } => self.begin(*change, *first, stamps, *sure),
            Event::End { change } => self.end(*change, true),
            Event::Fail { change } => self.end(*change, false),
            Event::FlushBegin { flush } => {
                let covered = self.sectors.iter().map(|sector| sector.live).collect();
                self.flushes.insert(*flush, covered);
            }
            Event::FlushEnd { flush } => {
                let covered = self.flushes.remove(flush).expect("it began");
                for (sector, covered) in self.sectors.iter_mut().zip(covered) {
                    sector.durable = sector.durable.max(covered);
                }
            }
            Event::Found { sector, stamp } => self.sectors[*sector].found(*stamp),
            Event::SizeBegin { sectors } => self.sizes.push(*sectors),
            Event::SizeEnd => self.sizes = self.sizes.split_off(self.sizes.len() - 1),
            Event::SnapshotBegin {
                name,
                stamps,
                sectors,
            } => {
                let snapshot = Snapshot {
                    stamps: stamps.clone(),
                    sectors: *sectors,
                    sure: false,
                };
                self.snapshots.insert(name.clone(), snapshot);
            }
            Event::DeleteBegin { name } => self.snapshot_mut(name).sure = false,
            Event::SnapshotEnd { name, exists: true } => self.snapshot_mut(name).sure = true,
            Event::SnapshotEnd {
                name,
                exists: false,
            } => drop(self.snapshots.remove(name)),
        }
    }

    fn snapshot_mut(&mut self, name: &str) -> &mut Snapshot {
        self.snapshots.get_mut(name).expect("it began")
    }

    fn begin(&mut self, change: u64, first: usize, stamps: &[Stamp], sure: bool) {
        let sectors = &mut self.sectors[first..first + stamps.len()];
        let entries = sectors
            .iter_mut()
            .zip(stamps)
            .map(|(sector, stamp)| sector.begin(*stamp, sure));
        let entries = entries.collect();
        self.changes.insert(change, Change { first, entries });
    }

    fn end(&mut self, change: u64, done: bool) {
        let Change { first, entries } = self.changes.remove(&change).expect("it began");
        for (sector, entry) in self.sectors[first..].iter_mut().zip(entries) {
            sector.in_flight -= 1;
            sector.ended += 1;
            let Entry { rivals, sure, .. } = sector.entries[entry];
            if done && sure {
                sector.live = sector.live.max(rivals);
            }
        }
    }

    /// The sizes that the disk may have.
    pub(crate) fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// The snapshots that there may be.
    pub(crate) fn snapshots(&self) -> &BTreeMap<String, Snapshot> {
        &self.snapshots
    }

    /// What is known of some sectors when a read of them begins.
    pub(crate) fn before(&self, first: usize, count: usize) -> Vec<Before> {
        let before = |sector: &Sector| Before {
            live: sector.live,
            ended: sector.ended,
        };
        self.sectors[first..first + count]
            .iter()
            .map(before)
            .collect()
    }

    /// What a sector has that nobody is writing, once that is certain.
    pub(crate) fn newest(&self, sector: usize) -> Stamp {
        self.sectors[sector]
            .entries
            .last()
            .expect("there is one")
            .stamp
    }

    /// Whether nobody wrote to a sector since a read began.
    pub(crate) fn is_settled(&self, sector: usize, before: Before) -> bool {
        let sector = &self.sectors[sector];
        sector.in_flight == 0 && sector.ended == before.ended
    }

    /// Whether a read may find this; and whether that tells more than was known.
    pub(crate) fn check_read(
        &self,
        sector: usize,
        before: Before,
        stamp: Stamp,
    ) -> Result<bool, Vec<Stamp>> {
        let entries = &self.sectors[sector].entries;
        self.sectors[sector].check(before.live, stamp)?;
        Ok(self.is_settled(sector, before) && before.live + 1 < entries.len())
    }

    /// Whether this may be found after a power cut.
    pub(crate) fn check_cut(&self, sector: usize, stamp: Stamp) -> Result<(), Vec<Stamp>> {
        let sector = &self.sectors[sector];
        sector.check(sector.durable, stamp)
    }
}

impl Sector {
    fn begin(&mut self, stamp: Stamp, sure: bool) -> usize {
        let rivals = match self.entries.last() {
            Some(last) if self.in_flight > 0 => last.rivals,
            _ => self.entries.len(),
        };
        self.in_flight += 1;
        self.entries.push(Entry {
            stamp,
            rivals,
            sure,
        });
        self.entries.len() - 1
    }

    fn found(&mut self, stamp: Stamp) {
        self.ended += 1;
        self.live = self.entries.len();
        self.entries.push(Entry {
            stamp,
            rivals: self.live,
            sure: true,
        });
    }

    fn check(&self, floor: usize, stamp: Stamp) -> Result<(), Vec<Stamp>> {
        let allowed = &self.entries[floor..];
        if allowed.iter().any(|entry| entry.stamp == stamp) {
            return Ok(());
        }
        Err(allowed.iter().map(|entry| entry.stamp).collect())
    }
}
