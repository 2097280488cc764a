//! Checking an image that nobody uses, and repairing it.
//!
//! A pass walks everything that the header leads to, counts the references of each cluster, and
//! compares them with the refcounts. What it finds wrong with single entries it also knows how to
//! put right. Repairing is a pass, its fixes, and the next pass, until nothing is left to fix.
//!
//! ```text
//!   header ─ refcount table ─ refcount blocks
//!          ├ L1 table ─┐
//!          ├ snapshots ┴ L1 tables ─ L2 tables ─ data
//!          └ bitmaps ─ tables ─ bits
//! ```

mod bitmaps;
mod l1;
mod l2;
mod mend;
mod metadata;
mod pass;
mod refcounts;
mod repair;

use super::{file, journal};
use crate::{CheckReport, Error, Repair, Storage};
use pass::Pass;

/// How often there can be something more to fix: entries, then refcounts, then COPIED flags that
/// follow from them, then what a dropped entry has leaked.
const ROUNDS: u32 = 4;

/// Checks the image on `storage`, and repairs what `repair` allows. An error means that the check
/// could not be done at all. An image that was not closed must be recovered before: nothing of it
/// is checked or repaired, and the report says so.
pub async fn check(storage: &impl Storage, repair: Repair) -> Result<CheckReport, Error> {
    let header = file::read_header(storage).await?;
    if let Some(report) = journal::check_report(storage, &header).await? {
        return Ok(report);
    }
    let mut pass = Pass::run(storage, header).await?;
    if repair == Repair::None {
        return Ok(pass.report);
    }
    let before = pass.report.clone();
    for round in 0..ROUNDS {
        if !repair::repair(storage, &pass, repair, round).await? {
            break;
        }
        pass = Pass::run(storage, file::read_header(storage).await?).await?;
    }
    let mut report = pass.report;
    if report.corruptions == 0 && report.check_errors == 0 {
        repair::clear_marks(storage, &pass.header).await?;
    }
    report.corruptions_fixed = before.corruptions.saturating_sub(report.corruptions);
    report.leaks_fixed = before.leaks.saturating_sub(report.leaks);
    report.repaired = before.findings;
    Ok(report)
}

#[cfg(test)]
mod tests;
