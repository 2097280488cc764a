//! `image check`: errors of an image, and their repair.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use disk::journal::RecoveryReport;
use disk::{CheckReport, Error, Finding, Format, Layer, Severity, Storage, flat, qcow2};
use serde::Serialize;

use super::arguments::{Output, write_options};
use crate::human;
use crate::notice::notice;

/// The status that says that the format has nothing to check.
const NO_CHECK: u8 = 63;

/// Where a qcow2 header has the offsets of the L1, refcount and snapshot tables.
const TABLE_FIELDS: [u64; 3] = [40, 48, 64];

/// The arguments of `image check`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Format of the image; there is nothing to check in a raw one
    #[arg(short = 'f', long = "format", value_name = "FMT")]
    format: Option<Format>,

    /// Repair what is wrong
    #[arg(short = 'r', long, value_enum, value_name = "WHAT")]
    repair: Option<Repair>,

    /// Open an image that is in use, which may seem to have errors while it changes
    #[arg(short = 'U', long, conflicts_with = "repair")]
    force_share: bool,

    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Output,

    /// Print nothing but errors
    #[arg(short = 'q', long)]
    quiet: bool,

    /// The image
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// What may be repaired.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Repair {
    /// Only space that is taken for nothing.
    Leaks,
    /// Everything, even where that means to choose what is right.
    All,
}

/// QEMU's `ImageCheck` (`qapi/block-core.json`), where 0 is left out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Checked {
    filename: String,
    format: String,
    check_errors: u64,
    image_end_offset: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks: u64,
    #[serde(skip_serializing_if = "is_zero")]
    corruptions_fixed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    leaks_fixed: u64,
    #[serde(skip_serializing_if = "is_zero")]
    total_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    allocated_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    fragmented_clusters: u64,
    #[serde(skip_serializing_if = "is_zero")]
    compressed_clusters: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Checks the image; returns what `qemu-img check` would.
pub(super) async fn run(arguments: &Arguments) -> Result<u8> {
    let options = write_options(&arguments.file, arguments.format)
        .read_only(arguments.repair.is_none())
        .share_all(arguments.force_share)
        .layers_max(1);
    let chain = match options.chain().await {
        Err(error) => {
            let report = lost_table(&error).ok_or(error)?;
            return arguments.conclude(Format::Qcow2, &report);
        }
        Ok(chain) => chain,
    };
    let image = &chain.layers()[0];
    arguments.end_journal(image).await?;
    let repair = arguments.repair.map_or(disk::Repair::None, Into::into);
    let report = match image.format {
        Format::Raw => {
            let file = arguments.file.display();
            notice(&format!(
                "microvm: {file}: a raw image has nothing to check\n"
            ));
            return Ok(NO_CHECK);
        }
        Format::Qcow2 => qcow2::check(&image.storage, repair).await?,
        Format::Flat => flat::check(&image.storage, repair).await?,
    };
    image.storage.close();
    arguments.conclude(image.format, &report)
}

impl From<Repair> for disk::Repair {
    fn from(repair: Repair) -> Self {
        match repair {
            Repair::Leaks => Self::Leaks,
            Repair::All => Self::All,
        }
    }
}

impl Arguments {
    /// Brings home what the journal of an image holds that was not closed, if it is to be repaired:
    /// only then is there anything to be checked. A damaged journal is given up if all is to be
    /// repaired.
    async fn end_journal(&self, image: &Layer) -> Result<()> {
        let Some(repair) = self.repair else {
            return Ok(());
        };
        let (file, storage) = (self.file.display(), &image.storage);
        match image.inspect_journal().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => {
                let recovered = match image.format {
                    Format::Flat => flat::recover(storage).await?,
                    _ => qcow2::recover(storage).await?,
                };
                if let Some(report) = recovered {
                    self.note_recovery(&report);
                }
                Ok(())
            }
            Err(damage @ Error::Damaged { .. }) if matches!(repair, Repair::All) => {
                notice(&format!(
                    "warning: {damage}: the journal is given up. The last writes before the image \
                     was left open may be lost, even flushed ones, and parts of the disk may read \
                     as what was there before, or as other data\n"
                ));
                match image.format {
                    Format::Flat => flat::give_up_journal(storage).await?,
                    _ => qcow2::give_up_journal(storage).await?,
                }
                Ok(())
            }
            Err(damage @ Error::Damaged { .. }) => bail!(
                "{damage}; microvm image check --repair all {file} gives the journal up, and with \
                 it the last writes"
            ),
            Err(error) => Err(error.into()),
        }
    }

    fn note_recovery(&self, report: &RecoveryReport) {
        if self.quiet {
            return;
        }
        let transactions = human::counted(report.transactions, "transaction");
        notice(&format!("recovered {transactions} from the journal\n"));
        if report.dropped {
            notice("dropped 1 transaction, which had not become durable\n");
        }
    }

    /// Prints what was found; returns the exit status.
    fn conclude(&self, format: Format, report: &CheckReport) -> Result<u8> {
        print_findings(report);
        match self.output {
            Output::Json => super::print_json(&Checked::new(self, format, report))?,
            Output::Human if self.quiet => {}
            Output::Human => super::print(&text(format, report))?,
        }
        Ok(report.exit_status())
    }
}

