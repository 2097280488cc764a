//! A file that grows, each piece of it durable before the next.

use std::path::Path;

use anyhow::Result;

use super::Done;
use crate::bench::fio;

const PIECES: u32 = 400;

/// Appends 64 KiB at a time, with an `fsync` after each, by fio.
pub(super) fn run(directory: &Path) -> Result<Done> {
    let mut fio = fio::command();
    fio.args([
        "--name=append",
        "--rw=write",
        "--bs=64k",
        "--ioengine=psync",
    ]);
    // fio would make the file as large as it will be first.
    fio.args(["--fallocate=none", "--fsync=1"]);
    fio.arg(format!("--size={}", u64::from(PIECES) << 16));
    fio.arg(format!("--directory={}", directory.display()));
    let job = fio::run(&mut fio)?;
    Ok(Done {
        operations: fio::number(&job["write"]["total_ios"])?,
        seconds: fio::number(&job["job_runtime"])? / 1000.0,
    })
}
