//! `cargo xtask bench disk`: requests a second on allocated images, over NBD, beside QEMU.
//!
//! Everything is in the host's page cache, so that what is measured is the way of a request through
//! the server and not the disk below. The client is small and does little but wait. All servers run
//! at the same time and are asked in turns; a ratio is one of neighbours in time. What a request
//! costs of a processor is told as well, for it depends less on what else the machine does.

mod client;
mod contender;
mod load;
mod table;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::nbd::Programs;
use super::report::{Report, Section};
use super::scratch::Scratch;
use client::Client;
use contender::{Contender, Images};
use load::{LOADS, Load};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How often each server is asked for each load; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// How long each time, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 400)]
    run_ms: u64,
    /// The size of the images, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256)]
    size_mib: u64,
    /// Where to put the images: the host's file system matters [default: cargo's target directory]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Another qemu-storage-daemon than the installed one
    #[arg(long, value_name = "PROGRAM")]
    qemu: Option<PathBuf>,
    /// How QEMU does its I/O: threads, native or `io_uring`
    #[arg(long, value_name = "AIO", default_value = "threads")]
    qemu_aio: String,
    /// Only loads whose names hold this
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
}

/// For each load, for each contender, every run.
type Results = Vec<(Load, Vec<Vec<Sample>>)>;

/// A run.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Requests a second.
    rate: f64,
    /// What each took of a processor, in the server.
    cpu_us: f64,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let scratch = Scratch::make("bench-disk", arguments.directory.as_deref())?;
    let programs = Programs::get(None, arguments.qemu.as_deref())?;
    let results = measure(arguments, &programs, scratch.directory())?;
    report.add(Section {
        title: format!("Requests, over NBD, beside {}", programs.qemu_version()?),
        tables: table::render(&results),
        charts: vec![table::chart(&results)],
    });
    Ok(())
}

fn measure(arguments: &Arguments, programs: &Programs, directory: &Path) -> Result<Results> {
    let images = Images::make(directory, arguments.size_mib << 20)?;
    let contenders = Contender::all(programs, &arguments.qemu_aio);
    let servers: Vec<_> = contenders
        .iter()
        .map(|contender| contender.start(&images))
        .collect::<Result<_>>()?;
    let mut clients: Vec<_> = servers
        .iter()
        .map(|server| Client::connect(server.socket()))
        .collect::<Result<_>>()?;
    let run = Duration::from_millis(arguments.run_ms);
    let mut results = Results::new();
    for load in LOADS {
        if !load.to_string().contains(&arguments.only) {
            continue;
        }
        eprintln!("xtask: {load}");
        let mut samples = vec![Vec::new(); clients.len()];
        // The first round warms up and does not count.
        for round in 0..=arguments.runs.max(1) {
            for turn in 0..clients.len() {
                // Each comes first in its turn, should that matter.
                let n = (round + turn) % clients.len();
                let before = servers[n].cpu_time()?;
                let done = clients[n].run(&load, run)?;
                let cpu = servers[n].cpu_time()?.saturating_sub(before);
                if round > 0 {
                    samples[n].push(Sample {
                        rate: done.requests / done.seconds,
                        cpu_us: cpu.as_secs_f64() * 1e6 / done.requests,
                    });
                }
            }
        }
        results.push((load, samples));
    }
    drop(clients);
    for server in servers {
        server.stop()?;
    }
    Ok(results)
}
