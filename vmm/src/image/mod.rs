//! `microvm image`: makes, examines and changes disk images.
//!
//! Commands and options are called as `qemu-img` calls them wherever they mean the same.
//!
//! The format of an image is what `-f` says. Without it, a file that looks like a qcow2 or flat
//! image is taken for one as long as it names no other file that the command would open; anything else that
//! looks like an image is refused. In a raw image a guest may have written what looks so, and
//! could have any file of the host read by naming it.

mod arguments;
mod background;
mod bench;
mod check;
mod commit;
mod compare;
mod convert;
mod copy;
mod create;
mod external;
mod flat_base;
mod identity;
mod in_flight;
mod info;
mod interrupt;
mod map;
mod mount;
mod new_file;
mod new_image;
mod options;
mod overlay;
mod preallocate;
mod progress;
mod rebase;
mod resize;
mod scratch;
mod serve;
mod snapshot;
mod snapshot_table;
mod trace;
mod walk;
mod zeros;

use std::io::{Write as _, stdout};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use disk::Executor;
use serde::Serialize;

pub(crate) use external::create_overlay;
pub(crate) use identity::is_same_file;

/// The status of an error of `compare`, for which 1 says that the images differ.
pub(crate) const COMPARE_FAILURE: u8 = 2;
const FAILURE: u8 = 1;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Make a new image
    Create(create::Arguments),
    /// Say what an image is
    Info(info::Arguments),
    /// Look for errors in an image, and repair them
    Check(check::Arguments),
    /// List which parts of an image hold data, and where
    Map(map::Arguments),
    /// Copy an image into a new one
    Convert(convert::Arguments),
    /// List, take, apply and delete the snapshots in an image
    Snapshot(snapshot::Arguments),
    /// Change the size of an image's disk
    Resize(resize::Arguments),
    /// Write what an image holds into its backing file
    Commit(commit::Arguments),
    /// Put an image onto another backing file, or onto none
    Rebase(rebase::Arguments),
    /// Say whether two images read alike
    Compare(compare::Arguments),
    /// Lend an image to NBD clients
    Serve(serve::Arguments),
    /// Show an image as a raw file
    Mount(mount::Arguments),
    /// Measure reads or writes of an image
    Bench(bench::Arguments),
    /// Say what a trace of reads holds, and read it again
    Trace(trace::Arguments),
}

impl ImageCommand {
    /// Does it; returns the exit status.
    pub(crate) fn run(&self) -> Result<u8> {
        let executor = Executor::new()?;
        match self {
            Self::Create(arguments) => executor.run(create::run(arguments)).map(|()| 0),
            Self::Info(arguments) => executor.run(info::run(arguments)).map(|()| 0),
            Self::Check(arguments) => executor.run(check::run(arguments)),
            Self::Map(arguments) => executor.run(map::run(arguments)).map(|()| 0),
            Self::Convert(arguments) => executor.run(convert::run(arguments)).map(|()| 0),
            Self::Snapshot(arguments) => executor.run(snapshot::run(arguments)).map(|()| 0),
            Self::Resize(arguments) => executor.run(resize::run(arguments)).map(|()| 0),
            Self::Commit(arguments) => executor.run(commit::run(arguments)).map(|()| 0),
            Self::Rebase(arguments) => executor.run(rebase::run(arguments)).map(|()| 0),
            Self::Compare(arguments) => executor.run(compare::run(arguments)),
            Self::Serve(arguments) => executor.run(serve::run(arguments)).map(|()| 0),
            Self::Mount(arguments) => executor.run(mount::run(arguments)),
            Self::Bench(arguments) => executor.run(bench::run(arguments)).map(|()| 0),
            Self::Trace(arguments) => executor.run(trace::run(arguments)).map(|()| 0),
        }
    }

    /// The exit status where it fails.
    pub(crate) fn failure(&self) -> u8 {
        match self {
            Self::Compare(_) => COMPARE_FAILURE,
            _ => FAILURE,
        }
    }
}

/// Prints to standard output.
fn print(text: &str) -> Result<()> {
    stdout()
        .write_all(text.as_bytes())
        .context("cannot write to standard output")
}

/// Prints to standard output as JSON.
fn print_json(value: &impl Serialize) -> Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}
