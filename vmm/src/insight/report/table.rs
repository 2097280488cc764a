//! The report for people.

use std::fmt::Write as _;

use super::summary::{Bucket, DiskRow, FileRow, Lifetimes, Limits, Summary, Traffic, WorkingSet};
use crate::human::{printable, size};

const TRAFFIC: [&str; 4] = ["READS", "READ", "WRITES", "WRITTEN"];
const BLOCK_BYTES: u64 = disk::CLASS_BLOCK_BYTES;

/// Tables of all that is known, with at most `top` processes and files.
pub(crate) fn table(summary: &Summary, top: usize) -> String {
    let mut text = format!("seen for {}\n", duration(summary.observed_ms));
    disks(&mut text, &summary.disks);
    let head = [&TRAFFIC[..], &["CALLS", "PROCESSES", "EXECUTABLE"]].concat();
    let rows = summary.processes.iter().take(top).map(|row| {
        let counts = [row.calls.to_string(), row.processes.to_string()];
        let name = [printable(&row.executable)];
        [&traffic(row.traffic)[..], &counts, &name].concat()
    });
    section(&mut text, "processes", &head, rows.collect());
    let left = (summary.processes.len().saturating_sub(top)) as u64;
    more(&mut text, left + summary.limits.processes_left_out);

    let names = ["SIZE", "OPENS", "PROCESSES", "ENDED", "FILE"];
    let head = [&TRAFFIC[..], &names].concat();
    let rows = summary.files.iter().take(top).map(file);
    section(&mut text, "files", &head, rows.collect());
    let left = (summary.files.len().saturating_sub(top)) as u64;
    more(&mut text, left + summary.limits.files_left_out);

    lifetimes(&mut text, &summary.lifetimes);
    working_sets(&mut text, &summary.working_sets);
    limits(&mut text, &summary.limits);
    text
}

fn disks(text: &mut String, disks: &[DiskRow]) {
    for disk in disks {
        let head = [&TRAFFIC[..], &["CLASS"]].concat();
        let rows = disk.classes.iter().rev().map(|class| {
            let name = [class.class.clone()];
            [&traffic(class.traffic)[..], &name].concat()
        });
        section(text, &disk.disk, &head, rows.collect());
        let share = |percent: Option<f64>| {
            percent.map_or("-".to_owned(), |percent| format!("{percent:.1}%"))
        };
        let _ = writeln!(
            text,
            "metadata: {} of the bytes read, {} of those written",
            share(disk.metadata_read_percent),
            share(disk.metadata_written_percent)
        );
    }
}

fn file(row: &FileRow) -> Vec<String> {
    let name = match &row.path {
        Some(path) => printable(path),
        None => format!("{}:{}", row.device, row.inode),
    };
    let rest = [
        size(row.size_bytes),
        row.opens.to_string(),
        row.processes.to_string(),
        row.ended.to_string(),
        name,
    ];
    [&traffic(row.traffic)[..], &rest].concat()
}

fn lifetimes(text: &mut String, lifetimes: &Lifetimes) {
    let blocks = &lifetimes.blocks;
    let columns = [
        &lifetimes.files,
        &blocks.overwritten,
        &blocks.truncated,
        &blocks.unlinked,
    ];
    let mut from: Vec<_> = columns.iter().copied().flatten().collect();
    from.sort_unstable_by_key(|bucket| bucket.from_ms);
    from.dedup_by_key(|bucket| bucket.from_ms);
    let rows = from.iter().map(|Bucket { from_ms, .. }| {
        let of = |column: &[Bucket]| {
            let found = column.iter().find(|bucket| bucket.from_ms == *from_ms);
            found.map_or((0, 0), |bucket| (bucket.count, bucket.bytes))
        };
        let (files, bytes) = of(columns[0]);
        let counts = columns[1..].iter().map(|column| of(column).0.to_string());
        let mut row = vec![files.to_string(), size(bytes)];
        row.extend(counts);
        row.push(bucket_name(*from_ms));
        row
    });
    let head = [
        "FILES",
        "SIZE",
        "OVERWRITTEN",
        "TRUNCATED",
        "UNLINKED",
        "LASTED",
    ];
    let title = "lifetimes of files, and of blocks of 4 KiB";
    section(text, title, &head, rows.collect());
    let _ = writeln!(
        text,
        "written and still there: {} files, {} blocks",
        lifetimes.files_alive, blocks.alive
    );
}