/// What there is to report where the header is sound, but leads to a table that is not there, as
/// in an image that was cut off. Nothing else can be checked then, or repaired.
fn lost_table(error: &Error) -> Option<CheckReport> {
    match error {
        Error::Damaged {
            offset, problem, ..
        } if TABLE_FIELDS.contains(offset) => Some(CheckReport {
            corruptions: 1,
            findings: vec![Finding {
                severity: Severity::Corruption,
                offset: *offset,
                problem: problem.clone(),
            }],
            ..CheckReport::default()
        }),
        _ => None,
    }
}

fn print_findings(report: &CheckReport) {
    let line = |finding: &Finding, repaired: &str| {
        let severity = match finding.severity {
            Severity::Corruption => "error",
            Severity::Leak => "leak",
            Severity::Unchecked => "not checked",
        };
        let Finding {
            offset, problem, ..
        } = finding;
        notice(&format!(
            "{severity} at offset {offset:#x}: {problem}{repaired}\n"
        ));
    };
    let repaired = |finding: &&Finding| !report.findings.contains(finding);
    report
        .repaired
        .iter()
        .filter(repaired)
        .for_each(|finding| line(finding, " (repaired)"));
    report.findings.iter().for_each(|finding| line(finding, ""));
}

/// What `qemu-img check` prints.
fn text(format: Format, report: &CheckReport) -> String {
    let (corruptions, leaks) = (report.corruptions, report.leaks);
    let unchecked = report.check_errors;
    let unit = if format == Format::Flat {
        "blocks"
    } else {
        "clusters"
    };
    let repaired = report.leaks_fixed + report.corruptions_fixed;
    let lines = [
        (repaired > 0).then(|| {
            format!(
                "The following inconsistencies were found and repaired:\n\n    \
                 {} leaked {unit}\n    {} corruptions\n\n",
                report.leaks_fixed, report.corruptions_fixed,
            )
        }),
        (report.exit_status() == 0).then(|| "No errors were found on the image.\n".to_owned()),
        (corruptions > 0).then(|| {
            format!(
                "{corruptions} errors were found on the image.\n\
                 Data may be corrupted, or further writes to the image may corrupt it.\n"
            )
        }),
        (leaks > 0).then(|| {
            format!(
                "{leaks} leaked {unit} were found on the image.\n\
                 This means waste of disk space, but no harm to data.\n"
            )
        }),
        (unchecked > 0).then(|| format!("{unchecked} parts of the image could not be checked.\n")),
        usage(format, report),
        Some(format!("Image end offset: {}\n", report.image_end_offset)),
    ];
    lines.into_iter().flatten().collect()
}

fn usage(format: Format, report: &CheckReport) -> Option<String> {
    let (allocated, total) = (report.allocated_clusters, report.total_clusters);
    let share = human::percent(allocated, total);
    if format == Format::Flat {
        return Some(format!("{allocated}/{total} = {share} local blocks\n"));
    }
    (allocated > 0 && total > 0).then(|| {
        format!(
            "{allocated}/{total} = {share} allocated, {} fragmented, {} compressed clusters\n",
            human::percent(report.fragmented_clusters, allocated),
            human::percent(report.compressed_clusters, allocated),
        )
    })
}

impl Checked {
    fn new(arguments: &Arguments, format: Format, report: &CheckReport) -> Self {
        Self {
            filename: arguments.file.display().to_string(),
            format: format.to_string(),
            check_errors: report.check_errors,
            image_end_offset: report.image_end_offset,
            corruptions: report.corruptions,
            leaks: report.leaks,
            corruptions_fixed: report.corruptions_fixed,
            leaks_fixed: report.leaks_fixed,
            total_clusters: report.total_clusters,
            allocated_clusters: report.allocated_clusters,
            fragmented_clusters: report.fragmented_clusters,
            compressed_clusters: report.compressed_clusters,
        }
    }
}
