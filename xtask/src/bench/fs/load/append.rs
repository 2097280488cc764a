//! A file that grows, each piece of it durable before the next.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use images::packages::Tool;
use serde_json::Value;

use super::Done;
use crate::bench::file_system::succeed;

const PIECES: u32 = 400;

/// Appends 64 KiB at a time, with an `fsync` after each, by fio.
pub(super) fn run(directory: &Path) -> Result<Done> {
    let mut fio = Command::new(Tool::Fio.command());
    fio.args([
        "--name=append",
        "--rw=write",
        "--bs=64k",
        "--ioengine=psync",
    ]);
    // fio would make the file as large as it will be first.
    fio.args(["--fallocate=none", "--fsync=1", "--output-format=json"]);
    fio.arg(format!("--size={}", u64::from(PIECES) << 16));
    fio.arg(format!("--directory={}", directory.display()));
    let output = succeed(&mut fio)?;
    // Warnings may come first.
    let json = output.find('{').map_or("", |start| &output[start..]);
    let report: Value = serde_json::from_str(json).context("fio's report")?;
    let job = &report["jobs"][0];
    let number = |value: &Value| value.as_f64().context("fio's report misses a number");
    Ok(Done {
        operations: number(&job["write"]["total_ios"])?,
        seconds: number(&job["job_runtime"])? / 1000.0,
    })
}
