//! An image that a program shows as a file, through FUSE.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::file_system::succeed;
use super::nbd::qemu_with_nodes;

/// What a program may take to show its file.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running program. Dropping it kills it.
pub(super) struct Export {
    child: Child,
    point: PathBuf,
}

impl Export {
    /// Has `microvm` show an image at `point`; `words` say which.
    pub(super) fn microvm(program: &Path, words: &str, point: PathBuf) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["image", "mount", words]).arg(&point);
        Self::start(command, point)
    }

    /// Has QEMU show the node called `disk` of `nodes`, which are values of `--blockdev`, lowest
    /// first.
    pub(super) fn qemu(program: &Path, nodes: &[String], point: PathBuf) -> Result<Self> {
        let mut command = qemu_with_nodes(program, nodes);
        command.arg("--export").arg(format!(
            "type=fuse,id=export,node-name=disk,mountpoint={},writable=on,growable=off",
            point.display()
        ));
        Self::start(command, point)
    }

    fn start(mut command: Command, point: PathBuf) -> Result<Self> {
        File::create(&point).with_context(|| point.display().to_string())?;
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::piped()).spawn();
        let child = child.with_context(|| format!("cannot run {command:?}"))?;
        let mut export = Self { child, point };
        export.wait_until_mounted()?;
        Ok(export)
    }

    /// What the image holds, as a file.
    pub(super) fn file(&self) -> &Path {
        &self.point
    }

    /// The program's process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    fn wait_until_mounted(&mut self) -> Result<()> {
        let start = Instant::now();
        while !is_mounted(&self.point)? {
            if self.child.try_wait()?.is_some() {
                bail!("nothing is mounted: {}", self.said()?);
            }
            ensure!(start.elapsed() < PATIENCE, "nothing is mounted");
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn said(&mut self) -> Result<String> {
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        Ok(said.trim().to_owned())
    }

    /// Has the program close the image, and waits until it has.
    pub(super) fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process")?, Signal::TERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {}", self.said()?);
        Ok(())
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if is_mounted(&self.point).unwrap_or(true) {
            let _ = succeed(Command::new("umount").arg("--lazy").arg(&self.point));
        }
        let _ = fs::remove_file(&self.point);
    }
}

/// Whether something is mounted over a file: it is not of the file system around it then.
fn is_mounted(file: &Path) -> Result<bool> {
    let parent = file.parent().context("no directory around it")?;
    // Whoever mounted it may be gone.
    let Ok(metadata) = file.metadata() else {
        return Ok(true);
    };
    Ok(metadata.dev() != parent.metadata()?.dev())
}
