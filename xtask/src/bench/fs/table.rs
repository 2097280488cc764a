//! The result of a file system benchmark as tables.

use super::measure::{Row, Sample};
use crate::bench::chart::Bars;
use crate::bench::contender::YARDSTICK;
use crate::bench::figures::{median, ratio, spread_percent};
use crate::bench::grid::Grid;

/// Loads by contenders, for each figure; ratios to QEMU's default first. A figure that nobody has
/// is left out.
pub(super) fn render(names: &[&str], rows: &[Row]) -> String {
    let grid = grid(names, rows);
    let ratios = grid.table("operations a second, x QEMU qcow2", |row, samples| {
        Some(format!("{:.2}", times_yardstick(names, row, samples)?))
    });
    let absolute = grid.table("operations a second", |_, samples| {
        let rates = rates(samples);
        let spread = spread_percent(&rates);
        Some(format!("{:.0} ±{spread:>2.0}%", median(rates)))
    });
    let counted = |title, figure: fn(&Sample) -> Option<f64>| {
        grid.table(title, |_, samples| {
            let figures: Option<Vec<f64>> = samples.iter().map(figure).collect();
            Some(format!("{:.2}", median(figures?)))
        })
    };
    let parts = [
        ratios,
        absolute,
        counted("guest's flushes an operation", |one| one.guest_flushes),
        counted("device's flushes an operation", |one| one.device_flushes),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join("\n")
}

/// Plots of the same.
pub(super) fn charts(ground: &str, names: &[&str], rows: &[Row]) -> Vec<Bars> {
    let grid = grid(names, rows);
    vec![
        grid.bars(
            format!("fs {ground} rates"),
            format!("{ground}: operations a second, times QEMU's qcow2"),
            |row, samples| times_yardstick(names, row, samples),
        ),
        grid.bars(
            format!("fs {ground} device flushes"),
            format!("{ground}: device flushes for each of the guest"),
            |_, samples| {
                let each = samples.iter().map(Sample::device_flushes_each);
                Some(median(each.collect::<Option<_>>()?))
            },
        ),
    ]
}

fn grid<'a>(names: &'a [&str], rows: &'a [Row]) -> Grid<'a, Vec<Sample>> {
    let row = |row: &'a Row| (row.load.to_string(), &row.samples[..]);
    Grid {
        names,
        rows: rows.iter().map(row).collect(),
    }
}

fn times_yardstick(names: &[&str], row: &[Vec<Sample>], samples: &[Sample]) -> Option<f64> {
    let yardstick = names.iter().position(|&name| name == YARDSTICK)?;
    Some(ratio(&rates(samples), &rates(&row[yardstick])))
}

fn rates(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|one| one.rate).collect()
}

#[cfg(test)]
mod tests {
    use super::super::load::LOADS;
    use super::*;

    fn samples(rates: &[f64], flushes: f64) -> Vec<Sample> {
        let sample = |&rate| Sample {
            rate,
            guest_flushes: Some(2.0),
            device_flushes: Some(flushes),
        };
        rates.iter().map(sample).collect()
    }

    #[test]
    fn ratios_are_of_neighbours_in_time() {
        // The machine was twice as fast in the middle.
        let row = Row {
            load: LOADS[0],
            samples: vec![
                samples(&[300.0, 600.0, 330.0], 2.0),
                samples(&[100.0, 200.0, 100.0], 6.0),
            ],
        };
        let names = ["ours", YARDSTICK];
        let text = render(&names, std::slice::from_ref(&row));
        let cells = |title: &str| {
            let mut lines = text.lines().skip_while(|line| !line.starts_with(title));
            let line = lines.nth(1).unwrap().to_owned();
            line.split_whitespace()
                .skip(4)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(cells("operations a second, x"), ["3.00", "1.00"]);
        assert_eq!(cells("device's flushes"), ["2.00", "6.00"]);
        let charts = charts("ext4", &names, &[row]);
        assert_eq!(charts[1].groups[0].1, [Some(1.0), Some(3.0)]);
    }
}
