//! Changes of metadata that must become durable together.

use std::collections::BTreeMap;

use crate::mutant::mutant;
use crate::ranges::ones;

/// What no disk tears.
pub(super) const SECTOR_BYTES: u64 = 512;
/// What a transaction counts in. No field of an image is larger but L2 entries with subclusters,
/// whose two words are in one sector.
const WORD_BYTES: u64 = 8;

/// The kinds of change, in the order in which they must become durable: a power cut between two of
/// them leaves clusters that nobody uses, but never a pointer to something that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// Whole tables that nothing points to yet. Belongs with the guest's data.
    Fresh,
    /// Refcounts. They need no order with fresh tables.
    Refcounts,
    /// Pointers to refcount blocks, without which their refcounts do not count.
    RefcountTable,
    /// Pointers to data.
    L2,
    /// Pointers to L2 tables.
    L1,
}

/// Changes of metadata since the last commit: which words of the file, at which stage. Their
/// content is in the cache of metadata until the transaction is sealed.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// A mask of the changed words of each changed sector.
    sectors: BTreeMap<(Stage, u64), u64>,
    /// How many words those are, without fresh tables.
    words: usize,
    /// What nothing refers to any more once this is durable.
    freed: Vec<Freed>,
    /// A part of the header, which a journal brings to its place.
    header: Option<(u64, Vec<u8>)>,
}

/// Host clusters that lose a reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freed {
    /// Where the first byte is that is not needed any more.
    pub(super) offset: u64,
    /// How many bytes.
    pub(super) len: u64,
    /// Whether the guest wants the host to have the space.
    pub(super) give_back: bool,
    /// With a journal, it is one cluster that nothing refers to any more, and which is held since
    /// this time. Without, refcounts tell when that is so.
    pub(super) held: Option<u64>,
}

/// A transaction with its content, ready to be made durable.
#[derive(Debug)]
pub(super) struct Sealed {
    transaction: Transaction,
    /// Runs of whole sectors: stage, offset and content.
    pub(super) writes: Vec<(Stage, u64, Vec<u8>)>,
}

impl Transaction {
    /// Notes that `len` bytes at `offset` have changed.
    pub(super) fn note(&mut self, stage: Stage, offset: u64, len: u64) {
        for word in offset / WORD_BYTES..(offset + len).div_ceil(WORD_BYTES) {
            let sector = word * WORD_BYTES / SECTOR_BYTES;
            // A sector of a table that nothing points to yet is written whole before anything does.
            let stage = if self.sectors.contains_key(&(Stage::Fresh, sector)) {
                Stage::Fresh
            } else {
                stage
            };
            let bit = word % (SECTOR_BYTES / WORD_BYTES);
            let mask = self.sectors.entry((stage, sector)).or_default();
            self.words += usize::from(stage != Stage::Fresh && *mask >> bit & 1 == 0);
            *mask |= 1 << bit;
        }
    }

    /// Notes that a reference to host clusters is dropped.
    pub(super) fn free(&mut self, freed: Freed) {
        self.freed.push(freed);
    }

    /// Changes whole words of the header.
    pub(super) fn set_header(&mut self, offset: u64, words: Vec<u8>) {
        self.header = Some((offset, words));
    }

    /// Whether anything is lost without a commit: refcounts alone, without what refers to their
    /// clusters, can wait.
    pub(super) fn is_essential(&self) -> bool {
        !self.freed.is_empty()
            || self.header.is_some()
            || self
                .sectors
                .last_key_value()
                .is_some_and(|((stage, _), _)| *stage > Stage::RefcountTable)
    }

    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.sectors.is_empty() && self.freed.is_empty()
    }

    /// How much memory and space waits for the commit, in sectors and freed ranges.
    pub(super) fn len(&self) -> usize {
        self.sectors.len() + self.freed.len()
    }

    /// The most that a record of it takes, in bytes, without fresh tables.
    pub(super) fn record_bytes(&self) -> usize {
        const WORD_RECORD_BYTES: usize = 24;
        const FREED_RECORD_BYTES: usize = 16;
        self.words * WORD_RECORD_BYTES + self.freed.len() * FREED_RECORD_BYTES
    }

    /// Copies the content of the sectors, which `content` gives, so that later changes are another
    /// transaction's.
    pub(super) fn seal(self, content: impl Fn(u64) -> Vec<u8>) -> Sealed {
        let mut writes: Vec<(Stage, u64, Vec<u8>)> = Vec::new();
        for (stage, sector) in self.sectors.keys() {
            let offset = sector * SECTOR_BYTES;
            let content = content(offset);
            match writes.last_mut() {
                Some((last, start, bytes))
                    if last == stage && *start + bytes.len() as u64 == offset =>
                {
                    bytes.extend_from_slice(&content);
                }
                _ => writes.push((*stage, offset, content)),
            }
        }
        if mutant("pointers are written before refcounts") {
            writes.reverse();
        }
        Sealed {
            transaction: self,
            writes,
        }
    }
}

impl Sealed {
    /// The sectors that it changes, as offsets.
    pub(super) fn sectors(&self) -> impl Iterator<Item = u64> {
        let sectors = self.transaction.sectors.keys();
        sectors.map(|(_, sector)| sector * SECTOR_BYTES)
    }

    /// Runs of words that it changes, with where they are, but for fresh tables.
    pub(super) fn words(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let old = self
            .writes
            .iter()
            .filter(|(stage, ..)| *stage > Stage::Fresh);
        old.flat_map(move |(stage, start, bytes)| {
            let sectors = bytes.chunks(512).zip(start / SECTOR_BYTES..);
            sectors.flat_map(move |(content, sector)| {
                let mask = self.transaction.sectors[&(*stage, sector)];
                ones(mask).map(move |(first, end)| {
                    let offset = sector * SECTOR_BYTES + first as u64 * WORD_BYTES;
                    (offset, &content[first * 8..end * 8])
                })
            })
        })
    }

    /// The content of fresh tables, with where they are.
    pub(super) fn fresh(&self) -> impl Iterator<Item = (u64, &[u8])> {
        let fresh = self
            .writes
            .iter()
            .filter(|(stage, ..)| *stage == Stage::Fresh);
        fresh.map(|(_, offset, bytes)| (*offset, bytes.as_slice()))
    }

    /// What is freed once it is durable.
    pub(super) fn freed(&self) -> &[Freed] {
        &self.transaction.freed
    }

    /// The words of the header that it changes.
    pub(super) fn header(&self) -> Option<&(u64, Vec<u8>)> {
        self.transaction.header.as_ref()
    }

    /// Whole sectors as they are to be, those of fresh tables only if they are wanted.
    pub(super) fn sectors_to_write(
        &self,
        with_fresh: bool,
    ) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let wanted = move |stage: Stage| with_fresh || stage > Stage::Fresh;
        let writes = self.writes.iter().filter(move |(stage, ..)| wanted(*stage));
        writes.map(|(_, offset, bytes)| (*offset, bytes.clone()))
    }

    /// What may be reused now that it is durable.
    pub(super) fn into_freed(self) -> Vec<Freed> {
        self.transaction.freed
    }
}
