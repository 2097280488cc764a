//! Suites: several benchmarks, one after the other, each on an image of its own.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args as _, Command, FromArgMatches as _, ValueEnum};
use disk::{FileOptions, Format, Storage as _, flat, qcow2};
use serde::Serialize;

use super::super::interrupt::Interrupt;
use super::options::JobOptions;
use super::report::Report;
use crate::human;

/// Of each disk.
const SIZE_BYTES: u64 = 8 << 30;
/// Of each disk of which all that is used was written before.
const FILLED_BYTES: u64 = 256 << 20;
/// How long each takes where nobody says it.
const TIME_DEFAULT: Duration = Duration::from_secs(1);

/// A suite that has a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Suite {
    /// Writes that are each flushed, to new clusters and over what is there
    Flush,
    /// Reads and writes of what is there, a few and many at a time
    Requests,
}

/// A job of a suite: the options of `image bench` for it, and whether the image is filled before.
struct Job {
    options: &'static str,
    filled: bool,
}

const fn new(options: &'static str) -> Job {
    Job {
        options,
        filled: false,
    }
}

const fn filled(options: &'static str) -> Job {
    Job {
        options,
        filled: true,
    }
}

const FLUSH: [Job; 7] = [
    new("-w -d 1 -s 4K -S 64K --random --flush-interval 1"),
    new("-w -d 1 -s 16K -S 64K --random --flush-interval 1"),
    new("-w -d 1 -s 64K --random --flush-interval 1"),
    new("-w -d 1 -s 4K --flush-interval 1"),
    new("-w -d 1 -s 64K --flush-interval 1"),
    new("-w -d 4 -s 4K -S 64K --random --flush-interval 1 --no-drain"),
    filled("-w -d 1 -s 4K --random --flush-interval 1"),
];

const REQUESTS: [Job; 8] = [
    filled("-d 1 -s 4K --random"),
    filled("-d 32 -s 4K --random"),
    filled("-d 1 -s 1M"),
    filled("-d 8 -s 1M"),
    filled("-w -d 1 -s 4K --random"),
    filled("-w -d 32 -s 4K --random"),
    filled("-w -d 1 -s 1M"),
    filled("-w -d 8 -s 1M"),
];

/// What came of a job.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    options: &'static str,
    /// Whether all that is used of the image was written before.
    filled: bool,
    #[serde(flatten)]
    report: Report,
}

impl Suite {
    fn jobs(self) -> &'static [Job] {
        match self {
            Self::Flush => &FLUSH,
            Self::Requests => &REQUESTS,
        }
    }
}

/// Makes every benchmark of a suite, with the format, the order and the time of `common`, in a
/// directory. Ctrl-C leaves out those that have not begun.
pub(super) async fn run(
    suite: Suite,
    common: &JobOptions,
    directory: &Path,
    interrupt: &Interrupt,
) -> Result<Vec<Row>> {
    let scratch = tempfile::Builder::new()
        .prefix("microvm-bench-")
        .tempdir_in(directory)
        .with_context(|| format!("{}: cannot make a directory in it", directory.display()))?;
    let file = scratch.path().join("disk");
    let mut rows = Vec::new();
    for job in suite.jobs() {
        if interrupt.check().is_err() {
            break;
        }
        let options = options(job.options, common)?;
        Box::pin(make_image(&file, &options, job.filled, interrupt)).await?;
        let report = options.run(&file, interrupt).await?;
        rows.push(Row {
            options: job.options,
            filled: job.filled,
            report,
        });
    }
    Ok(rows)
}

/// The options of a job, as if they had been given.
fn options(job: &str, common: &JobOptions) -> Result<JobOptions> {
    let command = JobOptions::augment_args(Command::new("bench").no_binary_name(true));
    let matches = command.try_get_matches_from(job.split(' '))?;
    let mut options = JobOptions::from_arg_matches(&matches)?;
    options.take_common(common, Format::Qcow2, TIME_DEFAULT);
    Ok(options)
}

/// Makes the image of a job, in place of the one of the job before.
async fn make_image(
    file: &Path,
    options: &JobOptions,
    filled: bool,
    interrupt: &Interrupt,
) -> Result<()> {
    std::fs::File::create(file).with_context(|| format!("{}: create", file.display()))?;
    let storage = FileOptions::new(file).open()?;
    let size_bytes = if filled { FILLED_BYTES } else { SIZE_BYTES };
    match options.format() {
        Format::Raw => storage.set_len(size_bytes).await?,
        Format::Qcow2 => {
            let options = qcow2::CreateOptions::new(size_bytes);
            qcow2::create(&storage, &options).await?;
        }
        Format::Flat => {
            let options = flat::CreateOptions::new(size_bytes);
            flat::create(&storage, &options, None).await?;
        }
    }
    storage.close();
    if filled {
        let options = options.clone().filling(FILLED_BYTES);
        options.run(file, interrupt).await?;
    }
    Ok(())
}

/// For people: a line for each.
pub(super) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<62} {:>10} {:>12} {:>9} {:>9} {:>9} {:>12}\n",
        "", "requests/s", "bytes/s", "p50", "p99", "max", "syncs/flush"
    );
    for row in rows {
        let filled = if row.filled { " (filled)" } else { "" };
        let report = &row.report;
        let _ = write!(
            text,
            "{:<62} {:>10.0} {:>12}",
            format!("{}{filled}", row.options),
            report.requests_per_second(),
            human::size(report.bytes_per_second()),
        );
        let times = report.latencies();
        for time in times.map_or([None; 3], |times| times.map(Some)) {
            let time = time.map_or("-".to_owned(), |time| format!("{time:.1?}"));
            let _ = write!(text, " {time:>9}");
        }
        let syncs = report.host_syncs_per_flush();
        let syncs = syncs.map_or("-".to_owned(), |syncs| format!("{syncs:.2}"));
        let _ = writeln!(text, " {syncs:>12}");
    }
    text
}
