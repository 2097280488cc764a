//! The client of a disk that is a file: fio.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::load::Load;
use super::session::{Done, Latencies};
use crate::bench::fio;

/// Keeps as many requests in flight as `load` says for `duration`. Each goes to the server: none
/// is served by the kernel's cache of the file.
pub(super) fn run(file: &Path, load: &Load, duration: Duration) -> Result<Done> {
    let verb = if load.write { "write" } else { "read" };
    let order = if load.random { "rand" } else { "" };
    let mut fio = fio::command();
    // The kernel has threads of its own wait for each of io_uring's requests to a FUSE file, which
    // costs more than many servers do; those of libaio are sent by who submits them.
    fio.args(["--name=disk", "--ioengine=libaio", "--direct=1"]);
    fio.args(["--norandommap=1", "--time_based=1"]);
    // From before a request is submitted: a server may be done with one before that has returned.
    fio.args(["--lat_percentiles=1", "--percentile_list=50:99"]);
    fio.arg(format!("--filename={}", file.display()));
    fio.arg(format!("--rw={order}{verb}"));
    fio.arg(format!("--bs={}", load.block_bytes));
    fio.arg(format!("--iodepth={}", load.depth));
    fio.arg(format!("--runtime={}ms", duration.as_millis()));
    let job = fio::run(&mut fio)?;
    let done = &job[verb];
    let percentile_us = |name: &str| {
        let percentile_ns = fio::number(&done["lat_ns"]["percentile"][name])?;
        anyhow::Ok(percentile_ns / 1000.0)
    };
    Ok(Done {
        requests: fio::number(&done["total_ios"])?,
        seconds: fio::number(&done["runtime"])? / 1000.0,
        latencies: Some(Latencies {
            median_us: percentile_us("50.000000")?,
            p99_us: percentile_us("99.000000")?,
        }),
    })
}
