//! What benchmarks make of the runs that they measured.

use anyhow::{Context as _, Result};

/// The middle one of at least one value.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How long a program that guests run says that it took, in nanoseconds.
pub(super) fn said_ns(said: &str) -> Result<u64> {
    let mut words = said.split_whitespace();
    let ns = words.find_map(|word| word.strip_prefix("ns=")?.parse().ok());
    ns.with_context(|| format!("no time in '{said}'"))
}

/// The median of the ratios of runs that were neighbours in time.
pub(super) fn ratio(numerator: &[f64], denominator: &[f64]) -> f64 {
    let pairs = numerator.iter().zip(denominator);
    median(pairs.map(|(above, below)| above / below).collect())
}

/// How much there was of something for each of `others`.
#[expect(clippy::cast_precision_loss, reason = "three digits of it are shown")]
pub(super) fn per(count: u64, others: f64) -> f64 {
    count as f64 / others
}

/// Half the distance of the best from the worst run, by the median.
pub(super) fn spread_percent(values: &[f64]) -> f64 {
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(0.0, f64::max);
    (largest - smallest) / 2.0 / median(values.to_vec()) * 100.0
}

/// The value that so many percent of at least one value are not above.
pub(super) fn percentile(values: &[f64], percent: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "between 0 and their count"
    )]
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_there() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let found = [50.0, 99.0, 99.9].map(|percent| percentile(&values, percent).to_string());
        assert_eq!(found, ["100", "198", "200"]);
        assert_eq!(percentile(&[7.0], 1.0).to_string(), "7");
    }
}
