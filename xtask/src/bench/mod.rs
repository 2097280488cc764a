//! `cargo xtask bench`: the project beside its peers.

mod accuracy;
mod boot;
mod cache;
mod chart;
mod contender;
mod cpu_time;
mod dedup;
mod disk;
mod far;
mod figures;
mod file_system;
mod fio;
mod flat;
mod fs;
mod fuse;
mod grid;
mod ground;
mod grounds;
mod icache;
mod interrupt;
mod link;
mod model;
mod nbd;
mod new_image;
mod overhead;
mod places;
mod report;
mod scratch;
mod sync;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use report::Report;

/// The options of `bench`.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Write a report with plots to DIR
    #[arg(long, value_name = "DIR", global = true)]
    report: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

/// What can be measured.
#[derive(Subcommand)]
enum What {
    /// From process start to the first line of the guest's init, counted in emulated instructions
    Boot(boot::Arguments),
    /// Requests a second on raw and qcow2 images, over NBD and through FUSE, beside QEMU's
    Disk(disk::Arguments),
    /// Flushes a second, and what each costs the host, over NBD, beside QEMU's
    Sync(sync::Arguments),
    /// The flat format beside raw images and qcow2, and how long 1 TiB takes to be opened
    Flat(flat::Arguments),
    /// From process start to the prompt of a Debian whose base is behind a slow link, in the lab
    Far(far::Arguments),
    /// What programs get done in a file system on an image, through FUSE, beside QEMU's; needs root
    Fs(fs::Arguments),
    /// The orders of qcow2's metadata on modelled devices, in virtual time, beside what papers found
    Model(model::Arguments),
    /// A cache in front of a modelled disk with heads, by what leaves it, in virtual time
    Cache(cache::Arguments),
    /// A cache with classes and without, by guests with hooks, on a modelled disk with heads and behind a slow link, in
    /// the lab
    Icache(icache::Arguments),
    /// How often what the hooks on a guest's system calls say of its blocks is right, in the lab
    Accuracy(accuracy::Arguments),
    /// Exits by hooks on a guest's system calls, for five loads, in the lab
    Overhead(overhead::Arguments),
    /// Copying and encrypting a file on an image that stores alike data once, in virtual time
    Dedup(dedup::Arguments),
    /// All of these, as they are without options; what this host cannot do is left out
    All(AllArguments),
}

/// The options of `bench all`.
#[derive(Args)]
struct AllArguments {
    /// How often each load runs, where a benchmark lets one choose: 1 is for a first look
    #[arg(long)]
    runs: Option<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let mut report = Report::new(arguments.report.as_deref())?;
    let outcome = match &arguments.what {
        What::Boot(arguments) => boot::run(arguments, &mut report),
        What::Disk(arguments) => disk::run(arguments, &mut report),
        What::Sync(arguments) => sync::run(arguments, &mut report),
        What::Flat(arguments) => flat::run(arguments, &mut report),
        What::Far(arguments) => far::run(arguments, &mut report),
        What::Fs(arguments) => fs::run(arguments, &mut report),
        What::Model(arguments) => model::run(arguments, &mut report),
        What::Cache(arguments) => cache::run(arguments, &mut report),
        What::Icache(arguments) => icache::run(arguments, &mut report),
        What::Dedup(arguments) => dedup::run(arguments, &mut report),
        What::Accuracy(arguments) => accuracy::run(arguments, &mut report),
        What::Overhead(arguments) => overhead::run(arguments, &mut report),
        What::All(arguments) => {
            all(arguments, &mut report);
            Ok(())
        }
    };
    // What was found before something failed is worth something.
    report.finish()?;
    outcome.map(|()| ExitCode::SUCCESS)
}

fn all(arguments: &AllArguments, report: &mut Report) {
    measure("disk", disk::run, arguments, report);
    measure("sync", sync::run, arguments, report);
    measure("flat", flat::run, arguments, report);
    measure("fs", fs::run, arguments, report);
    measure("model", model::run, arguments, report);
    measure("cache", cache::run, arguments, report);
    measure("dedup", dedup::run, arguments, report);
    measure("boot", boot::run, arguments, report);
    measure("far", far::run, arguments, report);
    measure("icache", icache::run, arguments, report);
    measure("accuracy", accuracy::run, arguments, report);
    measure("overhead", overhead::run, arguments, report);
}

/// Runs a benchmark as it is without options but those for all, if it can be run here.
fn measure<A: Args>(
    name: &str,
    run: fn(&A, &mut Report) -> Result<()>,
    all: &AllArguments,
    report: &mut Report,
) {
    if interrupt::has_come() {
        return report.leave_out(format!("{name}: interrupted"));
    }
    let command = A::augment_args(clap::Command::new("bench"));
    let knows_runs = command
        .get_arguments()
        .any(|known| known.get_id() == "runs");
    let mut words: Vec<OsString> = vec!["bench".into()];
    if let Some(runs) = all.runs.filter(|_| knows_runs) {
        words.push(format!("--runs={runs}").into());
    }
    let matches = command.try_get_matches_from(words);
    let outcome = matches
        .and_then(|matches| A::from_arg_matches(&matches))
        .map_err(anyhow::Error::from)
        .and_then(|arguments| run(&arguments, report));
    if let Err(error) = outcome {
        report.leave_out(format!("{name}: {error:#}"));
    }
}
