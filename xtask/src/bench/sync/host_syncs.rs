//! Counts how often a process makes the host's file system sync.
//!
//! Tracing system calls would miss those of `io_uring`. File systems have a tracepoint where both
//! ways meet, so that is what is counted, in a trace buffer of our own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

const TRACEFS: &str = "/sys/kernel/tracing";
/// For each processor; a pass writes a tenth of that.
const BUFFER_KIB: &str = "4096";

/// A buffer for the events of one file system.
#[derive(Debug)]
pub(super) struct HostSyncs {
    instance: PathBuf,
    event: &'static str,
    enable: PathBuf,
    /// Where the tracing file system was mounted for this.
    mounted: Option<PathBuf>,
}

impl HostSyncs {
    /// Prepares to count those of a type of file system. `directory` is for a mount, should it be
    /// needed.
    pub(super) fn prepare(file_system: &str, directory: &Path) -> Result<Self> {
        let (system, event) = match file_system {
            "ext4" => ("ext4", "ext4_sync_file_enter"),
            "xfs" => ("xfs", "xfs_file_fsync"),
            "btrfs" => ("btrfs", "btrfs_sync_file"),
            other => anyhow::bail!("no tracepoint is known for syncs of {other}"),
        };
        let mut mounted = None;
        let mut tracefs = PathBuf::from(TRACEFS);
        if !tracefs.join("instances").exists() {
            tracefs = directory.join("tracefs");
            mount(&tracefs)?;
            mounted = Some(tracefs.clone());
        }
        let name = format!("bench-sync-{}", std::process::id());
        let instance = tracefs.join("instances").join(name);
        // From here on, what fails is undone by dropping it.
        let syncs = Self {
            enable: instance
                .join("events")
                .join(system)
                .join(event)
                .join("enable"),
            instance,
            event,
            mounted,
        };
        fs::create_dir(&syncs.instance).context("no trace buffer of our own")?;
        fs::write(syncs.instance.join("buffer_size_kb"), BUFFER_KIB)?;
        ensure!(syncs.enable.exists(), "this kernel does not trace {event}");
        Ok(syncs)
    }

    /// Counts those of the process `pid` while `work` is done.
    pub(super) fn count<T>(&self, pid: u32, work: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let trace = self.instance.join("trace");
        fs::write(&trace, "").context("cannot empty the trace")?;
        fs::write(&self.enable, "1").context("cannot trace")?;
        let done = work();
        fs::write(&self.enable, "0").context("cannot end the trace")?;
        let threads = threads(pid)?;
        let text = fs::read_to_string(&trace).context("cannot read the trace")?;
        let count = count_lines(&text, self.event, &threads)?;
        Ok((count, done?))
    }
}

impl Drop for HostSyncs {
    fn drop(&mut self) {
        // What was not set up cannot be undone.
        let _ = fs::write(&self.enable, "0");
        let _ = fs::remove_dir(&self.instance);
        if let Some(place) = &self.mounted {
            // Lazily: it must be gone before the directory around it is removed.
            let _ = Command::new("umount").arg("--lazy").arg(place).status();
            let _ = fs::remove_dir(place);
        }
    }
}

fn mount(place: &Path) -> Result<()> {
    fs::create_dir_all(place)?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tracefs", "tracefs"]).arg(place);
    let output = mount.output().context("cannot run mount")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The threads of a process, those of `io_uring` among them.
fn threads(pid: u32) -> Result<Vec<u32>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = task?.file_name();
        threads.extend(name.to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(threads)
}

/// How many events of a trace (`Documentation/trace/ftrace.rst` of Linux) are of the threads.
fn count_lines(trace: &str, event: &str, threads: &[u32]) -> Result<u64> {
    let event = format!(": {event}: ");
    let mut count = 0;
    for line in trace.lines() {
        if let Some(numbers) = line
            .trim()
            .strip_prefix("# entries-in-buffer/entries-written: ")
        {
            let numbers = numbers.split_whitespace().next().unwrap_or_default();
            let lost = numbers
                .split_once('/')
                .is_none_or(|(kept, all)| kept != all);
            ensure!(!lost, "the trace buffer was too small: {numbers}");
        } else if line.contains(&event) {
            let task = line.split(" [").next().unwrap_or_default();
            let thread = task.trim_end().rsplit('-').next().unwrap_or_default();
            let thread: u32 = thread.parse().context("a trace cannot be read")?;
            count += u64::from(threads.contains(&thread));
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "  iou-wrk-9-17  [001] .....  19.530: ext4_sync_file_enter: dev 254,0 ino 1\n";

    #[test]
    fn only_the_servers_syncs_count() {
        let other = LINE.replace("9-17", "9-18");
        let trace = format!("# entries-in-buffer/entries-written: 3/3   #P:2\n{LINE}{other}{LINE}");
        let count = |threads: &[u32]| count_lines(&trace, "ext4_sync_file_enter", threads).unwrap();
        assert_eq!(count(&[9, 17]), 2);
        assert_eq!(count(&[18]), 1);
        assert_eq!(count(&[9]), 0);
    }

    #[test]
    fn a_trace_with_gaps_does_not_count() {
        let trace = format!("# entries-in-buffer/entries-written: 1/2   #P:2\n{LINE}");
        assert!(count_lines(&trace, "ext4_sync_file_enter", &[17]).is_err());
    }
}
