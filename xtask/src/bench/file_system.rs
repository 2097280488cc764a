//! File systems made for a benchmark, on loop devices.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

/// What a run of all loads needs, and some.
const SIZE_BYTES: u64 = 16 << 30;

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    Ext4,
    Xfs,
    Btrfs,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
        }
    }

    /// The program that makes one, and its options. Nothing is left for the kernel to do later,
    /// when it would be counted.
    pub(super) fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => (
                "mkfs.ext4",
                &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
            ),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f"]),
        }
    }
}

/// A mounted file system. Dropping it undoes everything. Needs root.
#[derive(Debug)]
pub(super) struct Mounted {
    /// What is below the loop device, if it goes with it.
    file: Option<PathBuf>,
    device: Option<String>,
    point: PathBuf,
    /// Whether it has been mounted.
    in_use: bool,
}

impl Mounted {
    /// Makes one of a kind in a directory, and mounts it there.
    pub(super) fn make(kind: Kind, directory: &Path) -> Result<Self> {
        let file = directory.join(format!("{}.img", kind.name()));
        let mut mounted = Self::nothing(directory.join(kind.name()));
        mounted.file = Some(file.clone());
        File::create(&file)?.set_len(SIZE_BYTES)?;
        mounted.mount(&file, kind.mkfs(), "defaults")?;
        Ok(mounted)
    }

    /// Makes an ext4 as `mkfs.ext4` does it by itself on `file`, which is somebody else's, and
    /// mounts it on `point`. Inode tables are not written behind the benchmark's back.
    pub(super) fn ext4(file: &Path, point: PathBuf) -> Result<Self> {
        let mut mounted = Self::nothing(point);
        mounted.mount(file, ("mkfs.ext4", &["-q", "-F"]), "noinit_itable")?;
        Ok(mounted)
    }

    fn nothing(point: PathBuf) -> Self {
        Self {
            file: None,
            device: None,
            point,
            in_use: false,
        }
    }

    fn mount(&mut self, file: &Path, mkfs: (&str, &[&str]), options: &str) -> Result<()> {
        fs::create_dir(&self.point).with_context(|| self.point.display().to_string())?;
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(file);
        let device = succeed(&mut losetup)?;
        self.device = Some(device.clone());
        let (program, arguments) = mkfs;
        succeed(Command::new(program).args(arguments).arg(&device))?;
        let mut mount = Command::new("mount");
        succeed(mount.args(["-o", options, &device]).arg(&self.point))?;
        self.in_use = true;
        Ok(())
    }

    /// Where it is mounted.
    pub(super) fn directory(&self) -> &Path {
        &self.point
    }

    /// Ends it, and says so if that fails.
    pub(super) fn unmount(mut self) -> Result<()> {
        succeed(Command::new("umount").arg(&self.point))?;
        self.in_use = false;
        if let Some(device) = self.device.take() {
            succeed(Command::new("losetup").args(["--detach", &device]))?;
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Each is tried whatever became of the others. What is in use goes when it no longer is.
        if self.in_use && succeed(Command::new("umount").arg(&self.point)).is_err() {
            let _ = succeed(Command::new("umount").arg("--lazy").arg(&self.point));
        }
        if let Some(device) = &self.device
            && let Err(error) = succeed(Command::new("losetup").args(["--detach", device]))
        {
            eprintln!("xtask: {error:#}");
        }
        let _ = fs::remove_dir(&self.point);
        if let Some(file) = &self.file {
            let _ = fs::remove_file(file);
        }
    }
}

/// What a command printed, which must succeed.
pub(super) fn succeed(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = match command.output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("{name} is not installed")
        }
        output => output.with_context(|| format!("cannot run {name}"))?,
    };
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
