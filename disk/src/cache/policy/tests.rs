//! The policies without a disk: what they keep, and what they promise.

use std::collections::HashMap;

use super::{Arrival, Policy, PolicyKind, policy};
use crate::Class;
use crate::rng::Rng;
use crate::test_support::seeded;

const KINDS: [PolicyKind; 2] = [PolicyKind::S3Fifo, PolicyKind::Lru];

/// A cache of numbers, as the real one uses a policy.
struct Model {
    policy: Box<dyn Policy>,
    slots: Vec<Option<u64>>,
    places: HashMap<u64, u32>,
    free: Vec<u32>,
    hits: u64,
    uses: u64,
}

impl Model {
    fn new(kind: PolicyKind, slots: u32, by_class: bool) -> Self {
        Self {
            policy: policy(kind, slots, by_class),
            slots: vec![None; slots as usize],
            places: HashMap::new(),
            free: (0..slots).collect(),
            hits: 0,
            uses: 0,
        }
    }

    fn access(&mut self, block: u64, class: Class) {
        self.arrive(block, Arrival::alone(class));
    }

    fn arrive(&mut self, block: u64, arrival: Arrival) {
        self.uses += 1;
        if let Some(slot) = self.places.get(&block) {
            self.hits += 1;
            self.policy.touch(*slot);
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| self.evict());
        self.slots[slot as usize] = Some(block);
        self.places.insert(block, slot);
        self.policy.insert(slot, block, arrival);
    }

    fn evict(&mut self) -> u32 {
        let slot = self.policy.evict().expect("it is full");
        let block = self.slots[slot as usize].take().expect("it is in use");
        self.places.remove(&block);
        slot
    }

    fn remove(&mut self, block: u64) {
        if let Some(slot) = self.places.remove(&block) {
            self.policy.remove(slot);
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }

    /// Hits in a thousand.
    fn per_mille(&self) -> u64 {
        self.hits * 1000 / self.uses
    }
}

#[test]
fn every_block_is_in_one_queue_and_classes_stay_in_their_bounds() {
    seeded(60, |seed| {
        let mut rng = Rng::new(seed);
        let kind = KINDS[rng.index(2)];
        let slots = u32::try_from(1 + rng.below(40)).unwrap();
        let by_class = rng.below(4) > 0;
        let mut model = Model::new(kind, slots, by_class);
        for _ in 0..2000 {
            let block = rng.below(u64::from(slots) * 3);
            match rng.below(16) {
                0 => model.remove(block),
                1 if !model.places.is_empty() => {
                    let slot = model.evict();
                    model.free.push(slot);
                }
                _ => model.arrive(
                    block,
                    Arrival {
                        class: Class::ALL[rng.index(6)],
                        came_in_run: rng.below(2) == 0,
                    },
                ),
            }
            assert_eq!(model.policy.len(), model.places.len());
            assert!(model.places.len() <= slots as usize);
            let bound = if by_class { slots / 4 * 3 } else { 0 };
            assert!(model.policy.favoured() <= bound as usize);
        }
        // Each of them leaves once.
        for left in (0..model.places.len()).rev() {
            model.evict();
            assert_eq!(model.policy.len(), left);
        }
        assert_eq!(model.policy.evict(), None);
        assert_eq!(model.policy.favoured(), 0);
    });
}

/// A number below `count`, of which small ones are drawn more often: Zipf with an exponent of 1.
fn zipf(rng: &mut Rng, count: u64) -> u64 {
    let mut bound = 1;
    // The numbers from 2^n to 2^(n+1) are together as likely for each n.
    for _ in 0..rng.below(u64::from(count.ilog2()) + 1) {
        bound *= 2;
    }
    (bound - 1 + rng.below(bound)).min(count - 1)
}

/// Hits in a thousand of popular blocks, with scans of blocks that are read once in between.
fn with_scans(kind: PolicyKind, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut model = Model::new(kind, 500, false);
    let (mut hits, mut uses) = (0, 0);
    let mut scanned = 1 << 32;
    for _ in 0..40 {
        let before = (model.hits, model.uses);
        for _ in 0..2000 {
            model.access(zipf(&mut rng, 1 << 14), Class::Other);
        }
        hits += model.hits - before.0;
        uses += model.uses - before.1;
        for _ in 0..1000 {
            scanned += 1;
            model.access(scanned, Class::Other);
        }
    }
    hits * 1000 / uses
}

#[test]
fn a_scan_takes_little_from_s3_fifo_and_all_from_lru() {
    seeded(5, |seed| {
        let [s3_fifo, lru] = KINDS.map(|kind| with_scans(kind, seed));
        println!("s3-fifo {s3_fifo}, lru {lru} hits in a thousand");
        assert!(s3_fifo > lru + 40, "s3-fifo {s3_fifo}, lru {lru}");
    });
}

/// A tree of metadata that is larger than the cache, read round and round beside other data.
fn rounds(kind: PolicyKind, by_class: bool) -> u64 {
    let mut model = Model::new(kind, 1000, by_class);
    let mut other = 1 << 32;
    for _ in 0..20 {
        for block in 0..1200 {
            model.access(block, Class::Metadata);
            other += 1;
            model.access(other, Class::Other);
        }
    }
    model.per_mille()
}

#[test]
fn classes_keep_what_is_needed_again() {
    for kind in KINDS {
        let [plain, by_class] = [false, true].map(|by_class| rounds(kind, by_class));
        println!("{kind}: {plain} and {by_class} hits in a thousand");
        let gain = if kind == PolicyKind::Lru { 10 } else { 200 };
        assert!(by_class > plain + gain, "{kind}: {plain}, {by_class}");
    }
}

/// However much metadata there is, other data that is used is kept.
#[test]
fn no_class_keeps_another_out() {
    for kind in KINDS {
        let mut model = Model::new(kind, 1000, true);
        for block in 0..5000 {
            model.access(1 << 32 | block, Class::Metadata);
        }
        let (hits, uses) = (model.hits, model.uses);
        for n in 0..2000 {
            model.access(n % 100, Class::Other);
        }
        let (hits, uses) = (model.hits - hits, model.uses - uses);
        assert!(hits * 10 > uses * 8, "{kind}: {hits} hits of {uses}");
    }
}

/// Directories, each read alone, and inodes, of which many are read at once, round and round: all of
/// the metadata is larger than the cache, and the inodes come first.
#[test]
fn what_came_in_runs_leaves_room_for_what_came_alone() {
    for kind in KINDS {
        let mut model = Model::new(kind, 1000, true);
        let (mut hits, mut uses) = (0, 0);
        let mut other = 1 << 32;
        for round in 0..10 {
            for inode in 0..700 {
                let arrival = Arrival {
                    class: Class::Metadata,
                    came_in_run: true,
                };
                model.arrive(inode, arrival);
            }
            let before = model.hits;
            for directory in 0..500 {
                model.access(1000 + directory, Class::Metadata);
                other += 1;
                model.access(other, Class::Other);
            }
            if round > 1 {
                hits += model.hits - before;
                uses += 500;
            }
        }
        assert!(hits * 10 > uses * 9, "{kind}: {hits} hits of {uses}");
    }
}
