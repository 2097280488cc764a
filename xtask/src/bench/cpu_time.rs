//! What a process has had of the processors.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// What the threads of a process have had; those that have ended do not count.
pub(super) fn cpu_time(pid: u32) -> Result<Duration> {
    let mut total_ns = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_whitespace().next();
        total_ns += first.context("an empty schedstat")?.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(total_ns))
}
