//! What was measured, in lines.

use std::fmt::Write as _;

use ::tests::loads::Load;

use super::measure::{Cache, Measured};

/// A guest's load and cache, and what was seen.
pub(super) struct Row {
    pub(super) load: Load,
    /// The cache, with its size in hundredths of the data.
    pub(super) cache: Option<(Cache, u64)>,
    pub(super) measured: Measured,
}

impl Row {
    fn name(&self) -> String {
        match self.cache {
            None => "none".to_owned(),
            Some((cache, _)) if cache.has_classes => format!("{}, classes", cache.policy),
            Some((cache, _)) => cache.policy.to_owned(),
        }
    }

    /// The same load and cache, without classes.
    fn without_classes<'a>(&self, rows: &'a [Self]) -> Option<&'a Self> {
        let (cache, percent) = self.cache.filter(|(cache, _)| cache.has_classes)?;
        let plain = Cache {
            has_classes: false,
            ..cache
        };
        let is_plain = |row: &&Self| (row.load, row.cache) == (self.load, Some((plain, percent)));
        rows.iter().find(is_plain)
    }
}

/// How many times slower a guest's processor is in the lab than on a real host, about.
const SLOWER: u64 = 25;

impl Measured {
    /// How long it would take where the processor is as fast as a real one, and the storage as slow, if
    /// neither worked while the other did.
    fn estimated_ns(&self) -> u64 {
        self.slow.busy_ns + self.worked_ns / SLOWER
    }
}

/// A line for each row; ratios are to the same cache without classes.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<4} {:>5} {:<16} {:>9} {:>6} {:>6} {:>5} {:>6} {:>5} {:>9}  {:>7} {:>6} {:>6}\n",
        "",
        "cache",
        "",
        "elapsed s",
        "busy s",
        "reads",
        "MiB",
        "writes",
        "hits",
        "metadata",
        "elapsed",
        "busy",
        "real"
    );
    for row in rows {
        line(&mut text, row, rows);
    }
    text
}

fn line(text: &mut String, row: &Row, rows: &[Row]) {
    let measured = &row.measured;
    let size = row
        .cache
        .map_or(String::new(), |(_, percent)| format!("{percent}%"));
    let percent = |part: u64, whole: u64| match (part * 100).checked_div(whole) {
        Some(percent) => format!("{percent}%"),
        None => "-".to_owned(),
    };
    let _ = write!(
        text,
        "{:<4} {size:>5} {:<16} {:>9.1} {:>6.1} {:>6} {:>5} {:>6} {:>5} {:>9}",
        row.load.name(),
        row.name(),
        seconds(measured.ns),
        seconds(measured.slow.busy_ns),
        measured.slow.reads,
        measured.slow.read_bytes >> 20,
        measured.slow.writes,
        percent(measured.hits, measured.blocks),
        percent(measured.metadata_hits, measured.metadata),
    );
    if let Some(plain) = row.without_classes(rows) {
        let plain = &plain.measured;
        let _ = write!(
            text,
            "  {:>7.2} {:>6.2} {:>6.2}",
            ratio(plain.ns, measured.ns),
            ratio(plain.slow.busy_ns, measured.slow.busy_ns),
            ratio(plain.estimated_ns(), measured.estimated_ns())
        );
    }
    text.push('\n');
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ratio(plain: u64, classes: u64) -> f64 {
    plain as f64 / classes.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::super::counts::Counts;
    use super::*;

    #[test]
    fn ratios_are_to_the_same_cache_without_classes() {
        let row = |cache, ns| Row {
            load: Load::Find,
            cache,
            measured: Measured {
                ns,
                worked_ns: ns / 2,
                slow: Counts {
                    busy_ns: ns / 4,
                    ..Counts::default()
                },
                ..Measured::default()
            },
        };
        let cache = |has_classes, percent| {
            let policy = "s3-fifo";
            Some((
                Cache {
                    policy,
                    has_classes,
                },
                percent,
            ))
        };
        let rows = [
            row(None, 90_000_000_000),
            row(cache(false, 1), 60_000_000_000),
            row(cache(false, 5), 30_000_000_000),
            row(cache(true, 5), 10_000_000_000),
        ];
        let text = table(&rows);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 5);
        assert!(lines[4].ends_with("3.00   3.00   3.00"), "{text}");
        assert!(!lines[3].contains("0.00"), "{text}");
    }
}
