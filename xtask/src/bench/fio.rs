//! fio, which has files read and written.

use std::process::Command;

use anyhow::{Context as _, Result};
use images::packages::Tool;
use serde_json::Value;

use super::file_system::succeed;

/// A command that runs it, to be told a job.
pub(super) fn command() -> Command {
    let mut command = Command::new(Tool::Fio.command());
    command.arg("--output-format=json");
    command
}

/// What it reports of the only job of a command.
pub(super) fn run(command: &mut Command) -> Result<Value> {
    let output = succeed(command)?;
    // Warnings may come first.
    let json = output.find('{').map_or("", |start| &output[start..]);
    let mut report: Value = serde_json::from_str(json).context("fio's report")?;
    Ok(report["jobs"][0].take())
}

/// A number of its report.
pub(super) fn number(value: &Value) -> Result<f64> {
    value.as_f64().context("fio's report misses a number")
}
