//! The results as a table.

use std::fmt::Write as _;

use ::disk::Order;

use super::contender::Contender;
use super::run::{Case, Outcome};
use crate::bench::chart::Bars;

pub(super) const RAW: Contender = Contender::Raw;
pub(super) const JOURNAL: Contender = Contender::Ours(Order::Journal);
pub(super) const ORDERED: Contender = Contender::Ours(Order::Ordered);
pub(super) const BARRIER: Contender = Contender::Ours(Order::Barrier);
pub(super) const CLUSTERS: Contender = Contender::Clusters;

/// Which rate by which.
const RATIOS: [(Contender, Contender); 5] = [
    (JOURNAL, ORDERED),
    (BARRIER, ORDERED),
    (JOURNAL, RAW),
    (JOURNAL, CLUSTERS),
    (BARRIER, CLUSTERS),
];

/// A case, and what came of it on each disk that there is, in the order of [`Contender::ALL`].
pub(super) struct Row {
    pub(super) case: Case,
    pub(super) outcomes: [Option<Outcome>; Contender::ALL.len()],
}

impl Row {
    pub(super) fn outcome(&self, of: Contender) -> Option<Outcome> {
        let at = Contender::ALL.iter().position(|other| *other == of)?;
        self.outcomes[at]
    }

    /// The rate of one disk by that of another.
    pub(super) fn ratio(&self, above: Contender, below: Contender) -> Option<f64> {
        Some(self.outcome(above)?.rate / self.outcome(below)?.rate)
    }
}

/// Ratios first, then operations a second, host syncs a flush (of a raw image one), and how often
/// the journal was emptied.
pub(super) fn render(rows: &[Row]) -> String {
    let mut heads = [format!("{:<41}", ""), format!("{:<41}", "")];
    for (above, below) in RATIOS {
        let _ = write!(heads[0], " {:>8}", format!("{}/", above.name()));
        let _ = write!(heads[1], " {:>8}", below.name());
    }
    let synced = &Contender::ALL[1..];
    for (title, contenders) in [
        ("operations a second", &Contender::ALL[..]),
        ("host syncs a flush", synced),
    ] {
        let width = 9 * contenders.len();
        let _ = write!(heads[0], " | {title:<width$}");
        heads[1].push_str(" | ");
        for contender in contenders {
            let _ = write!(heads[1], " {:>8}", contender.name());
        }
    }
    let [first, second] = heads;
    let mut text = format!("{first} | check-\n{second} | points\n");
    for row in rows {
        render_row(row, &mut text);
    }
    text
}

/// A plot of the ratios.
pub(super) fn chart(rows: &[Row]) -> Bars {
    let group = |row: &Row| {
        let ratios = RATIOS.map(|(above, below)| row.ratio(above, below));
        (row.case.to_string(), ratios.to_vec())
    };
    let name =
        |(above, below): &(Contender, Contender)| format!("{}/{}", above.name(), below.name());
    Bars {
        name: "model rates".to_owned(),
        title: "operations a second, one order by another".to_owned(),
        series: RATIOS.iter().map(name).collect(),
        groups: rows.iter().map(group).collect(),
        line: Some(1.0),
    }
}

fn render_row(row: &Row, text: &mut String) {
    let _ = write!(text, "{:<41}", row.case.to_string());
    for (above, below) in RATIOS {
        let _ = write!(text, " {:>8}", number(row.ratio(above, below), 2));
    }
    text.push_str(" | ");
    for outcome in row.outcomes {
        let rate = outcome.map(|outcome| outcome.rate);
        let _ = write!(text, " {:>8}", number(rate, 0));
    }
    text.push_str(" | ");
    for outcome in &row.outcomes[1..] {
        let syncs = outcome.map(|outcome| outcome.syncs_a_flush);
        let _ = write!(text, " {:>8}", number(syncs, 2));
    }
    let journal = row.outcome(JOURNAL);
    let checkpoints = journal.map_or(0, |outcome| outcome.checkpoints);
    let _ = writeln!(text, " | {checkpoints:>6}");
}

/// A number with so many places, or a dash.
fn number(number: Option<f64>, places: usize) -> String {
    number.map_or("-".to_owned(), |number| format!("{number:.places$}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A row with these rates, of which 0 is none.
    pub(in super::super) fn row(case: Case, rates: [f64; 5]) -> Row {
        let outcome = |rate| Outcome {
            rate,
            syncs_a_flush: 1.5,
            checkpoints: 7,
        };
        Row {
            case,
            outcomes: rates.map(|rate| (rate > 0.0).then(|| outcome(rate))),
        }
    }

    #[test]
    fn ratios_are_of_the_disks_that_they_name() {
        let row = row(Case::all()[0], [400.0, 300.0, 200.0, 0.0, 100.0]);
        let text = render(&[row]);
        let line = text.lines().nth(2).unwrap();
        let words: Vec<_> = line.split_whitespace().collect();
        assert_eq!(words[..5], ["varmail", "new", "alone", "SATA", "SSD"]);
        assert_eq!(words[5..10], ["1.50", "-", "0.75", "3.00", "-"]);
        assert_eq!(words[11..16], ["400", "300", "200", "-", "100"]);
        assert_eq!(words[17..], ["1.50", "1.50", "-", "1.50", "|", "7"]);
    }
}
