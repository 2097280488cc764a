//! Plots of what was measured.

use std::error::Error;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

const SIZE: (u32, u32) = (1080, 460);
const FONT: &str = "sans-serif";
/// The part of a group's room that its bars take.
const FILLED: f64 = 0.84;
/// The widest line below a group, in characters.
const LABEL_CHARACTERS: usize = 14;

/// Bars of several series, in groups.
pub(super) struct Bars {
    /// Of the file, without its ending.
    pub(super) name: String,
    pub(super) title: String,
    pub(super) series: Vec<String>,
    /// The name of each group, and a value of each series.
    pub(super) groups: Vec<(String, Vec<Option<f64>>)>,
    /// A line across, of what the others are compared to.
    pub(super) line: Option<f64>,
}

impl Bars {
    /// Whether there is anything to see.
    pub(super) fn is_empty(&self) -> bool {
        self.values().next().is_none()
    }

    fn values(&self) -> impl Iterator<Item = f64> {
        self.groups
            .iter()
            .flat_map(|(_, values)| values)
            .flatten()
            .copied()
    }

    /// Writes them to an SVG file.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        self.draw(path)
            .map_err(|error| anyhow!("{}: cannot draw: {error}", path.display()))
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn Error>> {
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let highest = self.values().fold(0.0, f64::max) * 1.15;
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, (FONT, 18))
            .margin(12)
            .x_label_area_size(48)
            .y_label_area_size(56)
            .build_cartesian_2d(0.0..number(self.groups.len()), 0.0..highest.max(1e-9))?;
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh().x_labels(0).draw()?;
        for (n, name) in self.series.iter().enumerate() {
            let color = Palette99::pick(n).mix(0.9);
            let bars = self.bars_of(n);
            let bars = bars.map(|corners| Rectangle::new(corners, color.filled()));
            let drawn = chart.draw_series(bars)?.label(name);
            drawn.legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled())
            });
        }
        if let Some(line) = self.line {
            let ends = [(0.0, line), (number(self.groups.len()), line)];
            chart.draw_series(LineSeries::new(ends, BLACK.mix(0.6)))?;
        }
        let mut labels = chart.configure_series_labels();
        labels
            .background_style(WHITE.mix(0.8))
            .label_font((FONT, 13))
            .draw()?;
        self.draw_names(&root, chart.plotting_area())?;
        root.present()?;
        Ok(())
    }

    /// The corners of a series' bars.
    fn bars_of(&self, series: usize) -> impl Iterator<Item = [(f64, f64); 2]> {
        let width = FILLED / number(self.series.len());
        let groups = self.groups.iter().enumerate();
        groups.filter_map(move |(group, (_, values))| {
            let left = number(group) + (1.0 - FILLED) / 2.0 + width * number(series);
            let value = (*values.get(series)?)?;
            Some([(left, 0.0), (left + width * 0.92, value)])
        })
    }

    /// The names of the groups, below them.
    fn draw_names<C>(
        &self,
        root: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
        area: &DrawingArea<SVGBackend<'_>, C>,
    ) -> Result<(), Box<dyn Error>>
    where
        C: CoordTranslate<From = (f64, f64)>,
    {
        let style = (FONT, 13).into_font().into_text_style(root);
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        ));
        for (group, (name, _)) in self.groups.iter().enumerate() {
            let (x, y) = area.map_coordinate(&(number(group) + 0.5, 0.0));
            for (line, y) in lines(name).into_iter().zip((y + 6..).step_by(15)) {
                root.draw_text(&line, &style, (x, y))?;
            }
        }
        Ok(())
    }
}

/// A name in lines that are not too wide.
fn lines(name: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in name.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < LABEL_CHARACTERS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[expect(clippy::cast_precision_loss, reason = "there are few")]
fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_a_bar_of_its_height() {
        let bars = Bars {
            name: "rates".to_owned(),
            title: "flushes a second".to_owned(),
            series: vec!["ours".to_owned(), "QEMU".to_owned()],
            groups: vec![
                ("alloc random 4K".to_owned(), vec![Some(2.0), Some(1.0)]),
                ("overwrite 4K".to_owned(), vec![None, Some(1.0)]),
            ],
            line: Some(1.0),
        };
        let heights = |series| {
            bars.bars_of(series)
                .map(|[_, (_, top)]| top)
                .collect::<Vec<_>>()
        };
        assert_eq!(heights(0), [2.0]);
        assert_eq!(heights(1), [1.0, 1.0]);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rates.svg");
        bars.write(&path).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for text in ["flushes a second", "alloc random", "QEMU", "overwrite 4K"] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn names_are_broken_between_words() {
        assert_eq!(
            lines("alloc random 4K, 4 clients"),
            ["alloc random", "4K, 4 clients"]
        );
        assert_eq!(
            lines("a-name-that-is-too-long"),
            ["a-name-that-is-too-long"]
        );
    }
}
