//! Loads by contenders: figures of them as a table, and as a plot.

use std::fmt::Write as _;

use super::chart::Bars;

/// Wide enough for a title.
const TITLE_WIDTH: usize = 34;

/// What was measured of each contender with each load.
pub(super) struct Grid<'a, T> {
    /// The contenders.
    pub(super) names: &'a [&'a str],
    /// The loads by their names; of each, the contenders in the same order.
    pub(super) rows: Vec<(String, &'a [T])>,
}

impl<T> Grid<'_, T> {
    /// A table of one figure, if any cell has it. A cell is made of its row and of what is in it.
    pub(super) fn table(
        &self,
        title: &str,
        cell: impl Fn(&[T], &T) -> Option<String>,
    ) -> Option<String> {
        let mut text = format!("{title:<TITLE_WIDTH$}");
        for name in self.names {
            let _ = write!(text, " {name:>12}");
        }
        text.push('\n');
        let mut is_empty = true;
        for (name, row) in &self.rows {
            let _ = write!(text, "{name:<TITLE_WIDTH$}");
            for one in *row {
                let cell = cell(row, one);
                is_empty &= cell.is_none();
                let _ = write!(text, " {:>12}", cell.as_deref().unwrap_or("-"));
            }
            text.push('\n');
        }
        (!is_empty).then_some(text)
    }

    /// A plot of one figure, with a line at 1.
    pub(super) fn bars(
        &self,
        name: String,
        title: String,
        figure: impl Fn(&[T], &T) -> Option<f64>,
    ) -> Bars {
        let group = |(name, row): &(String, &[T])| {
            let values = row.iter().map(|one| figure(row, one));
            (name.clone(), values.collect())
        };
        Bars {
            name,
            title,
            series: self.names.iter().map(ToString::to_string).collect(),
            groups: self.rows.iter().map(group).collect(),
            line: Some(1.0),
        }
    }
}
