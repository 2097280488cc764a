//! The project's own commands: demo, test, soak, lab, bench.

mod attach;
mod bench;
mod demo;
mod lab;
mod soak;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands. They install or download what is missing, and say so.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot a stock kernel on a fresh disk, write files, boot again and find them
    Demo {
        /// Leave you at the guest's prompt at the end (Ctrl-A x quits)
        #[arg(long)]
        shell: bool,
    },
    /// Run every test, from formatting to guests in the lab
    Test,
    /// Run the disk engine's random tests for long, on seeds that were never tried
    Soak(soak::Arguments),
    /// Run a command inside the emulated KVM host
    ///
    /// The command finds microvm in its PATH, the stock kernel and an initramfs in /parts (vmlinuz,
    /// vmlinux, initramfs.cpio), and the named files in its working directory. That is on the
    /// emulated host's disk, which stays between runs: a later run sees what a power cut left.
    Lab(lab::Arguments),
    /// Measure
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo { shell } => demo::run(shell),
        Command::Test => test::run(),
        Command::Soak(arguments) => soak::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// A path that names an existing file, or says which does not exist.
fn existing_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err("not a file".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
