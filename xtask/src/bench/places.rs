//! Where on a disk a load reads or writes.

use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Those of the first `size_bytes` of a disk, one every `step_bytes`, in their order.
    pub(super) fn in_order(size_bytes: u64, step_bytes: u64) -> Self {
        Self {
            order: None,
            count: size_bytes / step_bytes,
            step_bytes,
            given: AtomicU64::new(0),
            once: false,
        }
    }

    /// The same, in an order that is random, and the same every time.
    pub(super) fn random(size_bytes: u64, step_bytes: u64) -> Self {
        let places = Self::in_order(size_bytes, step_bytes);
        Self {
            order: Some(permutation(places.count)),
            ..places
        }
    }

    /// Gives each once only.
    pub(super) fn once(self) -> Self {
        Self { once: true, ..self }
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
    use super::*;

    const STEP_BYTES: u64 = 64 << 10;

    #[test]
    fn no_place_is_given_twice() {
        for places in [Places::in_order, Places::random] {
            let places = places(1000 * STEP_BYTES, STEP_BYTES).once();
            let in_order = places.order.is_none();
            let mut offsets: Vec<u64> = std::iter::from_fn(|| places.next()).collect();
            assert_eq!(offsets[..100].is_sorted(), in_order);
            offsets.sort_unstable();
            let all = (0..1000).map(|n| n * STEP_BYTES);
            assert_eq!(offsets, all.collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_need_not_be_new_is_given_again() {
        let places = Places::random(4 * STEP_BYTES, STEP_BYTES);
        let first: Vec<_> = (0..4).map(|_| places.next()).collect();
        let again: Vec<_> = (0..4).map(|_| places.next()).collect();
        assert_eq!(first, again);
    }

    #[test]
    fn runs_share_what_is_given_once() {
        let places = || Places::random(70 * STEP_BYTES, STEP_BYTES);
        assert_eq!(places().once().share(7), 10);
        assert_eq!(places().share(7), u64::MAX);
    }
}
