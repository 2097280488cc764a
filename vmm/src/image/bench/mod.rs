//! `image bench`: how fast requests to an image are, straight on the disk engine.

mod job;
mod latencies;
mod options;
mod positions;
mod report;
mod suite;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use self::options::JobOptions;
use self::report::Report;
use self::suite::{Row, Suite};
use super::arguments::Output;
use super::interrupt::Interrupt;

/// The arguments that a suite has in itself.
const OF_ONE: [&str; 14] = [
    "file",
    "count",
    "bytes",
    "depth",
    "offset",
    "buffer_size",
    "step_size",
    "random",
    "seed",
    "write",
    "pattern",
    "flush_interval",
    "no_drain",
    "force_share",
];

/// The arguments of `image bench`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    job: JobOptions,

    /// What to print
    #[arg(long, value_enum, default_value_t, value_name = "FORM")]
    output: Output,

    /// Print nothing but errors
    #[arg(short = 'q', long)]
    quiet: bool,

    /// Make several benchmarks, each on a new image; of the options for one, --format, --order and
    /// --time go with it
    #[arg(long, value_enum, value_name = "NAME", conflicts_with_all = OF_ONE)]
    suite: Option<Suite>,

    /// Where a suite makes its images: the host's file system matters
    #[arg(long, value_name = "DIR", default_value = ".", requires = "suite")]
    directory: PathBuf,

    /// The image, which -w writes into
    #[arg(value_name = "FILE", required_unless_present = "suite")]
    file: Option<PathBuf>,
}

/// What there is to tell.
#[derive(Serialize)]
#[serde(untagged)]
enum Found {
    One(Box<Report>),
    Suite(Vec<Row>),
}

/// Makes the requests, and prints what they took. Ctrl-C ends it early.
pub(super) async fn run(arguments: &Arguments) -> Result<()> {
    let Arguments {
        job, output, quiet, ..
    } = arguments;
    if *quiet && *output == Output::Json {
        bail!("--quiet prints nothing, and --output json is there to be printed; leave out one");
    }
    let interrupt = Interrupt::install()?;
    let found = match (arguments.suite, &arguments.file) {
        (Some(suite), _) => {
            let directory = &arguments.directory;
            Found::Suite(Box::pin(suite::run(suite, job, directory, &interrupt)).await?)
        }
        (None, Some(file)) => Found::One(Box::new(job.run(file, &interrupt).await?)),
        (None, None) => bail!("neither FILE nor --suite is given"),
    };
    match output {
        Output::Json => super::print_json(&found)?,
        Output::Human if *quiet => {}
        Output::Human => super::print(&match &found {
            Found::One(report) => report.text(),
            Found::Suite(rows) => suite::table(rows),
        })?,
    }
    // What was done until then is told all the same.
    interrupt.check()
}
