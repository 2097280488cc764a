//! `cargo xtask bench fs`: what programs get done on an image, beside QEMU.
//!
//! ```text
//!   load ─> ext4 ─> loop device ─> FUSE ─> microvm image mount │ qemu-storage-daemon ─> image
//! ```
//! There is no guest, which could not run at full speed everywhere: the host's own kernel plays
//! its part. Every run has an image and a file system of its own, as new as the load needs it. The
//! contenders take turns; a ratio is one of neighbours in time.

mod load;
mod measure;
mod table;

use std::path::PathBuf;

use ::images::packages::{Tool, require};
use anyhow::{Context as _, Result};
use clap::Args;

use super::contender::{Contender, Format};
use super::file_system::Kind;
use super::ground::Ground;
use super::grounds::on_each;
use super::interrupt::Interrupt;
use super::nbd::Programs;
use super::report::{Report, Section};
use load::LOADS;
use measure::{Bench, Row};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each load runs on each contender; the median counts
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// The size of the images, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    size_mib: u64,
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
    require(&[Tool::Fio, Tool::Mke2fs, Tool::QemuImg, Tool::Sqlite])?;
    let programs = Programs::get(arguments.microvm.as_deref(), arguments.qemu.as_deref())?;
    let mut contenders = Contender::all(arguments.all_orders);
    // A file system is made on a new disk.
    contenders.retain(|contender| contender.format != Format::RawFilled);
    let parent = arguments.directory.as_deref();
    on_each(
        ("bench-fs", parent),
        &arguments.loops,
        &interrupt,
        report,
        |directory, report| {
            let bench = Bench {
                programs: &programs,
                contenders: &contenders,
                directory,
                ground: Ground::below(directory)?,
                interrupt: &interrupt,
                runs: arguments.runs.max(1),
                image_bytes: arguments.size_mib << 20,
            };
            on(&bench, &arguments.only, report)
        },
    )
}

/// Measures in a directory.
fn on(bench: &Bench<'_>, only: &str, report: &mut Report) -> Result<()> {
    let name = &bench.ground.file_system;
    let mut rows: Vec<Row> = Vec::new();
    let mut loads = LOADS.iter().filter(|load| load.to_string().contains(only));
    let outcome = loads.try_for_each(|load| {
        eprintln!("xtask: {name}, {load}");
        rows.push(bench.measure(*load).with_context(|| load.to_string())?);
        Ok(())
    });
    // What was measured before something failed is worth something.
    let contenders = bench.contenders.iter();
    let names: Vec<_> = contenders.map(|contender| contender.name).collect();
    report.add(Section {
        title: format!(
            "File systems, over FUSE, on {name}, beside {}",
            bench.programs.qemu_version()?
        ),
        tables: table::render(&names, &rows),
        charts: table::charts(name, &names, &rows),
    });
    outcome
}
