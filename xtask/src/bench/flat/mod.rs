//! `cargo xtask bench flat`: the flat format beside a raw image, which it should cost no more than,
//! beside our qcow2, and beside QEMU's.
//!
//! Over NBD, with the clients and the turns of the benchmarks of requests (`disk`) and of flushes
//! (`sync`); and how long images of 1 TiB take to be opened, and how much memory.

mod load;
mod open;
mod requests;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::images::packages::{Tool, require};
use anyhow::Result;
use clap::Args;

use super::contender::Contender;
use super::file_system::Kind;
use super::grounds::on_each;
use super::interrupt::Interrupt;
use super::nbd::Programs;
use super::report::{Report, Section};
use super::sync::{Bench, Setup};
use requests::Requests;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each server is asked for each load; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long each time, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 300)]
    run_ms: u64,
    /// The size of allocated images and of bases, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    size_mib: u64,
    /// Where to put the images: the host's file system matters [default: cargo's target directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Use file systems made for this, on loop devices over files in the directory; needs root
    #[arg(long = "loop", value_name = "KIND", value_delimiter = ',')]
    loops: Vec<Kind>,
    /// Another microvm than the one built here
    #[arg(long, value_name = "PROGRAM")]
    microvm: Option<PathBuf>,
    /// Another qemu-storage-daemon than the installed one
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
    /// Only loads whose names hold this; `open` is the one of opening
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let interrupt = Interrupt::install()?;
    require(&[Tool::QemuImg])?;
    let programs = Programs::get(arguments.microvm.as_deref(), arguments.qemu.as_deref())?;
    let contenders = Contender::formats();
    let setup = Setup {
        programs: &programs,
        contenders: &contenders,
        interrupt: &interrupt,
        runs: arguments.runs.max(1),
        run: Duration::from_millis(arguments.run_ms),
        filled_bytes: arguments.size_mib.max(1) << 20,
    };
    on_each(
        ("bench-flat", arguments.directory.as_deref()),
        &arguments.loops,
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
    let mut requests = Requests::new(setup, &bench, &arguments.only);
    let outcome = requests.measure();
    // What was measured before something failed is worth something.
    let (names, qemu) = (setup.names(), setup.programs.qemu_version()?);
    if !requests.rows.is_empty() {
        report.add(Section {
            title: format!("Flat images, over NBD, on {name}, beside {qemu}"),
            tables: table::render(&names, &requests.rows),
            charts: table::charts(name, &names, &requests.rows),
        });
    }
    outcome?;
    if "open".contains(&arguments.only) {
        eprintln!("xtask: {name}, open");
        report.add(Section {
            title: format!("Opening 1 TiB, on {name}, beside {qemu}"),
            tables: open::measure(setup, directory)?,
            charts: Vec::new(),
        });
    }
    Ok(())
}
