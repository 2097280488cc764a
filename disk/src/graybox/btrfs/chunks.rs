//! Where chunks of a btrfs are on this disk, and what they hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use zerocopy::FromBytes as _;

use super::format::{Chunk, Stripe, chunk_kind};

/// More parts of chunks are not remembered: of 1 GiB, they are 64 TiB.
const PARTS_MAX: usize = 1 << 16;
/// More places of a range of addresses are not told. A usual one is within a chunk.
const PLACES_MAX: usize = 256;
/// Devices that a chunk may be on.
const STRIPES_MAX: u16 = 1024;

/// What there is at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Nodes of trees.
    Nodes,
    /// Content of files.
    Content,
    /// Both, or nobody has said.
    Unknown,
}

/// Parts of chunks, by where they are on this disk.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    parts: BTreeMap<u64, Part>,
    /// Those that have an address, by that, with where they are.
    addressed: BTreeSet<(u64, u64)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    end: u64,
    holds: Holds,
    /// Where its first byte is among all addresses, if those behind it follow.
    logical: Option<u64>,
}

impl Chunks {
    /// Learns from a chunk at the address `logical`; how many bytes it has.
    pub(super) fn learn(&mut self, device: u64, logical: u64, bytes: &[u8]) -> Option<usize> {
        let (chunk, rest) = Chunk::ref_from_prefix(bytes).ok()?;
        let count = chunk.num_stripes.get();
        let stripes = rest.chunks_exact(size_of::<Stripe>()).take(count.into());
        if count == 0 || count > STRIPES_MAX || stripes.len() < usize::from(count) {
            return None;
        }
        let spread = chunk.spread();
        for stripe in stripes.filter_map(|stripe| Stripe::ref_from_bytes(stripe).ok()) {
            let start = stripe.offset.get();
            let len = chunk.length.get() / spread.max(1);
            let end = start.checked_add(len);
            if stripe.devid.get() == device
                && let Some(end) = end.filter(|end| *end > start)
            {
                let part = Part {
                    end,
                    holds: chunk.holds(),
                    logical: (spread == 1).then_some(logical),
                };
                self.insert(start, part);
            }
        }
        Some(size_of::<Chunk>() + usize::from(count) * size_of::<Stripe>())
    }

    /// What was there before is no more.
    fn insert(&mut self, start: u64, part: Part) {
        if self.parts.get(&start) == Some(&part) {
            return;
        }
        while let Some((&old, found)) = self.parts.range(..part.end).next_back()
            && found.end > start
        {
            if let Some(logical) = self.parts.remove(&old).and_then(|part| part.logical) {
                self.addressed.remove(&(logical, old));
            }
        }
        if self.parts.len() < PARTS_MAX {
            self.addressed
                .extend(part.logical.map(|logical| (logical, start)));
            self.parts.insert(start, part);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }

    fn part(&self, offset: u64) -> Option<(u64, &Part)> {
        let (start, part) = self.parts.range(..=offset).next_back()?;
        (part.end > offset).then_some((*start, part))
    }

    /// Where the bytes `logical` of all addresses are on this disk, as far as that is known: those at
    /// the highest addresses first, and each copy of them. The places do not overlap.
    pub(super) fn places(&self, logical: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        // Chunks do not overlap, but as copies: what is below the first that begins before the range
        // ends before it.
        let before = self.addressed.range(..(logical.start, 0)).next_back();
        let first = before.map_or(logical.start, |(first, _)| *first);
        let reached = self
            .addressed
            .range((first, 0)..(logical.end.max(first), 0));
        let places = reached.rev().filter_map(move |&(first, start)| {
            let part = self.parts.get(&start)?;
            let from = logical.start.max(first) - first;
            let to = (logical.end - first).min(part.end - start);
            (from < to).then(|| start + from..start + to)
        });
        places.take(PLACES_MAX)
    }

    /// What there is at `offset`, and up to where it is the same.
    pub(super) fn holds(&self, offset: u64) -> (Holds, u64) {
        if let Some((_, part)) = self.part(offset) {
            return (part.holds, part.end);
        }
        let next = self.parts.range(offset..).next();
        (Holds::Unknown, next.map_or(u64::MAX, |(start, _)| *start))
    }

    /// Whether a node with this address may be at `offset`: it is, as far as that is known.
    pub(super) fn is_at(&self, logical: u64, offset: u64) -> bool {
        let known = self.part(offset);
        let known = known.and_then(|(start, part)| Some((start, part.logical?)));
        known.is_none_or(|(start, first)| first.checked_add(offset - start) == Some(logical))
    }
}

impl Chunk {
    fn holds(&self) -> Holds {
        let has = |kinds| self.kind.get() & kinds != 0;
        let nodes = has(chunk_kind::SYSTEM | chunk_kind::METADATA);
        match (nodes, has(chunk_kind::DATA)) {
            (true, false) => Holds::Nodes,
            (false, true) => Holds::Content,
            _ => Holds::Unknown,
        }
    }

    /// Over how many devices its addresses are spread: 1 where each has all of it.
    fn spread(&self) -> u64 {
        let stripes = u64::from(self.num_stripes.get());
        match self.kind.get() {
            kind if kind & chunk_kind::RAID0 != 0 => stripes,
            kind if kind & chunk_kind::RAID10 != 0 => {
                let copies = u64::from(self.sub_stripes.get());
                stripes.checked_div(copies).unwrap_or(1)
            }
            kind if kind & chunk_kind::RAID5 != 0 => stripes.saturating_sub(1),
            kind if kind & chunk_kind::RAID6 != 0 => stripes.saturating_sub(2),
            _ => 1,
        }
    }
}
