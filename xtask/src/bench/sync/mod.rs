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
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::images::packages::{Tool, require};
use anyhow::{Context as _, Result};
use clap::Args;

use super::contender::Contender;
use super::file_system::Kind;
use super::grounds::on_each;
use super::interrupt::Interrupt;
use super::nbd::Programs;
use super::report::{Report, Section};

pub(super) use image::Image;
use load::LOADS;
pub(super) use load::{Load, Target};
use measure::Row;
pub(super) use measure::{Bench, Measured, Setup, serve};

/// The size of a disk that is allocated, or whose backing file is.
const FILLED_BYTES: u64 = 256 << 20;

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
    let parent = arguments.directory.as_deref();
    let contenders = Contender::all(arguments.all_orders);
    let setup = Setup {
        programs: &programs,
        contenders: &contenders,
        interrupt: &interrupt,
        runs: arguments.runs.max(1),
        run: Duration::from_millis(arguments.run_ms),
        filled_bytes: FILLED_BYTES,
    };
    let loops = &arguments.loops;
    on_each(
        ("bench-sync", parent),
        loops,
        &interrupt,
        report,
        |directory, report| on(arguments, &setup, directory, report),
    )
}

/// Measures in a directory.
fn on(
    arguments: &Arguments,
    setup: &Setup<'_>,
    directory: &Path,
    report: &mut Report,
) -> Result<()> {
    let bench = Bench::prepare(setup, directory, report)?;
    let name = &bench.ground.file_system;
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
    let names = setup.names();
    report.add(Section {
        title: format!(
            "Flushes, over NBD, on {name}, beside {}",
            setup.programs.qemu_version()?
        ),
        tables: table::render(&names, &rows),
        charts: table::charts(name, &names, &rows),
    });
    outcome
}
