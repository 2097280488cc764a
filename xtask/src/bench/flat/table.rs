//! The result of a benchmark of flat images as tables.

use super::requests::{Cell, Row};
use crate::bench::chart::Bars;
use crate::bench::contender::RAW;
use crate::bench::figures::{median, ratio, spread_percent};
use crate::bench::grid::Grid;
use crate::bench::sync::Measured;

/// What part of a raw image's rate a flat one that stands alone should have.
const MARK: f64 = 0.97;
/// Its column.
const FLAT: &str = "flat";

/// Loads by contenders, for each figure; ratios to a raw image first. A figure that nobody has is
/// left out.
pub(super) fn render(names: &[&str], rows: &[Row]) -> String {
    let grid = grid(names, rows);
    let ratios = grid.table("requests a second, x ours raw", |row, cell| {
        Some(format!("{:.2}", times_raw(names, row, cell.as_ref()?)?))
    });
    let rates = grid.table("requests a second", |_, cell| {
        let rates = &cell.as_ref()?.rates;
        let (middle, spread) = (median(rates.clone()), spread_percent(rates));
        Some(format!("{middle:.0} ±{spread:>2.0}%"))
    });
    let cpu = grid.table("server CPU a request, x ours raw", |row, cell| {
        let raw = row[position(names, RAW)?].as_ref()?.cpu_us.as_ref()?;
        let ratio = ratio(cell.as_ref()?.cpu_us.as_ref()?, raw);
        Some(format!("{ratio:.2}"))
    });
    let mut parts = vec![ratios, Some(below_mark(names, rows)), rates, cpu];
    parts.extend(counts(names, rows));
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    parts.join("\n")
}

/// What a write cost, and a flush.
fn counts(names: &[&str], rows: &[Row]) -> [Option<String>; 4] {
    let writes: Vec<&Row> = rows.iter().filter(|row| has_counts(row)).collect();
    let flushes = writes.iter().copied().filter(|row| row.flush);
    let flushes = grid(names, flushes);
    let writes = grid(names, writes.iter().copied());
    let part = |grid: &Grid<'_, _>, title: &str, figure: fn(&Measured) -> Option<f64>, digits| {
        grid.table(title, |_, cell: &Option<Cell>| {
            let figure = figure(cell.as_ref()?.writes.as_ref()?)?;
            Some(format!("{figure:.digits$}"))
        })
    };
    [
        part(
            &writes,
            "metadata bytes a write",
            |one| one.own?.metadata_bytes_per_write,
            0,
        ),
        part(
            &writes,
            "KiB on the device a write",
            |one| Some(one.counts.device_bytes? / 1024.0),
            1,
        ),
        part(
            &flushes,
            "host syncs a flush",
            |one| one.counts.host_syncs,
            2,
        ),
        part(
            &flushes,
            "the same by own counters",
            |one| one.own?.syncs_per_flush,
            2,
        ),
    ]
}

/// Says where a flat image is slower than it should be.
fn below_mark(names: &[&str], rows: &[Row]) -> String {
    let slow = |row: &Row| {
        let flat = row.cells[position(names, FLAT)?].as_ref()?;
        let ratio = times_raw(names, &row.cells, flat).filter(|&ratio| ratio < MARK)?;
        Some(format!("  {} ({ratio:.2})\n", row.name))
    };
    let slow: Vec<String> = rows.iter().filter_map(slow).collect();
    match &slow[..] {
        [] => format!("flat is at least {MARK} of raw everywhere\n"),
        slow => format!("flat is below {MARK} of raw at\n{}", slow.concat()),
    }
}

/// A plot of the ratios.
pub(super) fn charts(ground: &str, names: &[&str], rows: &[Row]) -> Vec<Bars> {
    vec![grid(names, rows).bars(
        format!("flat {ground} rates"),
        format!("{ground}: requests a second, times a raw image's"),
        |row, cell| times_raw(names, row, cell.as_ref()?),
    )]
}

fn grid<'a>(names: &'a [&str], rows: impl IntoIterator<Item = &'a Row>) -> Grid<'a, Option<Cell>> {
    let rows = rows.into_iter();
    Grid {
        names,
        rows: rows.map(|row| (row.name.clone(), &row.cells[..])).collect(),
    }
}

fn has_counts(row: &Row) -> bool {
    row.cells.iter().flatten().any(|cell| cell.writes.is_some())
}

fn times_raw(names: &[&str], row: &[Option<Cell>], cell: &Cell) -> Option<f64> {
    let raw = row[position(names, RAW)?].as_ref()?;
    Some(ratio(&cell.rates, &raw.rates))
}

fn position(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|&one| one == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = [RAW, FLAT, "flat + base"];

    fn row(name: &str, flat: [f64; 3]) -> Row {
        let cell = |rates: [f64; 3]| {
            Some(Cell {
                rates: rates.to_vec(),
                cpu_us: None,
                writes: None,
            })
        };
        Row {
            name: name.to_owned(),
            flush: false,
            cells: vec![cell([100.0, 200.0, 100.0]), cell(flat), None],
        }
    }

    #[test]
    fn ratios_are_to_a_raw_image_in_the_same_round() {
        let text = render(&NAMES, &[row("read", [97.0, 195.0, 98.0])]);
        let line = text.lines().nth(1).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words, ["read", "1.00", "0.97", "-"]);
        assert!(text.contains("at least 0.97 of raw everywhere"));
        assert!(!text.contains("metadata"), "nothing was counted");
    }

    #[test]
    fn loads_below_the_mark_are_named() {
        let rows = [
            row("read", [100.0, 200.0, 100.0]),
            row("write", [90.0, 150.0, 92.0]),
        ];
        let text = render(&NAMES, &rows);
        assert!(text.contains("below 0.97 of raw at\n  write (0.90)\n"));
    }
}
