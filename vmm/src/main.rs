//! A small KVM hypervisor whose built-in disk is the best there is.

mod cli;
mod console;
mod doctor;
mod kvm;
mod machine;
mod memory;
mod run;
mod signals;
mod statistics;
mod vcpu;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};

/// The status of every error of use, of files and of the host.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log_to_stderr();
    console::restore_on_panic();
    let result = match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(arguments)) => run::run(&arguments),
        Some(Command::Doctor { image }) => doctor::doctor(image.as_deref()),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("microvm: {error:#}");
            ExitCode::from(FAILURE)
        }
    }
}

/// Prints help where it was asked for, else what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Where even that cannot be printed there is nobody to tell.
    drop(error.print());
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILURE),
    }
}

/// Warnings go to standard error; `MICROVM_LOG=info` or `debug` shows more.
fn log_to_stderr() {
    let filter = EnvFilter::builder()
        .with_env_var("MICROVM_LOG")
        .with_default_directive(tracing::Level::WARN.into())
        .from_env_lossy();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .without_time()
        .with_target(false)
        .init();
}
