//! The result of a sync benchmark as tables.

use super::measure::{Measured, Row};
use crate::bench::chart::Bars;
use crate::bench::contender::YARDSTICK;
use crate::bench::figures::{median, percentile, ratio, spread_percent};
use crate::bench::grid::Grid;

/// Of latencies.
const PERCENTILES: [(&str, f64); 4] = [
    ("median", 50.0),
    ("90%", 90.0),
    ("99%", 99.0),
    ("99.9%", 99.9),
];

/// Loads by contenders, for each figure; ratios to QEMU's default first. A figure that nobody has
/// is left out.
pub(super) fn render(names: &[&str], rows: &[Row]) -> String {
    let grid = grid(names, rows);
    let part = |title: &str, cell: &dyn Fn(&Measured) -> Option<String>| {
        grid.table(title, |_, measured| cell(measured.as_ref()?))
    };
    let counted = |title: &str, figure: &dyn Fn(&Measured) -> Option<f64>| {
        part(title, &|one| {
            figure(one).map(|figure| format!("{figure:.2}"))
        })
    };
    let ratios = grid.table("flushes a second, x QEMU qcow2", |row, measured| {
        Some(format!(
            "{:.2}",
            times_yardstick(names, row, measured.as_ref()?)?
        ))
    });
    let rates = part("flushes a second", &|Measured { rates, .. }| {
        let (middle, spread) = (median(rates.clone()), spread_percent(rates));
        Some(format!("{middle:.0} ±{spread:>2.0}%"))
    });
    let latencies = part("median / 99%, microseconds", &|one| {
        let [middle, most] = [50.0, 99.0].map(|percent| percentile(&one.latencies_us, percent));
        Some(format!("{middle:.0} /{most:>5.0}"))
    });
    let kib = |bytes: f64| bytes / 1024.0;
    let parts = [
        ratios,
        rates,
        latencies,
        counted("host syncs a flush", &|one| one.counts.host_syncs),
        counted("the same by own counters", &|one| one.own?.syncs_per_flush),
        counted("device flushes a flush", &|one| one.counts.device_flushes),
        counted("KiB on the device a flush", &|one| {
            one.counts.device_bytes.map(kib)
        }),
        counted("KiB of zeros ahead a flush", &|one| {
            one.own?.written_ahead_bytes_per_flush.map(kib)
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join("\n")
}

/// Plots of the same: how much faster than QEMU's default, what a flush costs the host, and how long
/// those of one load take.
pub(super) fn charts(ground: &str, names: &[&str], rows: &[Row]) -> Vec<Bars> {
    let grid = grid(names, rows);
    let name = |what: &str| format!("sync {ground} {what}");
    let title = |title: &str| format!("{ground}: {title}");
    let counted = |what: &str, heading: &str, figure: fn(&Measured) -> Option<f64>| {
        grid.bars(name(what), title(heading), |_, one| figure(one.as_ref()?))
    };
    let mut charts = vec![
        grid.bars(
            name("rates"),
            title("flushes a second, times QEMU's qcow2"),
            |row, one| times_yardstick(names, row, one.as_ref()?),
        ),
        counted("host syncs", "host syncs a flush", |one| {
            one.counts.host_syncs
        }),
        counted("device flushes", "device flushes a flush", |one| {
            one.counts.device_flushes
        }),
    ];
    charts.extend(rows.first().map(|row| latencies(ground, names, row)));
    charts
}

fn grid<'a>(names: &'a [&str], rows: &'a [Row]) -> Grid<'a, Option<Measured>> {
    let row = |row: &'a Row| (row.load.to_string(), &row.measured[..]);
    Grid {
        names,
        rows: rows.iter().map(row).collect(),
    }
}

fn times_yardstick(names: &[&str], row: &[Option<Measured>], one: &Measured) -> Option<f64> {
    let yardstick = names.iter().position(|&name| name == YARDSTICK)?;
    Some(ratio(&one.rates, &row[yardstick].as_ref()?.rates))
}

fn latencies(ground: &str, names: &[&str], row: &Row) -> Bars {
    let group = |&(name, percent): &(&str, f64)| {
        let value = |one: &Option<Measured>| Some(percentile(&one.as_ref()?.latencies_us, percent));
        (name.to_owned(), row.measured.iter().map(value).collect())
    };
    Bars {
        name: format!("sync {ground} latencies"),
        title: format!(
            "{ground}: {}, microseconds of a write and its flush",
            row.load
        ),
        series: names.iter().map(ToString::to_string).collect(),
        groups: PERCENTILES.iter().map(group).collect(),
        line: None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::LOADS;
    use super::super::measure::Counts;
    use super::super::own_counts::OwnCounts;
    use super::*;

    fn measured(rates: &[f64]) -> Measured {
        Measured {
            rates: rates.to_vec(),
            latencies_us: rates.iter().map(|rate| 1e6 / rate).collect(),
            counts: Counts::default(),
            own: None,
        }
    }

    fn words(text: &str, title: &str) -> Vec<String> {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(title));
        let line = lines.nth(1).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn ratios_are_to_the_yardstick_of_the_same_round() {
        // The machine was twice as fast in the middle.
        let ours = measured(&[3_000.0, 6_000.0, 3_300.0]);
        let qemu = measured(&[1_000.0, 2_000.0, 1_000.0]);
        let row = Row {
            load: LOADS[0],
            measured: vec![Some(ours), Some(qemu), None],
        };
        let text = render(&["ours", YARDSTICK, "QEMU raw"], &[row]);
        let expected = ["alloc", "random", "4K", "3.00", "1.00", "-"];
        assert_eq!(words(&text, "flushes a second, x"), expected);
        let expected = ["alloc", "random", "4K", "3300", "±45%", "1000", "±50%", "-"];
        assert_eq!(words(&text, "flushes a second  "), expected);
        assert_eq!(text.matches("alloc").count(), 3, "nothing was counted");
    }

    #[test]
    fn counts_are_shown_where_they_are() {
        let mut ours = measured(&[1.0]);
        ours.counts.host_syncs = Some(1.006);
        ours.counts.device_bytes = Some(4608.0);
        ours.own = Some(OwnCounts {
            syncs_per_flush: Some(1.01),
            written_ahead_bytes_per_flush: Some(65_536.0),
            metadata_bytes_per_write: None,
        });
        let row = Row {
            load: LOADS[0],
            measured: vec![Some(ours), Some(measured(&[1.0]))],
        };
        let text = render(&["ours", YARDSTICK], &[row]);
        let last_two = |title| words(&text, title)[3..].to_vec();
        assert_eq!(last_two("host syncs a flush"), ["1.01", "-"]);
        assert_eq!(last_two("the same by own"), ["1.01", "-"]);
        assert_eq!(last_two("KiB on the device"), ["4.50", "-"]);
        assert_eq!(last_two("KiB of zeros"), ["64.00", "-"]);
        assert!(!text.contains("device flushes"));
    }
}
