//! The result of a file system benchmark as tables.

use std::fmt::Write as _;

use super::measure::{Row, Sample};
use crate::bench::chart::Bars;
use crate::bench::contender::YARDSTICK;
use crate::bench::figures::{median, ratio, spread_percent};

/// Loads by contenders, for each figure; ratios to QEMU's default first.
pub(super) fn render(names: &[&str], rows: &[Row]) -> String {
    let yardstick = names.iter().position(|&name| name == YARDSTICK);
    let ratios = part(
        "operations a second, x QEMU qcow2",
        names,
        rows,
        |row, samples| {
            let yardstick = &row.samples[yardstick?];
            Some(format!("{:.2}", ratio(&rates(samples), &rates(yardstick))))
        },
    );
    let absolute = part("operations a second", names, rows, |_, samples| {
        let rates = rates(samples);
        let spread = spread_percent(&rates);
        Some(format!("{:.0} ±{spread:>2.0}%", median(rates)))
    });
    let counted = |title, figure: fn(&Sample) -> Option<f64>| {
        part(title, names, rows, |_, samples| {
            let figures: Option<Vec<f64>> = samples.iter().map(figure).collect();
            Some(format!("{:.2}", median(figures?)))
        })
    };
    [
        ratios,
        absolute,
        counted("guest's flushes an operation", |one| one.guest_flushes),
        counted("device's flushes an operation", |one| one.device_flushes),
    ]
    .join("\n")
}

/// Plots of the same.
pub(super) fn charts(names: &[&str], rows: &[Row]) -> Vec<Bars> {
    let yardstick = names.iter().position(|&name| name == YARDSTICK);
    let bars = |what: &str, title: &str, figure: &dyn Fn(&Row, &[Sample]) -> Option<f64>| {
        let values = |row: &Row| {
            row.samples
                .iter()
                .map(|samples| figure(row, samples))
                .collect()
        };
        Bars {
            name: format!("fs {what}"),
            title: title.to_owned(),
            series: names.iter().map(ToString::to_string).collect(),
            groups: rows
                .iter()
                .map(|row| (row.load.to_string(), values(row)))
                .collect(),
            line: Some(1.0),
        }
    };
    vec![
        bars(
            "rates",
            "operations a second, times QEMU's qcow2",
            &|row, samples| {
                let yardstick = &row.samples[yardstick?];
                Some(ratio(&rates(samples), &rates(yardstick)))
            },
        ),
        bars(
            "device flushes",
            "device flushes for each of the guest",
            &|_, samples| {
                let each = samples.iter().map(Sample::device_flushes_each);
                Some(median(each.collect::<Option<_>>()?))
            },
        ),
    ]
}

fn rates(samples: &[Sample]) -> Vec<f64> {
    samples.iter().map(|one| one.rate).collect()
}

fn part(
    title: &str,
    names: &[&str],
    rows: &[Row],
    cell: impl Fn(&Row, &[Sample]) -> Option<String>,
) -> String {
    let mut text = format!("{title:<34}");
    for name in names {
        let _ = write!(text, " {name:>12}");
    }
    text.push('\n');
    for row in rows {
        let _ = write!(text, "{:<34}", row.load.to_string());
        for samples in &row.samples {
            let cell = cell(row, samples);
            let _ = write!(text, " {:>12}", cell.as_deref().unwrap_or("-"));
        }
        text.push('\n');
    }
    text
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
        let charts = charts(&names, &[row]);
        assert_eq!(charts[1].groups[0].1, [Some(1.0), Some(3.0)]);
    }
}
