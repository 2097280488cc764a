//! The result of a sync benchmark as tables.

use std::fmt::Write as _;

use super::measure::{Measured, Row};
use crate::bench::chart::Bars;
use crate::bench::contender::YARDSTICK;
use crate::bench::figures::{median, percentile, ratio, spread_percent};

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
    let yardstick = names.iter().position(|&name| name == YARDSTICK);
    let yardstick = |row: &Row| row.measured[yardstick?].clone();
    let counted = |title: &str, figure: &dyn Fn(&Measured) -> Option<f64>| {
        part(title, names, rows, |_, measured| {
            figure(measured).map(|figure| format!("{figure:.2}"))
        })
    };
    let ratios = part(
        "flushes a second, x QEMU qcow2",
        names,
        rows,
        |row, measured| {
            let ratio = ratio(&measured.rates, &yardstick(row)?.rates);
            Some(format!("{ratio:.2}"))
        },
    );
    let rates = part(
        "flushes a second",
        names,
        rows,
        |_, Measured { rates, .. }| {
            let (middle, spread) = (median(rates.clone()), spread_percent(rates));
            Some(format!("{middle:.0} ±{spread:>2.0}%"))
        },
    );
    let latencies = part("median / 99%, microseconds", names, rows, |_, one| {
        let [middle, most] = [50.0, 99.0].map(|percent| percentile(&one.latencies_us, percent));
        Some(format!("{middle:.0} /{most:>5.0}"))
    });
    let kib = |bytes: f64| bytes / 1024.0;
    let parts = [
        ratios,
        rates,
        latencies,
        counted("host syncs a flush", &|one| one.counts.host_syncs),
        counted("the same by own counters", &|one| {
            Some(one.own?.syncs_per_flush)
        }),
        counted("device flushes a flush", &|one| one.counts.device_flushes),
        counted("KiB on the device a flush", &|one| {
            one.counts.device_bytes.map(kib)
        }),
        counted("KiB of zeros ahead a flush", &|one| {
            Some(kib(one.own?.written_ahead_bytes_per_flush))
        }),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join("\n")
}

/// Plots of the same: how much faster than QEMU's default, what a flush costs the host, and how long
/// those of one load take.
pub(super) fn charts(ground: &str, names: &[&str], rows: &[Row]) -> Vec<Bars> {
    let yardstick = names.iter().position(|&name| name == YARDSTICK);
    let bars = |what: &str, title: &str, figure: &dyn Fn(&Row, &Measured) -> Option<f64>| {
        let value = |row: &Row, one: &Option<Measured>| figure(row, one.as_ref()?);
        let values = |row: &Row| row.measured.iter().map(|one| value(row, one)).collect();
        Bars {
            name: format!("sync {ground} {what}"),
            title: format!("{ground}: {title}"),
            series: names.iter().map(ToString::to_string).collect(),
            groups: rows
                .iter()
                .map(|row| (row.load.to_string(), values(row)))
                .collect(),
            line: Some(1.0),
        }
    };
    let mut charts = vec![
        bars(
            "rates",
            "flushes a second, times QEMU's qcow2",
            &|row, one| Some(ratio(&one.rates, &row.measured[yardstick?].as_ref()?.rates)),
        ),
        bars("host syncs", "host syncs a flush", &|_, one| {
            one.counts.host_syncs
        }),
        bars("device flushes", "device flushes a flush", &|_, one| {
            one.counts.device_flushes
        }),
    ];
    charts.extend(rows.first().map(|row| latencies(ground, names, row)));
    charts
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

/// The table of one figure, if any cell has one.
fn part(
    title: &str,
    names: &[&str],
    rows: &[Row],
    cell: impl Fn(&Row, &Measured) -> Option<String>,
) -> Option<String> {
    let mut text = format!("{title:<30}");
    for name in names {
        let _ = write!(text, " {name:>12}");
    }
    text.push('\n');
    let mut is_empty = true;
    for row in rows {
        let _ = write!(text, "{:<30}", row.load.to_string());
        for measured in &row.measured {
            let cell = measured.as_ref().and_then(|one| cell(row, one));
            is_empty &= cell.is_none();
            let _ = write!(text, " {:>12}", cell.as_deref().unwrap_or("-"));
        }
        text.push('\n');
    }
    (!is_empty).then_some(text)
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
            syncs_per_flush: 1.01,
            written_ahead_bytes_per_flush: 65_536.0,
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
