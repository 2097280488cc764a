//! One step: a cargo command, and how its success is counted.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use tests::artifacts::cargo;

use super::report::Report;

/// A step of the whole test.
pub(super) struct Step {
    /// What it looks at.
    pub(super) name: &'static str,
    command: Command,
    counts_tests: bool,
}

impl Step {
    /// A command that counts as one test.
    pub(super) fn check<A: AsRef<OsStr>>(
        name: &'static str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut command = cargo();
        command.args(arguments);
        Self {
            name,
            command,
            counts_tests: false,
        }
    }

    /// A command that runs test programs, each of whose tests counts.
    pub(super) fn tests<A: AsRef<OsStr>>(
        name: &'static str,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let mut step = Self {
            counts_tests: true,
            ..Self::check(name, arguments)
        };
        step.command.arg("--no-fail-fast");
        step
    }

    /// Sets an environment variable for the command.
    pub(super) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the command, showing what it prints.
    pub(super) fn run(mut self) -> Result<Report> {
        let mut child = self
            .command
            .stdout(Stdio::piped())
            .spawn()
            .context("cargo: run")?;
        let mut report = Report::default();
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line.context("cargo: read")?;
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                std::io::stdout().flush()?;
                if self.counts_tests {
                    report.read_line(&line);
                }
            }
        }
        let succeeded = child.wait().context("cargo: wait")?.success();
        if !self.counts_tests && succeeded {
            report.pass();
        } else if !succeeded && !report.failed() {
            // What failed is not one of the tests: the build, or a test program as a whole.
            report.fail(self.name);
        }
        Ok(report)
    }
}
