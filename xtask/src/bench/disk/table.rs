//! The result of a disk benchmark as a table.

use std::fmt::Write as _;

use super::load::Load;
use super::{Results, Sample};
use crate::bench::chart::Bars;
use crate::bench::figures::{median, ratio, spread_percent};
use crate::bench::grid::Grid;

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
/// worst run; the same for what a request costs, where less is better; and how long requests took,
/// where the client tells that.
pub(super) fn render(results: &Results) -> String {
    let rates = part(
        "thousands of requests a second",
        results,
        |sample| sample.rate / 1000.0,
        Some("mark, at least"),
    );
    let cpu = part(
        "server CPU, us a request",
        results,
        |sample| sample.cpu_us,
        None,
    );
    let latencies = latencies(results).map_or(String::new(), |table| format!("\n{table}"));
    format!("{rates}\n{cpu}{latencies}")
}

/// A table of latencies, the median of all runs of each.
fn latencies(results: &Results) -> Option<String> {
    let rows = results.iter();
    let grid = Grid {
        names: &COLUMNS,
        rows: rows
            .map(|(load, samples)| (load.to_string(), &samples[..]))
            .collect(),
    };
    grid.table("median / 99%, microseconds", |_, samples: &Vec<Sample>| {
        let all = samples.iter().map(|sample| sample.latencies);
        let all: Vec<_> = all.collect::<Option<_>>()?;
        let middle = median(all.iter().map(|one| one.median_us).collect());
        let most = median(all.iter().map(|one| one.p99_us).collect());
        Some(format!("{middle:.1} /{most:>5.0}"))
    })
}

/// A plot of the ratios of the rates.
pub(super) fn chart(protocol: &str, results: &Results) -> Bars {
    let group = |(load, samples): &(Load, Vec<Vec<Sample>>)| {
        let rates = |n: usize| {
            samples[n]
                .iter()
                .map(|sample| sample.rate)
                .collect::<Vec<_>>()
        };
        let ratios = RATIOS.map(|(_, above, below, _)| Some(ratio(&rates(above), &rates(below))));
        (load.to_string(), ratios.to_vec())
    };
    Bars {
        name: format!("disk {protocol} rates"),
        title: format!("requests a second over {protocol}, one by another"),
        series: RATIOS.map(|(name, ..)| name.to_owned()).to_vec(),
        groups: results.iter().map(group).collect(),
        line: Some(1.0),
    }
}

fn part(title: &str, results: &Results, value: fn(&Sample) -> f64, marks: Option<&str>) -> String {
    let mut text = format!("{title:<30}");
    for (name, ..) in RATIOS {
        let _ = write!(text, " {name:>14}");
    }
    for name in COLUMNS {
        let _ = write!(text, " {name:>13}");
    }
    text.push('\n');
    for (load, samples) in results {
        let values: Vec<Vec<f64>> = samples
            .iter()
            .map(|samples| samples.iter().map(value).collect())
            .collect();
        let _ = write!(text, "{:<30}", load.to_string());
        for (_, numerator, denominator, _) in RATIOS {
            let ratio = ratio(&values[numerator], &values[denominator]);
            let _ = write!(text, " {ratio:>14.2}");
        }
        for values in values {
            let (middle, spread) = (median(values.clone()), spread_percent(&values));
            let _ = write!(text, " {middle:>8.2} ±{spread:>2.0}%");
        }
        text.push('\n');
    }
    if let Some(marks) = marks {
        let _ = write!(text, "{marks:<30}");
        for (.., mark) in RATIOS {
            let _ = write!(text, " {mark:>14.2}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::Latencies;
    use super::super::load::LOADS;
    use super::*;

    #[test]
    fn ratios_are_of_neighbours_in_time() {
        // The machine was twice as fast in the middle.
        let rates = [
            vec![10_000.0, 20_000.0, 10_000.0],
            vec![9_000.0, 18_000.0, 9_000.0],
            vec![5_000.0, 10_000.0, 5_000.0],
            vec![4_500.0, 9_000.0, 4_500.0],
        ];
        let sample = |&rate: &f64| Sample {
            rate,
            cpu_us: 1.0,
            latencies: None,
        };
        let samples = rates
            .iter()
            .map(|rates: &Vec<f64>| rates.iter().map(sample).collect());
        let text = render(&vec![(LOADS[0], samples.collect())]);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..5], ["random", "read", "4K", "depth", "1"]);
        assert_eq!(words[5..10], ["0.90", "2.00", "2.00", "1.80", "10.00"]);
        assert_eq!(words[10], "±50%");
        assert!(!text.contains("microseconds"));
    }

    #[test]
    fn latencies_are_shown_where_they_are() {
        let sample = |median_us| Sample {
            rate: 1.0,
            cpu_us: 1.0,
            latencies: Some(Latencies {
                median_us,
                p99_us: 2.0 * median_us,
            }),
        };
        let samples = vec![[90.0, 20.0, 21.0].map(sample).to_vec(); 4];
        let text = render(&vec![(LOADS[0], samples)]);
        let line = text.lines().last().unwrap();
        let words: Vec<_> = line.split_whitespace().skip(5).collect();
        assert_eq!(words, ["21.0", "/", "42"].repeat(4));
    }
}
