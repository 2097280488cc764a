//! The report as pictures: one SVG with a panel of bars for each part.

use std::fmt::Write as _;

use super::summary::{Bucket, Summary};
use super::table::bucket_name;
use crate::human::{float, size};

const WIDTH: f64 = 960.0;
const PANEL_HEIGHT: f64 = 300.0;
/// Around the bars of a panel.
const LEFT: f64 = 90.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 48.0;
/// The part of a group's room that its bars take.
const FILLED: f64 = 0.8;
const LINES: u32 = 4;
/// Distinguished by people who see colours in other ways, too (Okabe and Ito, 2008).
const COLORS: [&str; 4] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"];
const BLOCK_BYTES: u64 = disk::CLASS_BLOCK_BYTES;

/// Bars of several series, in groups.
struct Panel {
    title: String,
    series: Vec<&'static str>,
    /// The name of each group, and a value of each series.
    groups: Vec<(String, Vec<u64>)>,
    /// Whether values are bytes.
    bytes: bool,
}

/// An SVG file of all that can be drawn.
pub(crate) fn plot(summary: &Summary) -> String {
    let panels: Vec<_> = disk_panels(summary)
        .chain([files(summary), blocks(summary), working_sets(summary)])
        .filter(|panel| !panel.groups.is_empty())
        .collect();
    let height = PANEL_HEIGHT * float(panels.len().max(1) as u64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    if panels.is_empty() {
        svg.push_str("<text x=\"20\" y=\"30\">nothing was seen yet</text>\n");
    }
    for (number, panel) in panels.iter().enumerate() {
        let y = PANEL_HEIGHT * float(number as u64);
        let _ = writeln!(svg, "<g transform=\"translate(0 {y})\">");
        panel.draw(&mut svg);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn disk_panels(summary: &Summary) -> impl Iterator<Item = Panel> {
    summary.disks.iter().map(|disk| {
        let groups = disk.classes.iter().rev().map(|class| {
            let values = vec![class.traffic.read_bytes, class.traffic.written_bytes];
            (class.class.clone(), values)
        });
        Panel {
            title: format!("{}: bytes by class", disk.disk),
            series: vec!["read", "written"],
            groups: groups.collect(),
            bytes: true,
        }
    })
}

fn files(summary: &Summary) -> Panel {
    Panel {
        title: "Files by how long they lasted".to_owned(),
        series: vec!["files"],
        groups: by_lifetime(&[&summary.lifetimes.files]),
        bytes: false,
    }
}

fn blocks(summary: &Summary) -> Panel {
    let blocks = &summary.lifetimes.blocks;
    Panel {
        title: "Bytes by how long they lasted until they were".to_owned(),
        series: vec!["overwritten", "truncated", "unlinked"],
        groups: by_lifetime(&[&blocks.overwritten, &blocks.truncated, &blocks.unlinked])
            .into_iter()
            .map(|(name, counts)| {
                let bytes = counts.iter().map(|count| count.saturating_mul(BLOCK_BYTES));
                (name, bytes.collect())
            })
            .collect(),
        bytes: true,
    }
}

/// Counts by duration, also where there is nothing between two.
fn by_lifetime(columns: &[&[Bucket]]) -> Vec<(String, Vec<u64>)> {
    let all = || {
        columns
            .iter()
            .copied()
            .flatten()
            .map(|bucket| bucket.from_ms)
    };
    let (Some(first), Some(last)) = (all().min(), all().max()) else {
        return Vec::new();
    };
    let next = |from_ms: &u64| Some(from_ms.saturating_mul(2).max(1));
    std::iter::successors(Some(first), next)
        .take_while(|from_ms| *from_ms <= last)
        .map(|from_ms| {
            let of = |column: &&[Bucket]| {
                let found = column.iter().find(|bucket| bucket.from_ms == from_ms);
                found.map_or(0, |bucket| bucket.count)
            };
            (bucket_name(from_ms), columns.iter().map(of).collect())
        })
        .collect()
}

fn working_sets(summary: &Summary) -> Panel {
    let groups = summary.working_sets.iter().map(|set| {
        let blocks = [set.mean_read_blocks, set.mean_written_blocks];
        let bytes = blocks.map(|blocks| blocks.saturating_mul(BLOCK_BYTES));
        (format!("{} s", set.window_s), bytes.to_vec())
    });
    Panel {
        title: "Working set by window, on average".to_owned(),
        series: vec!["read", "written"],
        groups: groups.collect(),
        bytes: true,
    }
}

impl Panel {
    fn draw(&self, svg: &mut String) {
        let title = escape(&self.title);
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>"
        );
        self.draw_legend(svg);
        let values = self.groups.iter().flat_map(|(_, values)| values);
        let highest = float(values.copied().max().unwrap_or_default().max(1));
        self.draw_lines(svg, highest);
        let room = (WIDTH - LEFT - RIGHT) / float(self.groups.len() as u64);
        let bottom = PANEL_HEIGHT - BOTTOM;
        let bar = room * FILLED / float(self.series.len() as u64);
        for (number, (name, values)) in (0..).zip(&self.groups) {
            let left = LEFT + room * float(number);
            let middle = left + room / 2.0;
            let _ = writeln!(
                svg,
                "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" \
                 font-size=\"10\">{}</text>",
                bottom + 16.0,
                escape(name)
            );
            for ((number, value), color) in (0..).zip(values).zip(COLORS) {
                let height = float(*value) / highest * (bottom - TOP);
                let x = left + room * (1.0 - FILLED) / 2.0 + bar * float(number);
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{bar:.1}\" height=\"{height:.1}\" \
                     fill=\"{color}\"><title>{}</title></rect>",
                    bottom - height,
                    self.shown(*value)
                );
            }
        }
    }

    fn draw_legend(&self, svg: &mut String) {
        for ((number, name), color) in (0..).zip(&self.series).zip(COLORS) {
            let x = LEFT + 110.0 * float(number);
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{color}\"/>\
                 <text x=\"{}\" y=\"41\">{name}</text>",
                x + 15.0
            );
        }
    }

    /// Lines across, with what they stand for.
    fn draw_lines(&self, svg: &mut String, highest: f64) {
        for number in 0..=LINES {
            let part = f64::from(number) / f64::from(LINES);
            let y = PANEL_HEIGHT - BOTTOM - part * (PANEL_HEIGHT - BOTTOM - TOP);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                y + 4.0,
                self.shown_on_axis(part * highest)
            );
        }
    }

    fn shown(&self, value: u64) -> String {
        if self.bytes {
            size(value)
        } else {
            value.to_string()
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a part of a value that is none of these"
    )]
    fn shown_on_axis(&self, value: f64) -> String {
        if self.bytes {
            size(value as u64)
        } else {
            format!("{value:.1}")
        }
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::summary::{DiskRow, WorkingSet};
    use super::*;

    fn bucket(from_ms: u64, count: u64) -> Bucket {
        Bucket {
            from_ms,
            count,
            bytes: 0,
        }
    }

    #[test]
    fn durations_between_two_are_there_with_nothing_in_them() {
        let groups = by_lifetime(&[&[bucket(0, 3), bucket(4, 1)], &[bucket(1, 2)]]);
        let expected = [
            ("< 1 ms", [3, 0]),
            ("< 2 ms", [0, 2]),
            ("< 4 ms", [0, 0]),
            ("< 8 ms", [1, 0]),
        ];
        let seen: Vec<_> = groups
            .iter()
            .map(|(name, counts)| (name.as_str(), [counts[0], counts[1]]))
            .collect();
        assert_eq!(seen, expected);
        assert_eq!(by_lifetime(&[&[], &[]]), []);
    }

    #[test]
    fn each_part_is_a_panel_with_a_bar_for_each_value() {
        let mut summary = Summary::default();
        assert!(plot(&summary).contains("nothing was seen"));
        let disk = "a<b".to_owned();
        summary.disks = vec![DiskRow::new(disk, &disk::ClassStatistics::default())];
        summary.lifetimes.files = vec![bucket(0, 5)];
        summary.working_sets = vec![WorkingSet {
            window_s: 1,
            read_blocks: 0,
            written_blocks: 0,
            mean_read_blocks: 256,
            mean_written_blocks: u64::MAX,
        }];
        let svg = plot(&summary);
        assert_eq!(svg.matches("<g ").count(), 3);
        assert_eq!(svg.matches("</g>").count(), 3);
        assert_eq!(svg.matches("<title>").count(), 12 + 1 + 2);
        assert!(svg.contains("a&lt;b: bytes by class"), "{svg}");
        assert!(svg.contains("<title>1 MiB</title>"), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
