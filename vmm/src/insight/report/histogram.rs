//! How long something lasted, in powers of two.

use super::summary::Bucket;

/// Of milliseconds: the last begins at 2^38, which is eight years.
const BUCKETS: usize = 40;

/// Counts by duration: the first is of less than a millisecond, each other of twice as long as the
/// one before.
#[derive(Clone, Debug)]
pub(super) struct Histogram {
    buckets: [Counts; BUCKETS],
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    count: u64,
    bytes: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: [Counts::default(); BUCKETS],
        }
    }
}

impl Histogram {
    /// Notes that `count` things with `bytes` in all lasted so long.
    pub(super) fn add(&mut self, lasted_ms: u64, count: u64, bytes: u64) {
        let counts = &mut self.buckets[power(lasted_ms).min(BUCKETS - 1)];
        counts.count = counts.count.saturating_add(count);
        counts.bytes = counts.bytes.saturating_add(bytes);
    }

    /// Those of which there was something, from the shortest on.
    pub(super) fn buckets(&self) -> Vec<Bucket> {
        let counted = self.buckets.iter().zip(0..);
        counted
            .filter(|(counts, _)| counts.count > 0)
            .map(|(counts, power)| Bucket {
                from_ms: if power == 0 { 0 } else { 1 << (power - 1) },
                count: counts.count,
                bytes: counts.bytes,
            })
            .collect()
    }
}

/// The number of the range that `number` is in: 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7.
pub(super) fn power(number: u64) -> usize {
    usize::try_from(u64::BITS - number.leading_zeros()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_begins_where_the_one_before_ends() {
        let mut histogram = Histogram::default();
        for lasted_ms in [0, 1, 2, 3, 4, 7, 8, 1023, 1024] {
            histogram.add(lasted_ms, 1, 10);
        }
        let found: Vec<_> = histogram
            .buckets()
            .iter()
            .map(|bucket| (bucket.from_ms, bucket.count, bucket.bytes))
            .collect();
        let expected = [
            (0, 1, 10),
            (1, 1, 10),
            (2, 2, 20),
            (4, 2, 20),
            (8, 1, 10),
            (512, 1, 10),
            (1024, 1, 10),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_last_range_has_all_that_is_longer() {
        let mut histogram = Histogram::default();
        for lasted_ms in [1 << 38, u64::MAX] {
            histogram.add(lasted_ms, u64::MAX, 1);
        }
        let last = Bucket {
            from_ms: 1 << 38,
            count: u64::MAX,
            bytes: 2,
        };
        assert_eq!(histogram.buckets(), [last]);
    }
}
