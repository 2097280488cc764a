//! `cargo xtask bench sync`: what a guest's flush costs, over NBD, beside QEMU.
//!
//! A client writes, waits, flushes, waits: what it gets done in a second is decided by how often the
//! server makes the host sync, and how much it writes. All servers run at the same time and are
//! asked in turns; a ratio is one of neighbours in time. What depends on no clock is counted apart,
//! one server after the other: syncs of the host's file system, flushes and bytes of the device.

mod client;
mod host_syncs;
mod image;
mod load;
mod measure;
mod own_counts;
mod places;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::images::packages::{Tool, require};
use anyhow::{Context as _, Result};
use clap::Args;

use super::contender::Contender;
use super::file_system::{Kind, Mounted};
use super::ground::Ground;
use super::interrupt::Interrupt;
use super::nbd::Programs;
use super::report::{Report, Section};
use super::scratch::Scratch;

use host_syncs::HostSyncs;
use image::Images;
use load::LOADS;
use measure::{Bench, Row};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each server is asked for each load; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long each time, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 500)]
    run_ms: u64,
    /// Where to put the images: the host's file system matters [default: cargo's target directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Use file systems made for this, on loop devices over files in the directory; needs root
    #[arg(long = "loop", value_name = "KIND", value_delimiter = ',')]
    loops: Vec<Kind>,
    /// Measure our qcow2 in its other orders too
    #[arg(long)]
    all_orders: bool,
    /// Another microvm than the one built here
    #[arg(long, value_name = "PROGRAM")]
    microvm: Option<PathBuf>,
    /// Another qemu-storage-daemon than the installed one
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
    /// Only loads whose names hold this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let interrupt = Interrupt::install()?;
    require(&[Tool::QemuImg])?;
    let programs = Programs::get(arguments.microvm.as_deref(), arguments.qemu.as_deref())?;
    let scratch = Scratch::make("bench-sync", arguments.directory.as_deref())?;
    if arguments.loops.is_empty() {
        let directory = scratch.directory();
        on(arguments, &programs, directory, &interrupt, report)?;
    }
    for kind in &arguments.loops {
        let mounted = match Mounted::make(*kind, scratch.directory()) {
            Ok(mounted) => mounted,
            Err(error) => {
                interrupt.check()?;
                report.leave_out(format!("{}: {error:#}", kind.name()));
                continue;
            }
        };
        let directory = mounted.directory();
        on(arguments, &programs, directory, &interrupt, report)?;
    }
    Ok(())
}

/// Measures in a directory.
fn on(
    arguments: &Arguments,
    programs: &Programs,
    directory: &Path,
    interrupt: &Interrupt,
    report: &mut Report,
) -> Result<()> {
    let ground = Ground::below(directory)?;
    let name = ground.file_system.clone();
    let syncs = HostSyncs::prepare(&name, directory)
        .inspect_err(|error| report.leave_out(format!("{name}, host syncs: {error:#}")))
        .ok();
    if ground.counts().is_none() {
        report.leave_out(format!("{name}, counts of its device: it has none"));
    }
    let contenders = Contender::all(arguments.all_orders);
    let bench = Bench {
        programs,
        contenders: &contenders,
        directory,
        images: Images::new(directory)?,
        ground,
        syncs,
        interrupt,
        runs: arguments.runs.max(1),
        run: Duration::from_millis(arguments.run_ms),
    };
    let mut rows: Vec<Row> = Vec::new();
    let mut loads = LOADS
        .iter()
        .filter(|load| load.to_string().contains(&arguments.only));
    let outcome = loads.try_for_each(|load| {
        eprintln!("xtask: {name}, {load}");
        rows.push(bench.measure(*load).with_context(|| load.to_string())?);
        Ok(())
    });
    // What was measured before something failed is worth something.
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    report.add(Section {
        title: format!(
            "Flushes, over NBD, on {name}, beside {}",
            programs.qemu_version()?
        ),
        tables: table::render(&names, &rows),
        charts: table::charts(&name, &names, &rows),
    });
    outcome
}
