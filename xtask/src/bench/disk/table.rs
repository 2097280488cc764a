//! The result of a disk benchmark as a table.

use std::fmt::Write as _;

use super::Results;

/// Two columns of the measurements by each other: a name, numerator, denominator, and what the
/// ratio should be at least.
const RATIOS: [(&str, usize, usize, f64); 4] = [
    ("qcow2/raw", 1, 0, 0.95),
    ("raw/QEMU", 0, 2, 1.0),
    ("qcow2/QEMU", 1, 3, 1.0),
    ("qcow2/QEMU raw", 1, 2, 1.0),
];
const COLUMNS: [&str; 4] = ["raw", "qcow2", "QEMU raw", "QEMU qcow2"];

/// Ratios first, then thousands of requests a second, with half the distance of the best from the
/// worst run.
pub(super) fn render(results: &Results) -> String {
    let mut text = format!("{:<30}", "thousands of requests a second");
    for (name, ..) in RATIOS {
        let _ = write!(text, " {name:>14}");
    }
    for name in COLUMNS {
        let _ = write!(text, " {name:>13}");
    }
    text.push('\n');
    for (load, rates) in results {
        let _ = write!(text, "{:<30}", load.to_string());
        for (_, numerator, denominator, _) in RATIOS {
            let ratio = ratio(&rates[numerator], &rates[denominator]);
            let _ = write!(text, " {ratio:>14.2}");
        }
        for rates in rates {
            let (rate, spread) = (median(rates.clone()) / 1000.0, spread_percent(rates));
            let _ = write!(text, " {rate:>8.1} ±{spread:>2.0}%");
        }
        text.push('\n');
    }
    let _ = write!(text, "{:<30}", "mark, at least");
    for (.., mark) in RATIOS {
        let _ = write!(text, " {mark:>14.2}");
    }
    text.push('\n');
    text
}

/// The median of the ratios of runs that were neighbours in time.
fn ratio(numerator: &[f64], denominator: &[f64]) -> f64 {
    let pairs = numerator.iter().zip(denominator);
    median(pairs.map(|(above, below)| above / below).collect())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn spread_percent(values: &[f64]) -> f64 {
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    let largest = values.iter().copied().fold(0.0, f64::max);
    (largest - smallest) / 2.0 / median(values.to_vec()) * 100.0
}

#[cfg(test)]
mod tests {
    use super::super::load::LOADS;
    use super::*;

    #[test]
    fn ratios_are_of_neighbours_in_time() {
        // The machine was twice as fast in the middle.
        let rates = vec![
            vec![10_000.0, 20_000.0, 10_000.0],
            vec![9_000.0, 18_000.0, 9_000.0],
            vec![5_000.0, 10_000.0, 5_000.0],
            vec![4_500.0, 9_000.0, 4_500.0],
        ];
        let text = render(&vec![(LOADS[0], rates)]);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..5], ["random", "read", "4K", "depth", "1"]);
        assert_eq!(words[5..10], ["0.90", "2.00", "2.00", "1.80", "10.0"]);
        assert_eq!(words[10], "±50%");
    }
}
