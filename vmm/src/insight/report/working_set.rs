//! How many blocks are in use at a time, for any length of that time.
//!
//! A block is in the working set of a window of T at the moment t if it was touched in (t - T, t]
//! (Denning, "The working set model for program behavior", CACM 1968). After each touch it is there
//! for T, or until it is touched again: so from how long that takes follows how large the working
//! set was on average, for every T at once (Denning and Schwartz, "Properties of the working-set
//! model", CACM 1972), and nothing needs to be kept of each window.

use super::histogram::power;

/// Windows of 1, 2, 4… seconds, to more than an hour.
pub(super) const WINDOWS: usize = 13;
const SECOND_MS: u64 = 1000;

/// The length of window number `number`, in milliseconds.
pub(super) fn window_ms(number: usize) -> u64 {
    SECOND_MS << number
}

/// How long it took until blocks were touched again.
#[derive(Clone, Debug, Default)]
pub(super) struct Intervals {
    /// By the first window that is longer; the last is for those that are longer than all.
    buckets: [Interval; WINDOWS + 1],
}

#[derive(Clone, Copy, Debug, Default)]
struct Interval {
    count: u64,
    sum_ms: u64,
}

impl Intervals {
    /// Notes that `count` blocks were not touched for so long, and then again, or are gone.
    pub(super) fn add(&mut self, lasted_ms: u64, count: u64) {
        let interval = &mut self.buckets[power(lasted_ms / SECOND_MS).min(WINDOWS)];
        interval.count = interval.count.saturating_add(count);
        let sum_ms = lasted_ms.saturating_mul(count);
        interval.sum_ms = interval.sum_ms.saturating_add(sum_ms);
    }

    /// Those that lasted less than window `number`.
    pub(super) fn younger(&self, number: usize) -> u64 {
        let shorter = self.buckets[..=number].iter();
        shorter.fold(0, |sum, interval| sum.saturating_add(interval.count))
    }

    /// The time that blocks spent in the working set of window `number`, one after the other.
    pub(super) fn inside_ms(&self, number: usize) -> u64 {
        let (shorter, longer) = self.buckets.split_at(number + 1);
        let whole = shorter.iter().map(|interval| interval.sum_ms);
        let cut = longer
            .iter()
            .map(|interval| interval.count.saturating_mul(window_ms(number)));
        whole.chain(cut).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lasts_longer_than_the_window_counts_as_long_as_that() {
        let mut intervals = Intervals::default();
        for lasted_ms in [0, 400, 999, 1000, 1999, 2000, 5000] {
            intervals.add(lasted_ms, 2);
        }
        let expected = |window_ms: u64| {
            let all = [0, 400, 999, 1000, 1999, 2000, 5000];
            all.map(|lasted_ms: u64| 2 * lasted_ms.min(window_ms))
                .iter()
                .sum::<u64>()
        };
        for number in 0..WINDOWS {
            assert_eq!(
                intervals.inside_ms(number),
                expected(window_ms(number)),
                "{number}"
            );
        }
        assert_eq!(
            [0, 1, 2].map(|number| intervals.younger(number)),
            [6, 10, 12]
        );
    }

    #[test]
    fn sums_end_at_the_greatest_number() {
        let mut intervals = Intervals::default();
        intervals.add(u64::MAX, 7);
        intervals.add(0, u64::MAX);
        assert_eq!(intervals.inside_ms(WINDOWS - 1), 7 * window_ms(WINDOWS - 1));
        intervals.add(1, u64::MAX);
        assert_eq!(intervals.inside_ms(0), u64::MAX);
    }
}
