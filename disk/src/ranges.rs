//! Sets of bytes of a file, and of bits in a mask.

use std::collections::BTreeMap;
use std::ops::Range;

/// Ranges that do not touch each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Ends, by where they start.
    ends: BTreeMap<u64, u64>,
    /// How much they are together.
    bytes: u64,
}

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// How much all of them are together.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ends.iter().map(|(start, end)| *start..*end)
    }

    /// Adds a range, joined with those that it touches.
    pub(crate) fn insert(&mut self, mut range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((&start, &end)) = self.ends.range(..=range.end).next_back() {
            if end < range.start {
                break;
            }
            self.ends.remove(&start);
            self.bytes -= end - start;
            range = range.start.min(start)..range.end.max(end);
        }
        self.bytes += range.end - range.start;
        self.ends.insert(range.start, range.end);
    }

    /// Takes a range out, and returns what of it was there.
    pub(crate) fn remove(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        let removed: Vec<_> = self.within(range).collect();
        for part in &removed {
            let (&start, &end) = self
                .ends
                .range(..=part.start)
                .next_back()
                .expect("it is there");
            self.ends.remove(&start);
            self.bytes -= part.end - part.start;
            for rest in [start..part.start, part.end..end] {
                if !rest.is_empty() {
                    self.ends.insert(rest.start, rest.end);
                }
            }
        }
        removed
    }

    /// The parts of `range` that are in the set, in order.
    pub(crate) fn within(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let Range { start, end } = *range;
        let first = self
            .ends
            .range(..=start)
            .next_back()
            .map(|(start, _)| *start);
        self.ends
            .range(first.unwrap_or(start)..end.max(first.unwrap_or(start)))
            .map(move |(from, to)| start.max(*from)..end.min(*to))
            .filter(|part| !part.is_empty())
    }

    /// Whether any of `range` is in the set.
    pub(crate) fn overlaps(&self, range: &Range<u64>) -> bool {
        !self.is_empty() && self.within(range).next().is_some()
    }

    /// The parts of `range` that are not in the set, in order.
    pub(crate) fn missing(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let (mut at, mut missing) = (range.start, Vec::new());
        for part in self.within(range) {
            if at < part.start {
                missing.push(at..part.start);
            }
            at = part.end;
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }
}

/// The runs of ones in a mask: the first of each, and the one behind its last.
pub(crate) fn ones(mask: u64) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = mask.checked_shr(at).unwrap_or(0);
        if rest == 0 {
            return None;
        }
        let first = at + rest.trailing_zeros();
        let len = (mask >> first).trailing_ones();
        at = first + len;
        Some((first as usize, at as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;
    use crate::test_support::seeded;

    fn runs(bits: impl Iterator<Item = bool>) -> Vec<Range<u64>> {
        let mut ranges = Ranges::default();
        for (n, _) in (0..).zip(bits).filter(|(_, bit)| *bit) {
            ranges.insert(n..n + 1);
        }
        ranges.iter().collect()
    }

    #[test]
    fn sets_are_what_bits_say() {
        seeded(300, |seed| {
            let mut rng = Rng::new(seed);
            let (mut ranges, mut bits) = (Ranges::default(), [false; 64]);
            for _ in 0..60 {
                let start = rng.index(64);
                let end = start + rng.index(65 - start);
                let range = start as u64..end as u64;
                let inside = runs(
                    bits[..end]
                        .iter()
                        .enumerate()
                        .map(|(n, b)| *b && n >= start),
                );
                let outside = runs((0..end).map(|n| !bits[n] && n >= start));
                assert_eq!(ranges.within(&range).collect::<Vec<_>>(), inside);
                assert_eq!(ranges.missing(&range), outside);
                assert_eq!(ranges.overlaps(&range), !inside.is_empty());
                if rng.coin() {
                    ranges.insert(range);
                    bits[start..end].fill(true);
                } else {
                    assert_eq!(ranges.remove(&range), inside);
                    bits[start..end].fill(false);
                }
                let all: Vec<_> = ranges.iter().collect();
                assert_eq!(all, runs(bits.into_iter()));
                assert_eq!(
                    ranges.bytes(),
                    bits.iter().filter(|bit| **bit).count() as u64
                );
            }
        });
    }

    #[test]
    fn runs_of_ones_are_found() {
        let found = |mask| ones(mask).collect::<Vec<_>>();
        assert_eq!(found(0), []);
        assert_eq!(found(u64::MAX), [(0, 64)]);
        assert_eq!(found(0b1011_0000), [(4, 6), (7, 8)]);
        assert_eq!(found(1 << 63 | 1), [(0, 1), (63, 64)]);
    }
}
