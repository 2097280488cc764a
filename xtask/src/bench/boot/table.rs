//! The result of a boot benchmark as a table.

use std::fmt::Write as _;

use ::tests::agent::measure::Start;

use crate::bench::chart::Bars;

/// The runs of one VMM with one form of the kernel.
pub(super) struct Row {
    /// The form of the kernel.
    pub(super) form: &'static str,
    /// The VMM.
    pub(super) name: String,
    /// At least one run.
    pub(super) starts: Vec<Start>,
}

/// What each figure should be at most for the first VMM of each form: times QEMU's time, exits,
/// faults, private memory in KiB.
const MARKS: [(&str, f64); 2] = [("bzImage", 0.86), ("ELF", 0.94)];
const EXITS_MAX: u64 = 2300;
const NPT_FAULTS_MAX: u64 = 64;
const PRIVATE_KIB_MAX: u64 = 3 << 10;

/// The table, with times relative to the VMM called QEMU of the same form.
pub(super) fn render(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<8} {:<16} {:>8} {:>7} {:>7} {:>7} {:>10} {:>12}\n",
        "kernel", "VMM", "ms", "spread", "x QEMU", "exits", "NPT faults", "private KiB"
    );
    for row in rows {
        let median = median(&row.starts);
        let ratio = times_qemu(rows, row).unwrap_or(f64::NAN);
        let _ = writeln!(
            text,
            "{:<8} {:<16} {:>8.0} {:>6.1}% {:>7.3} {:>7} {:>10} {:>12}",
            row.form,
            row.name,
            median.ms,
            spread_percent(&row.starts),
            ratio,
            median.exits,
            median.npt_faults,
            median.private_kib
        );
    }
    for (form, ratio) in MARKS {
        let _ = writeln!(
            text,
            "{form:<8} {:<16} {:>8} {:>7} {ratio:>7.3} {EXITS_MAX:>7} {NPT_FAULTS_MAX:>10} {PRIVATE_KIB_MAX:>12}",
            "mark, at most", "", ""
        );
    }
    text
}

/// A plot of the times, by QEMU's. Each form of the kernel has the same VMMs in the same order.
pub(super) fn chart(rows: &[Row]) -> Bars {
    let mut groups: Vec<(String, Vec<Option<f64>>)> = Vec::new();
    for row in rows {
        match groups.last_mut() {
            Some((form, ratios)) if form == row.form => ratios.push(times_qemu(rows, row)),
            _ => groups.push((row.form.to_owned(), vec![times_qemu(rows, row)])),
        }
    }
    let of_first = rows.iter().take_while(|row| row.form == rows[0].form);
    Bars {
        name: "boot times".to_owned(),
        title: "time until init, times QEMU's".to_owned(),
        series: of_first.map(|row| row.name.clone()).collect(),
        groups,
        line: Some(1.0),
    }
}

/// A VMM's time by that of the one called QEMU with the same form of the kernel.
fn times_qemu(rows: &[Row], row: &Row) -> Option<f64> {
    let qemu = rows
        .iter()
        .find(|other| other.form == row.form && other.name == "QEMU")?;
    Some(median(&row.starts).ms / median(&qemu.starts).ms)
}

/// The median of each figure by itself.
fn median(starts: &[Start]) -> Start {
    let middle = |mut values: Vec<u64>| {
        values.sort_unstable();
        values[values.len() / 2]
    };
    let mut times: Vec<f64> = starts.iter().map(|start| start.ms).collect();
    times.sort_by(f64::total_cmp);
    Start {
        ms: times[times.len() / 2],
        exits: middle(starts.iter().map(|start| start.exits).collect()),
        npt_faults: middle(starts.iter().map(|start| start.npt_faults).collect()),
        private_kib: middle(starts.iter().map(|start| start.private_kib).collect()),
    }
}

/// The distance of the slowest from the fastest run, by the fastest.
fn spread_percent(starts: &[Start]) -> f64 {
    let times = || starts.iter().map(|start| start.ms);
    let fastest = times().fold(f64::INFINITY, f64::min);
    (times().fold(0.0, f64::max) - fastest) / fastest * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, times: &[f64]) -> Row {
        let start = |&ms: &f64| Start {
            ms,
            exits: 2000,
            npt_faults: 50,
            private_kib: 1500,
        };
        Row {
            form: "ELF",
            name: name.to_owned(),
            starts: times.iter().map(start).collect(),
        }
    }

    #[test]
    fn times_are_medians_relative_to_qemu() {
        let text = render(&[row("microvm", &[100.0, 80.0, 90.0]), row("QEMU", &[100.0])]);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "ELF", "microvm", "90", "25.0%", "0.900", "2000", "50", "1500"
            ]
        );
    }
}
