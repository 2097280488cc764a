//! Where in the region records are, and where the next one goes.

use std::collections::VecDeque;

use super::format::BLOCK_BYTES;

/// A record that recovery may need.
#[derive(Clone, Copy, Debug)]
struct Slot {
    sequence: u64,
    start: u64,
    end: u64,
}

/// The part of the region behind the superblock, used round and round. A record is in one piece.
#[derive(Debug)]
pub(super) struct Ring {
    start: u64,
    end: u64,
    /// The oldest first, one behind the other.
    slots: VecDeque<Slot>,
    /// Where the last record ended.
    head: u64,
}

impl Ring {
    /// For a region of so many bytes.
    pub(super) fn new(region_bytes: u64) -> Self {
        Self {
            start: BLOCK_BYTES,
            end: region_bytes,
            slots: VecDeque::new(),
            head: BLOCK_BYTES,
        }
    }

    /// The most that one record may have, so that there is always room for one beside the last.
    pub(super) fn record_bytes_max(&self) -> u64 {
        (self.end - self.start) / 3 / BLOCK_BYTES * BLOCK_BYTES
    }

    /// Bytes of records that recovery may need.
    pub(super) fn live_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.end - slot.start).sum()
    }

    /// How many records recovery may need.
    pub(super) fn live(&self) -> usize {
        self.slots.len()
    }

    /// Whether it is time to make room.
    pub(super) fn is_half_full(&self) -> bool {
        self.live_bytes() > (self.end - self.start) / 2
    }

    /// Takes room for a record of `len` bytes, whole blocks; absent if there is none. Room for one
    /// more block stays, for the record that frees the others.
    pub(super) fn take(&mut self, sequence: u64, len: u64) -> Option<u64> {
        let before = self.head;
        let start = self.find(before, len)?;
        self.take_at(sequence, start, len);
        if self.find(self.head, BLOCK_BYTES).is_none() {
            self.slots.pop_back();
            self.head = before;
            return None;
        }
        Some(start)
    }

    /// Takes room for one block, that which [`Ring::take`] leaves.
    pub(super) fn take_last(&mut self, sequence: u64) -> u64 {
        let start = self.find(self.head, BLOCK_BYTES);
        let start = start.expect("room for a block always stays");
        self.take_at(sequence, start, BLOCK_BYTES);
        start
    }

    fn take_at(&mut self, sequence: u64, start: u64, len: u64) {
        let end = start + len;
        self.slots.push_back(Slot {
            sequence,
            start,
            end,
        });
        self.head = end;
    }

    fn find(&self, head: u64, len: u64) -> Option<u64> {
        let Some(oldest) = self.slots.front().map(|slot| slot.start) else {
            let start = if self.end - head >= len {
                head
            } else {
                self.start
            };
            return (self.end - start >= len).then_some(start);
        };
        let newest = self.slots.back().map_or(head, |slot| slot.start);
        if newest < oldest {
            return (oldest.checked_sub(head)? >= len).then_some(head);
        }
        if self.end - head >= len {
            return Some(head);
        }
        (oldest - self.start >= len).then_some(self.start)
    }

    /// Records before `tail` are not needed any more.
    pub(super) fn free_before(&mut self, tail: u64) {
        while self.slots.front().is_some_and(|slot| slot.sequence < tail) {
            self.slots.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::test_support::seeded;

    /// Live records never overlap, and what frees them always finds room.
    #[test]
    fn records_never_overlap_and_a_block_always_stays() {
        seeded(200, |seed| {
            let mut random = Rng::new(seed);
            let region = (16 + random.below(40)) * BLOCK_BYTES;
            let mut ring = Ring::new(region);
            let (mut tail, mut full) = (1, 0);
            for sequence in 1..300 {
                let len = (1 + random.below(ring.record_bytes_max() / BLOCK_BYTES)) * BLOCK_BYTES;
                if ring.take(sequence, len).is_none() {
                    full += 1;
                    ring.take_last(sequence);
                    tail = sequence;
                    ring.free_before(tail);
                } else if random.below(4) == 0 {
                    tail += random.below(sequence - tail + 1);
                    ring.free_before(tail);
                }
                let slots: Vec<_> = ring.slots.iter().collect();
                for (n, a) in slots.iter().enumerate() {
                    assert!(a.start >= BLOCK_BYTES && a.end <= region);
                    let apart = |b: &&Slot| a.end <= b.start || b.end <= a.start;
                    assert!(slots[n + 1..].iter().all(apart), "{slots:?}");
                }
            }
            assert!(full > 0);
        });
    }

    /// With nothing but the newest record alive, the largest record fits.
    #[test]
    fn largest_record_fits_beside_any_other() {
        for blocks in 16..60 {
            for head in 0..blocks {
                let mut ring = Ring::new(blocks * BLOCK_BYTES);
                let max = ring.record_bytes_max();
                ring.head = BLOCK_BYTES * (1 + head % (blocks - 1));
                for sequence in 1..20 {
                    assert!(ring.take(sequence, max).is_some(), "{blocks} {head}");
                    ring.free_before(sequence);
                }
            }
        }
    }
}
