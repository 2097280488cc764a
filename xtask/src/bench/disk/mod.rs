//! `cargo xtask bench disk`: requests a second on allocated images, over NBD and through FUSE, beside
//! QEMU.
//!
//! Everything is in the host's page cache, so that what is measured is the way of a request through
//! the server and not the disk below. The client is small and does little but wait; of files it is
//! fio. All servers of a protocol run at the same time and are asked in turns; a ratio is one of
//! neighbours in time. What a request costs of a processor is told as well, for it depends less on
//! what else the machine does.

mod client;
mod contender;
mod file;
mod load;
mod session;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use ::images::packages::{Tool, require};
use anyhow::Result;
use clap::Args;

use super::interrupt::Interrupt;
use super::nbd::Programs;
use super::report::{Report, Section};
use super::scratch::Scratch;
pub(super) use client::Client;
use contender::{Contender, Images};
pub(super) use load::{LOADS, Load};
use session::Latencies;
pub(super) use session::Session;

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
    /// Another microvm than the one built here
    #[arg(long, value_name = "PROGRAM")]
    microvm: Option<PathBuf>,
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
pub(super) type Results = Vec<(Load, Vec<Vec<Sample>>)>;

/// What is asked for, and how often.
pub(super) struct Plan<'a> {
    /// How the servers are reached, for messages.
    pub(super) protocol: &'a str,
    pub(super) loads: Vec<Load>,
    /// How often each server is asked for each load.
    pub(super) runs: usize,
    /// How long each time.
    pub(super) run: Duration,
    pub(super) interrupt: &'a Interrupt,
}

/// A run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    /// Requests a second.
    pub(super) rate: f64,
    /// What each took of a processor, in the server.
    pub(super) cpu_us: f64,
    /// Where the client tells them.
    latencies: Option<Latencies>,
}

pub(super) fn run(arguments: &Arguments, report: &mut Report) -> Result<()> {
    let interrupt = Interrupt::install()?;
    let programs = Programs::get(arguments.microvm.as_deref(), arguments.qemu.as_deref())?;
    let scratch = Scratch::make("bench-disk", arguments.directory.as_deref())?;
    let images = Images::make(scratch.directory(), arguments.size_mib << 20)?;
    let contenders = Contender::all(&programs, &arguments.qemu_aio);
    let start = |start: fn(&Contender, &Images) -> Result<Session>| -> Result<Vec<_>> {
        contenders.iter().map(|one| start(one, &images)).collect()
    };
    let is_wanted = |load: &Load| load.to_string().contains(&arguments.only);
    let loads: Vec<Load> = LOADS.into_iter().filter(is_wanted).collect();
    let mut measure = |protocol: &str, sessions| -> Result<()> {
        let plan = Plan {
            protocol,
            loads: loads.clone(),
            runs: arguments.runs.max(1),
            run: Duration::from_millis(arguments.run_ms),
            interrupt: &interrupt,
        };
        let results = plan.measure(sessions)?;
        report.add(Section {
            title: format!(
                "Requests, over {protocol}, beside {}",
                programs.qemu_version()?
            ),
            tables: table::render(&results),
            charts: vec![table::chart(protocol, &results)],
        });
        Ok(())
    };
    measure("NBD", start(Contender::serve)?)?;
    let mounted = require(&[Tool::Fio, Tool::Fusermount])
        .map_err(anyhow::Error::from)
        .and_then(|()| start(Contender::mount));
    match mounted {
        Ok(sessions) => measure("FUSE", sessions),
        Err(error) => {
            interrupt.check()?;
            report.leave_out(format!("disk, FUSE: {error:#}"));
            Ok(())
        }
    }
}

impl Plan<'_> {
    /// Measures all servers of a protocol, and ends them.
    pub(super) fn measure(&self, mut sessions: Vec<Session>) -> Result<Results> {
        let mut results = Results::new();
        for load in &self.loads {
            eprintln!("xtask: {}, {load}", self.protocol);
            let mut samples = vec![Vec::new(); sessions.len()];
            // The first round warms up and does not count.
            for round in 0..=self.runs {
                for turn in 0..sessions.len() {
                    self.interrupt.check()?;
                    // Each comes first in its turn, should that matter.
                    let n = (round + turn) % sessions.len();
                    let sample = sample(&mut sessions[n], load, self.run)?;
                    if round > 0 {
                        samples[n].push(sample);
                    }
                }
            }
            results.push((*load, samples));
        }
        sessions.into_iter().try_for_each(Session::stop)?;
        Ok(results)
    }
}

fn sample(session: &mut Session, load: &Load, duration: Duration) -> Result<Sample> {
    let before = session.cpu_time()?;
    let done = session.run(load, duration)?;
    let cpu = session.cpu_time()?.saturating_sub(before);
    Ok(Sample {
        rate: done.requests / done.seconds,
        cpu_us: cpu.as_secs_f64() * 1e6 / done.requests,
        latencies: done.latencies,
    })
}
