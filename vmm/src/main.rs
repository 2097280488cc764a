//! A small KVM hypervisor whose built-in disk is the best there is.

mod cli;
mod console;
mod control;
mod doctor;
mod export;
mod fuse;
mod grow_command;
mod human;
mod image;
mod insight;
mod kvm;
mod machine;
mod memory;
mod nbd;
mod notice;
mod output_file;
mod run;
mod signals;
mod socket_path;
mod statistics;
mod vcpu;

use std::io;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use tracing_subscriber::EnvFilter;

use cli::{Cli, Command};
use notice::notice;

/// The status of every error of use, of files and of the host.
const FAILURE: u8 = 1;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log_to_stderr();
    console::restore_on_panic();
    let (result, failure) = match cli.command {
        None => (run::run(&cli.run), FAILURE),
        Some(Command::Run(arguments)) => (run::run(&arguments), FAILURE),
        Some(Command::Doctor { image }) => (Ok(doctor::doctor(image.as_deref())), FAILURE),
        Some(Command::Control(arguments)) => (arguments.run(), FAILURE),
        Some(Command::Image(command)) => (command.run(), command.failure()),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            notice(&format!("microvm: {}\n", one_line(&error)));
            ExitCode::from(failure)
        }
    }
}

/// The error with its causes, each said once: some name their cause themselves.
fn one_line(error: &anyhow::Error) -> String {
    let mut line = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

/// Prints help where it was asked for, else in one line what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // Where even that cannot be printed there is nobody to tell.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        notice("microvm: a command is missing; microvm image --help lists the commands\n");
        return ExitCode::from(FAILURE);
    }
    let text = error.to_string();
    let lines = text.lines().take_while(|line| !line.is_empty());
    let reason = lines.map(str::trim).collect::<Vec<_>>().join(" ");
    let reason = reason.strip_prefix("error: ").unwrap_or(&reason);
    notice(&format!(
        "microvm: {reason}; microvm --help lists the options\n"
    ));
    // For a comparison, 1 means that the images differ.
    let compares = std::env::args_os().skip(1).take(2).eq(["image", "compare"]);
    ExitCode::from(if compares {
        image::COMPARE_FAILURE
    } else {
        FAILURE
    })
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
        // Or a log line that cannot be written would panic.
        .log_internal_errors(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn a_cause_that_an_error_names_itself_is_not_said_twice() {
        let named = anyhow!("no such file").context("vm.img: cannot open: no such file");
        assert_eq!(one_line(&named), "vm.img: cannot open: no such file");
        let plain = anyhow!("no such file").context("vm.img");
        assert_eq!(one_line(&plain), "vm.img: no such file");
    }
}
