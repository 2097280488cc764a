//! `cargo xtask bench model`: the papers' tables on modelled devices, in virtual time.
//!
//! ```text
//!   workload ─> guest: ext4, jbd2 ─> disk: raw │ qcow2 in each order ─> host: ext4 ─┐
//!   mail, database, ...              (the engine itself)                            ├─> device
//!                                              another machine's file ──────────────┘
//! ```
//! The engine is the one that people use; what is around it are small models, which each say what
//! they model. Only the device takes time, by [`disk::LatencyModel`]: no processor does. So the
//! figures tell what an order of metadata costs in waiting, on devices that are not here. They are
//! the same in every run.
//!
//! There is no QEMU here. Its qcow2 is stood for by `clusters`, our ordered mode with metadata
//! written by whole clusters ([`host::clusters`]). The papers' QEMU 2.1.2 also made syncs that had
//! nothing to do (each flush of a guest came to three or four); they are left out, for no model says
//! what such a sync costs a device. So the papers' gains hold more than those here.
//!
//! What else is missing: a bandwidth that channels share, a scheduler that puts requests to a disk
//! with heads in order, and the host's page cache, in which writes wait for a sync: here, each goes
//! to the device at once.

mod contender;
mod guest;
mod host;
mod neighbour;
mod papers;
pub(super) mod random;
mod run;
mod table;
mod workload;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;

use super::report::{Report, Section};
use contender::{Contender, Images};
use run::{Case, Limit};
use table::Row;

#[derive(Args)]
pub(crate) struct Arguments {
    /// Only rows whose names hold this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// How long each run goes on at most, in virtual seconds
    #[arg(long, value_name = "N", default_value_t = 20,
          value_parser = clap::value_parser!(u64).range(1..))]
    seconds_virtual: u64,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let has_name = |case: &Case| case.to_string().contains(&arguments.only);
    let cases: Vec<Case> = Case::all().into_iter().filter(has_name).collect();
    ensure!(!cases.is_empty(), "no row holds {:?}", arguments.only);
    let limit = Limit {
        duration: Duration::from_secs(arguments.seconds_virtual),
        operations: u32::MAX,
    };
    let rows = measure(&cases, limit)?;
    report.add(Section {
        title: "Orders of metadata, on modelled devices".to_owned(),
        tables: format!("{}\n{}", table::render(&rows), papers::render(&rows)),
        charts: vec![table::chart(&rows)],
    });
    Ok(())
}

/// Runs every case on every disk. Each processor takes the next case; a case takes the same
/// virtual time on any.
fn measure(cases: &[Case], limit: Limit) -> Result<Vec<Row>> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Row)>> {
        let mut images = Images::default();
        let mut rows = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(number) else {
                return Ok(rows);
            };
            rows.push((number, measure_case(*case, &mut images, limit)?));
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let results = thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let ended = started.into_iter().map(thread::ScopedJoinHandle::join);
        ended.collect::<Vec<_>>()
    });
    let mut rows = Vec::new();
    for result in results {
        rows.extend(result.ok().context("a run panicked")??);
    }
    rows.sort_by_key(|(number, _)| *number);
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

fn measure_case(case: Case, images: &mut Images, limit: Limit) -> Result<Row> {
    let mut outcomes = [None; Contender::ALL.len()];
    for (outcome, contender) in outcomes.iter_mut().zip(Contender::ALL) {
        *outcome = case
            .run(contender, images, limit)
            .with_context(|| format!("{case} on {}", contender.name()))?;
    }
    Ok(Row { case, outcomes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_the_same_every_time() {
        let limit = Limit {
            duration: Duration::from_secs(2),
            operations: 40,
        };
        let cases = Case::all();
        let table = || table::render(&measure(&cases, limit).unwrap());
        let first = table();
        assert_eq!(first.lines().count(), cases.len() + 2);
        assert_eq!(first, table());
    }
}
