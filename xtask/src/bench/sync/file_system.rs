//! File systems made for a benchmark, on a loop device over a sparse file.

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
    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
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

/// A mounted file system. Dropping it undoes everything.
#[derive(Debug)]
pub(super) struct Mounted {
    file: PathBuf,
    device: Option<String>,
    point: PathBuf,
    /// Whether it has been mounted.
    in_use: bool,
}

impl Mounted {
    /// Makes one in a directory, and mounts it there. Needs root.
    pub(super) fn make(kind: Kind, directory: &Path) -> Result<Self> {
        let file = directory.join(format!("{}.img", kind.name()));
        let mut mounted = Self {
            point: directory.join(kind.name()),
            device: None,
            in_use: false,
            file,
        };
        fs::create_dir(&mounted.point)?;
        File::create(&mounted.file)?.set_len(SIZE_BYTES)?;
        let (program, options) = kind.mkfs();
        succeed(Command::new(program).args(options).arg(&mounted.file))?;
        let mut losetup = Command::new("losetup");
        losetup.args(["--find", "--show"]).arg(&mounted.file);
        let device = succeed(&mut losetup)?;
        mounted.device = Some(device.clone());
        succeed(Command::new("mount").arg(device).arg(&mounted.point))?;
        mounted.in_use = true;
        Ok(mounted)
    }

    /// Where it is mounted.
    pub(super) fn directory(&self) -> &Path {
        &self.point
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
        let _ = fs::remove_file(&self.file);
    }
}

/// What a command printed, which must succeed.
fn succeed(command: &mut Command) -> Result<String> {
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
