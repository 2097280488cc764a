//! Where on a disk a load writes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::load::{Load, Target};

/// The cluster size of every image.
pub(super) const CLUSTER_BYTES: u64 = 64 << 10;
/// Of every server's places, so that they get the same.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// The places of one disk for one load, each given once, or again and again in turn.
pub(super) struct Places {
    /// The numbers of the places where their order is not that of the disk.
    order: Option<Vec<u64>>,
    count: u64,
    step_bytes: u64,
    given: AtomicU64,
    /// Each only once: what has been written to is not new any more.
    once: bool,
}

impl Places {
    /// Those of the first `size_bytes` of a disk.
    pub(super) fn new(load: &Load, size_bytes: u64, once: bool) -> Self {
        let step_bytes = load.step_bytes();
        let count = size_bytes / step_bytes;
        Self {
            order: (load.target != Target::NewInOrder).then(|| permutation(count)),
            count,
            step_bytes,
            given: AtomicU64::new(0),
            once,
        }
    }

    /// The offset of the next place, for whichever client asks.
    pub(super) fn next(&self) -> Option<u64> {
        let given = self.given.fetch_add(1, Ordering::Relaxed);
        if self.once && given >= self.count {
            return None;
        }
        let n = given % self.count;
        let place = match &self.order {
            Some(order) => order[usize::try_from(n).ok()?],
            None => n,
        };
        Some(place * self.step_bytes)
    }

    /// How many each of `runs` can have.
    pub(super) fn share(&self, runs: usize) -> u64 {
        if self.once {
            self.count / runs as u64
        } else {
            u64::MAX
        }
    }
}

/// The numbers below `count` in a random order, always the same (Fisher and Yates).
fn permutation(count: u64) -> Vec<u64> {
    let mut numbers: Vec<u64> = (0..count).collect();
    let mut random = SEED;
    for last in (1..numbers.len()).rev() {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let other = random % (last as u64 + 1);
        numbers.swap(last, usize::try_from(other).unwrap_or(last));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::super::load::LOADS;
    use super::*;

    #[test]
    fn no_place_is_given_twice() {
        for load in LOADS {
            let size_bytes = 1000 * CLUSTER_BYTES;
            let places = Places::new(&load, size_bytes, true);
            let mut offsets: Vec<u64> = std::iter::from_fn(|| places.next()).collect();
            let first = offsets[..100].to_vec();
            offsets.sort_unstable();
            let all: Vec<u64> = (0..size_bytes)
                .step_by(usize::try_from(load.step_bytes()).unwrap())
                .collect();
            assert_eq!(offsets, all, "{load}");
            let in_order = load.target == Target::NewInOrder;
            assert_eq!(first.is_sorted(), in_order, "{load}");
        }
    }

    #[test]
    fn what_need_not_be_new_is_given_again() {
        let places = Places::new(&LOADS[0], 4 * CLUSTER_BYTES, false);
        let first: Vec<_> = (0..4).map(|_| places.next()).collect();
        let again: Vec<_> = (0..4).map(|_| places.next()).collect();
        assert_eq!(first, again);
    }

    #[test]
    fn runs_share_what_is_given_once() {
        let places = |once| Places::new(&LOADS[0], 70 * CLUSTER_BYTES, once);
        assert_eq!(places(true).share(7), 10);
        assert_eq!(places(false).share(7), u64::MAX);
    }
}