fn working_sets(text: &mut String, sets: &[WorkingSet]) {
    let rows = sets.iter().map(|set| {
        let blocks = [
            set.read_blocks,
            set.written_blocks,
            set.mean_read_blocks,
            set.mean_written_blocks,
        ];
        let mut row = blocks
            .map(|blocks| size(blocks.saturating_mul(BLOCK_BYTES)))
            .to_vec();
        row.push(format!("{} s", set.window_s));
        row
    });
    let head = ["READ", "WRITTEN", "MEAN READ", "MEAN WRITTEN", "WINDOW"];
    let title = "working set: different blocks in the last seconds, and on average";
    section(text, title, &head, rows.collect());
}

/// What is missing, as far as anything is.
fn limits(text: &mut String, limits: &Limits) {
    text.push('\n');
    if limits.one_block_in > 1 {
        let one_in = limits.one_block_in;
        let _ = writeln!(text, "blocks are estimated from one in {one_in}");
    }
    for (count, what) in [
        (
            limits.blocks_skipped,
            "blocks not followed, of calls over 16 MiB",
        ),
        (
            limits.files_forgotten,
            "files forgotten for others with more bytes",
        ),
        (
            limits.positions_unknown,
            "reads and writes at unknown places",
        ),
        (
            limits.transfers,
            "copies by the kernel, whose data is not counted",
        ),
        (limits.maps, "mappings, whose data is not counted"),
        (
            limits.unlinks_of_linked,
            "names unlinked whose file has others",
        ),
        (
            limits.unlinks_of_unknown,
            "files unlinked that were not met",
        ),
        (limits.ends_unseen, "files truncated that nobody saw"),
    ] {
        if count > 0 {
            let _ = writeln!(text, "{count} {what}");
        }
    }
}

fn more(text: &mut String, left: u64) {
    if left > 0 {
        let _ = writeln!(text, "and {left} more");
    }
}

fn traffic(traffic: Traffic) -> [String; 4] {
    [
        traffic.reads.to_string(),
        size(traffic.read_bytes),
        traffic.writes.to_string(),
        size(traffic.written_bytes),
    ]
}

/// A title and a table below: columns to the right, but for the last.
fn section(text: &mut String, title: &str, head: &[&str], rows: Vec<Vec<String>>) {
    let _ = write!(text, "\n{title}\n\n");
    let head = head.iter().map(|&name| name.to_owned()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for line in &lines {
        for (number, (cell, width)) in line.iter().zip(&widths).enumerate() {
            if number + 1 < columns {
                let _ = write!(text, "{cell:>width$}  ");
            } else {
                text.push_str(cell);
            }
        }
        text.push('\n');
    }
}

/// What a bucket is called: where it ends.
pub(super) fn bucket_name(from_ms: u64) -> String {
    format!("< {}", duration(from_ms.saturating_mul(2).max(1)))
}

/// Milliseconds, as people read them.
fn duration(ms: u64) -> String {
    let (unit_ms, unit) = match ms {
        0..1000 => return format!("{ms} ms"),
        1000..60_000 => (1000, "s"),
        60_000..3_600_000 => (60_000, "min"),
        3_600_000..86_400_000 => (3_600_000, "h"),
        _ => (86_400_000, "d"),
    };
    format!("{}.{} {unit}", ms / unit_ms, ms % unit_ms * 10 / unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit_that_suits_them() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1024, "1.0 s"),
            (65_536, "1.0 min"),
            (5_400_000, "1.5 h"),
            (u64::MAX, "213503982334.6 d"),
        ] {
            assert_eq!(duration(ms), text);
        }
        assert_eq!(bucket_name(0), "< 1 ms");
        assert_eq!(bucket_name(1), "< 2 ms");
    }

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut text = String::new();
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = vec![row(["1", "10 B", "é"]), row(["1000", "2 B", "long"])];
        section(&mut text, "title", &["N", "SIZE", "NAME"], rows);
        let expected = "\ntitle\n\n   N  SIZE  NAME\n   1  10 B  é\n1000   2 B  long\n";
        assert_eq!(text, expected);
    }
}
