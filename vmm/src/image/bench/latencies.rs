//! How long things took.

use std::time::Duration;

use serde::Serialize;

/// Each power of two is divided into so many parts, so that what is told is off by 2 % at most.
const PARTS_BITS: u32 = 6;
const PARTS: u64 = 1 << PARTS_BITS;

/// Counts times by their length, in memory that does not grow with them.
#[derive(Default)]
pub(super) struct Latencies {
    /// By [`bucket`].
    counts: Vec<u64>,
    count: u64,
    max_ns: u64,
}

/// What is told of latencies, in nanoseconds.
#[expect(clippy::struct_field_names, reason = "units end names, in JSON too")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Summary {
    pub(super) p50_ns: u64,
    pub(super) p99_ns: u64,
    pub(super) max_ns: u64,
}

impl Latencies {
    pub(super) fn add(&mut self, time: Duration) {
        let time_ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(time_ns);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(time_ns);
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Absent if there are none.
    pub(super) fn summary(&self) -> Option<Summary> {
        (self.count > 0).then(|| Summary {
            p50_ns: self.percentile(50),
            p99_ns: self.percentile(99),
            max_ns: self.max_ns,
        })
    }

    /// The time within which `percent` of all were done.
    fn percentile(&self, percent: u64) -> u64 {
        let wanted = u128::from(self.count) * u128::from(percent);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen * 100 >= wanted {
                return upper_ns(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

/// Where a time is counted: exactly below [`PARTS`], and by its highest bits above.
fn bucket(time_ns: u64) -> usize {
    let shift = time_ns
        .checked_ilog2()
        .unwrap_or(0)
        .saturating_sub(PARTS_BITS);
    let bucket = u64::from(shift) * PARTS + (time_ns >> shift);
    usize::try_from(bucket).unwrap_or(usize::MAX)
}

/// The longest time that is counted in a bucket.
fn upper_ns(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket / PARTS).saturating_sub(1);
    let top = bucket - shift * PARTS;
    u64::try_from((u128::from(top + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_and_are_narrow() {
        let mut lower = 0;
        for n in 0..bucket(u64::MAX) {
            let upper = upper_ns(n);
            assert_eq!((bucket(lower), bucket(upper)), (n, n));
            assert!(upper - lower <= lower / PARTS, "{lower}..={upper}");
            lower = upper + 1;
        }
        assert_eq!(upper_ns(bucket(u64::MAX)), u64::MAX);
    }

    #[test]
    fn percentiles_are_those_of_the_times() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.summary(), None);
        for us in (1..=1000).rev() {
            latencies.add(Duration::from_micros(us));
        }
        let summary = latencies.summary().unwrap();
        assert!((500_000..508_000).contains(&summary.p50_ns), "{summary:?}");
        assert!(
            (990_000..=1_000_000).contains(&summary.p99_ns),
            "{summary:?}"
        );
        assert_eq!((summary.max_ns, latencies.count()), (1_000_000, 1000));
    }
}
