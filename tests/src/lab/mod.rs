//! The lab: an emulated KVM host, for machines whose own KVM is missing or interpreted.
//!
//! ```text
//!  this machine    test ── Ports ══ unix sockets ══╗            share.img   disk.img
//!  qemu (TCG)      ································║················│···········│····
//!  emulated host   lab-agent (init) ══ virtio-serial ports       / (ro)     /work
//!                     └─ microvm, qemu, … on /dev/kvm (kvm-amd on emulated SVM)
//!  guest                   └─ stock kernel
//! ```
//!
//! The emulated host is Debian's cloud kernel with [`crate::agent`] as its init. Killing the
//! emulator is a power cut for it: what its kernel had not written to `disk.img` is gone.

mod clock;
mod drive;
mod initramfs;
mod qemu;
pub mod share;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use images::Kernel;
use images::packages::{Tool, require};

pub use clock::Clock;
pub use drive::Drive;
use qemu::{Files, Qemu};
use share::Share;

use crate::artifacts::{self, Profile};
use crate::ports::Ports;

/// From the start of the emulator to the agent's greeting; it takes two seconds when nothing else
/// runs on the machine.
const BOOT_DEADLINE: Duration = Duration::from_mins(2);
/// How much of the emulated host's console an error shows, in lines.
const CONSOLE_LINES: usize = 20;

/// What kind of host to emulate.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Memory in MiB. The machine gives only what is touched.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// What its time follows.
    pub clock: Clock,
}

impl Default for Config {
    /// Room for a guest of 6 GiB and a page cache. One processor: with two, the emulator loses an
    /// interrupt from one to the other every fifty guests or so, and both spin for ever.
    fn default() -> Self {
        Self {
            memory_mib: 9 << 10,
            cpus: 1,
            clock: Clock::RealTime,
        }
    }
}

/// A running emulated host. Dropping it cuts its power.
#[derive(Debug)]
pub struct Lab {
    qemu: Qemu,
    ports: Ports,
    config: Config,
    files: Files,
}

impl Lab {
    /// Boots an emulated host with `share` as its programs and `disk` as its disk, which must be
    /// an image made by [`make_disk`]. Its other files go to `directory`.
    pub fn start(
        config: Config,
        kernel: &Kernel,
        share: &Share,
        disk: &Path,
        directory: &Path,
    ) -> Result<Self> {
        Self::start_with(config, kernel, share, (disk, &[]), directory)
    }

    /// The same, with `drives` beside its disk.
    pub fn start_with(
        config: Config,
        kernel: &Kernel,
        share: &Share,
        (disk, drives): (&Path, &[Drive]),
        directory: &Path,
    ) -> Result<Self> {
        require(&[Tool::QemuSystem, Tool::Mke2fs])?;
        fs::create_dir_all(directory)?;
        let files = Files {
            kernel: kernel.vmlinux(),
            initramfs: directory.join("initramfs.cpio"),
            share: directory.join("share.img"),
            disk: disk.to_owned(),
            drives: drives.to_vec(),
            console: directory.join("console.log"),
        };
        initramfs::write(kernel, &agent()?, &files.initramfs)?;
        share.build(&files.share)?;
        Self::boot(config, files)
    }

    fn boot(config: Config, files: Files) -> Result<Self> {
        let (qemu, streams) = Qemu::start(&files, config.memory_mib, config.cpus, config.clock)?;
        let ports = Ports::connect(streams, BOOT_DEADLINE)
            .with_context(|| format!("the lab does not boot: {}", autopsy(&qemu, &files)))?;
        Ok(Self {
            qemu,
            ports,
            config,
            files,
        })
    }

    /// Where commands can be run.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Kills the emulated host. Its page cache is lost, its disk stays as it is.
    pub fn power_cut(&self) {
        self.qemu.kill();
    }

    /// Cuts the power and boots the host again from the same disk.
    pub fn restart(self) -> Result<Self> {
        self.power_cut();
        Self::boot(self.config, self.files)
    }
}

/// The program that is the emulated host's init.
pub fn agent() -> Result<PathBuf> {
    artifacts::static_program("tests", "lab-agent", Profile::Lab)
}

/// Makes an empty disk for an emulated host. `bytes` is its size; space is taken when written.
pub fn make_disk(path: &Path, bytes: u64) -> Result<()> {
    let mut mke2fs = Command::new("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-m", "0"]);
    mke2fs.arg(path).arg(format!("{}k", bytes / 1024));
    share::run(&mut mke2fs)
}

/// Why an emulated host does not answer, as far as it said.
fn autopsy(qemu: &Qemu, files: &Files) -> String {
    let console = fs::read(&files.console).unwrap_or_default();
    let console = String::from_utf8_lossy(&console).into_owned();
    let lines: Vec<_> = console.lines().collect();
    let tail = lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n");
    format!(
        "{}\n{tail}",
        qemu.last_words()
            .unwrap_or_else(|| "qemu still runs".to_owned())
    )
}

/// Where labs keep their files: a directory of the build's.
pub fn scratch() -> Result<PathBuf> {
    let directory = artifacts::target_dir().join("lab");
    fs::create_dir_all(&directory).with_context(|| format!("{}: create", directory.display()))?;
    Ok(directory)
}
