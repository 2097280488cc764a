//! The command that makes a block device larger before a compact image fills it.

use std::fs::File;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use disk::flat::Grow;
use disk::{BoxFuture, readable};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process_group, pidfd_open, waitid,
};

/// What is run where nothing else is asked for.
const DEFAULT: &str = "lvextend -L +1G \"$MICROVM_DEVICE\"";
/// How much of what it writes is looked at.
const WRITTEN_BYTES_MAX: u64 = 64 << 10;

/// How long a command that is to end may take for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A command of the shell, which finds the device, its size and how much more is needed in its
/// environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GrowCommand(String);

impl GrowCommand {
    /// That of the user.
    pub(crate) fn new(command: &str) -> Self {
        Self(command.to_owned())
    }
}

/// What suits a logical volume.
impl Default for GrowCommand {
    fn default() -> Self {
        Self::new(DEFAULT)
    }
}

impl Grow for GrowCommand {
    fn grow<'a>(
        &'a self,
        device: &'a Path,
        size_bytes: u64,
        needed_bytes: u64,
    ) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            let command = &self.0;
            let failed = |error| format!("cannot run '{command}': {error}");
            let written = tempfile::tempfile().map_err(failed)?;
            let mut shell = Command::new("sh");
            shell
                .args(["-c", command])
                .env("MICROVM_DEVICE", device)
                .env("MICROVM_SIZE", size_bytes.to_string())
                .env("MICROVM_NEEDED", needed_bytes.to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(written.try_clone().map_err(failed)?)
                .process_group(0);
            let mut running = Running(Some(shell.spawn().map_err(failed)?));
            let status = running.end().await.map_err(failed)?;
            if status.success() {
                return Ok(());
            }
            let last = last_line(written);
            Err(format!("'{command}' ended with {status}: {last}"))
        })
    }
}

/// A command that runs. Dropping it ends it, with all that it has started: it is asked to, which
/// `lvextend` takes when its device is as it should be, and killed if it does not.
struct Running(Option<Child>);

impl Running {
    async fn end(&mut self) -> std::io::Result<std::process::ExitStatus> {
        let Some(child) = &mut self.0 else {
            return Err(std::io::ErrorKind::NotFound.into());
        };
        let descriptor = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
        readable(Arc::new(descriptor)).await?;
        let status = child.wait()?;
        self.0 = None;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let group = Pid::from_child(&child);
            let _ = kill_process_group(group, Signal::TERM);
            thread::spawn(move || {
                let start = Instant::now();
                // It is not waited for yet: until then, its number is nobody else's.
                let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
                let runs = || matches!(waitid(WaitId::Pid(group), look), Ok(None));
                while runs() && start.elapsed() < PATIENCE {
                    thread::sleep(PATIENCE / 100);
                }
                let _ = kill_process_group(group, Signal::KILL);
                child.wait()
            });
        }
    }
}

fn last_line(mut written: File) -> String {
    let mut bytes = Vec::new();
    let read = written.rewind();
    let read = read.and_then(|()| written.take(WRITTEN_BYTES_MAX).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let last = text.lines().rfind(|line| !line.trim().is_empty());
    match (read, last) {
        (Ok(_), Some(line)) => line.trim().to_owned(),
        _ => "it said nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use disk::{Executor, spawn, yield_now};
    use std::cell::Cell;

    use super::*;

    fn grow(command: &str) -> Result<(), String> {
        let command = GrowCommand::new(command);
        let executor = Executor::new().unwrap();
        executor.run(async { command.grow(Path::new("/dev/a b"), 10, 20).await })
    }

    #[test]
    fn it_is_told_what_is_needed_and_tells_what_went_wrong() {
        let all = "test \"$MICROVM_DEVICE $MICROVM_SIZE $MICROVM_NEEDED\" = '/dev/a b 10 20'";
        assert_eq!(grow(all), Ok(()));
        let problem = grow("echo first >&2; echo no extents left >&2; exit 5").unwrap_err();
        assert!(problem.ends_with("ended with exit status: 5: no extents left"));
        assert!(grow("exit 1").unwrap_err().ends_with("it said nothing"));
    }

    /// Neither does the thread wait for it, nor does anything of it outlive the one who asked.
    #[test]
    fn it_is_killed_when_nobody_waits_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let pid = directory.path().join("pid");
        let command = format!("sleep 1000 & echo $! > '{}'; wait", pid.display());
        let command = GrowCommand::new(&command);
        let executor = Executor::new().unwrap();
        let is_started = || std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'));
        executor.run(async {
            let mut attempt = command.grow(Path::new("/dev/a"), 10, 20);
            let turns = Cell::new(0_u64);
            let polled = std::future::poll_fn(|context| {
                turns.set(turns.get() + 1);
                assert!(attempt.as_mut().poll(context).is_pending());
                if is_started() {
                    return std::task::Poll::Ready(());
                }
                context.waker().wake_by_ref();
                std::task::Poll::Pending
            });
            polled.await;
            drop(attempt);
            spawn(async {});
            yield_now().await;
        });
        let pid: i32 = std::fs::read_to_string(&pid)
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        let pid = Pid::from_raw(pid).unwrap();
        let start = Instant::now();
        // A zombie that nobody reaps still has its number.
        let is_there = || {
            let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
            status.is_ok_and(|status| !status.contains(") Z "))
        };
        while is_there() {
            assert!(start.elapsed() < Duration::from_secs(20), "it goes on");
            thread::yield_now();
        }
    }
}
