//! What benchmarks make of the runs that they measured.

/// The middle one of at least one value.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The median of the ratios of runs that were neighbours in time.
pub(super) fn ratio(numerator: &[f64], denominator: &[f64]) -> f64 {
    let pairs = numerator.iter().zip(denominator);
    median(pairs.map(|(above, below)| above / below).collect())
}

/// Half the distance of the best from the worst run, by the median.
pub(super) fn spread_percent(values: &[f64]) -> f64 {
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(0.0, f64::max);
    (largest - smallest) / 2.0 / median(values.to_vec()) * 100.0
}
