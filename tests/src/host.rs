//! The host that guests run on: this machine where its KVM is native, else the lab.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::agent::init::WORK_DIR;
use crate::agent::protocol::Spec;
use crate::lab::share::{PARTS_DIR, Share};
use crate::lab::{self, Config, Drive, Lab};
use crate::parts::Parts;
use crate::ports::Ports;
use crate::process::{Output, Process};

/// Set to `native` or `lab`, decides where guests run instead of a look at this machine's KVM.
pub const HOST_VARIABLE: &str = "MICROVM_TEST_HOST";
/// The size of the emulated host's disk; it takes space only where it is written.
const LAB_DISK_BYTES: u64 = 32 << 30;
/// How long a command other than a guest may say nothing.
const PATIENCE: Duration = Duration::from_mins(10);

/// Where guests run, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// On this machine's own KVM.
    Native,
    /// In the lab; the reason.
    Lab(String),
}

impl Choice {
    /// Asks `microvm doctor` what this machine's KVM is worth, unless the environment decides.
    pub fn make(microvm: &Path) -> Result<Self> {
        match std::env::var(HOST_VARIABLE).as_deref() {
            Ok("native") => return Ok(Self::Native),
            Ok("lab") => return Ok(Self::Lab(format!("{HOST_VARIABLE} says so"))),
            Ok(other) => bail!("{HOST_VARIABLE}: '{other}' is neither native nor lab"),
            Err(_) => {}
        }
        let report = Command::new(microvm).arg("doctor").output();
        let report = report.with_context(|| format!("{}: run", microvm.display()))?;
        if report.status.success() {
            return Ok(Self::Native);
        }
        let text = String::from_utf8_lossy(&report.stdout).into_owned();
        let failure = text.lines().find_map(|line| line.strip_prefix("FAIL"));
        Ok(Self::Lab(
            failure.unwrap_or("microvm doctor failed").trim().to_owned(),
        ))
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Native => write!(f, "native KVM"),
            Self::Lab(reason) => write!(f, "lab ({reason})"),
        }
    }
}

/// A host for guests, and the way to run commands on it.
#[derive(Debug)]
pub struct Host {
    ports: Ports,
    lab: Option<Lab>,
    places: HashMap<PathBuf, PathBuf>,
    work_dir: PathBuf,
    directory: PathBuf,
    parts: Parts,
}

impl Host {
    /// This machine where its KVM is native, else an emulated host.
    pub fn start(parts: Parts) -> Result<Self> {
        match Choice::make(&parts.microvm)? {
            Choice::Native => Self::native(parts),
            Choice::Lab(_) => Self::emulated(parts),
        }
    }

    /// This machine, whatever its KVM is.
    pub fn native(parts: Parts) -> Result<Self> {
        let directory = scratch()?;
        Ok(Self {
            ports: Ports::local(),
            lab: None,
            places: HashMap::new(),
            work_dir: directory.clone(),
            directory,
            parts,
        })
    }

    /// An emulated host, whatever this machine's KVM is.
    pub fn emulated(parts: Parts) -> Result<Self> {
        Self::emulated_with(parts, |_| Ok(()))
    }

    /// The same, which has what `bring` adds to its programs.
    pub fn emulated_with(
        parts: Parts,
        bring: impl FnOnce(&mut Share) -> Result<()>,
    ) -> Result<Self> {
        Self::emulated_with_drives(parts, &[], bring)
    }

    /// The same, which has these drives too.
    pub fn emulated_with_drives(
        parts: Parts,
        drives: &[Drive],
        bring: impl FnOnce(&mut Share) -> Result<()>,
    ) -> Result<Self> {
        let directory = scratch()?;
        let mut share = share(&parts, &directory)?;
        bring(&mut share)?;
        let disk = directory.join("disk.img");
        lab::make_disk(&disk, LAB_DISK_BYTES)?;
        let disks = (disk.as_path(), drives);
        let lab = Lab::start_with(Config::default(), &parts.kernel, &share, disks, &directory)?;
        Ok(Self {
            ports: lab.ports().clone(),
            lab: Some(lab),
            places: share.places().clone(),
            work_dir: WORK_DIR.into(),
            directory,
            parts,
        })
    }

    /// What its guests are made of.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Cuts the power of an emulated host and boots it again from what its disk holds.
    pub fn power_cut(&mut self) -> Result<()> {
        let lab = self
            .lab
            .take()
            .context("this machine's power is not ours to cut")?
            .restart()?;
        self.ports = lab.ports().clone();
        self.lab = Some(lab);
        Ok(())
    }

    /// Where the host sees a file of this machine that is one of the [`Parts`].
    pub fn path(&self, path: &Path) -> PathBuf {
        self.places
            .get(path)
            .cloned()
            .unwrap_or_else(|| path.to_owned())
    }

    /// Where an emulated host has the drive with this serial number.
    pub fn drive(&self, serial: &str) -> Result<String> {
        let found = self.run(&format!("grep -lx '{serial}' /sys/block/*/serial"))?;
        let name = found.trim().strip_suffix("/serial");
        let name = name.and_then(|path| path.rsplit('/').next());
        Ok(format!(
            "/dev/{}",
            name.context("no disk with this number")?
        ))
    }

    /// The program under test, as the host finds it.
    pub fn microvm(&self) -> String {
        match self.lab {
            Some(_) => "microvm".to_owned(),
            None => self.parts.microvm.display().to_string(),
        }
    }

    /// A file name that nothing else on the host uses.
    pub fn fresh_path(&self, name: &str) -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        self.work_dir
            .join(format!("{}-{name}", NEXT.fetch_add(1, Ordering::Relaxed)))
    }

    /// A fresh disk with an empty ext4 file system on it; `size` as `64M`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn ext4_disk(&self, size: &str) -> String {
        let disk = self.blank_disk(size);
        // Programs of the administrator are not in everybody's PATH.
        self.must_run(&format!(
            "PATH=$PATH:/usr/sbin:/sbin; mke2fs -q -F -t ext4 '{disk}'"
        ));
        disk
    }

    /// A fresh disk of zeroes; `size` as `64M`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn blank_disk(&self, size: &str) -> String {
        let disk = self.fresh_path("disk.img").display().to_string();
        self.must_run(&format!("truncate -s {size} '{disk}'"));
        disk
    }

    /// A fresh qcow2 image whose backing file is the raw image `base`.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn overlay(&self, base: &str) -> String {
        let overlay = self.fresh_path("overlay.qcow2").display().to_string();
        self.must_run(&format!(
            "{} image create -q -f qcow2 -b '{base}' -F raw '{overlay}'",
            self.microvm()
        ));
        overlay
    }

    /// Runs a shell script and returns its output.
    ///
    /// # Panics
    /// When its status is not 0.
    #[track_caller]
    pub fn must_run(&self, script: &str) -> String {
        match self.run(script) {
            Ok(output) => output,
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Reads a whole file of the host.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let argv = ["cat", path].map(str::to_owned);
        let output = self.spawn(&argv, None)?.output(PATIENCE)?;
        if output.exit.shell_status() != 0 {
            bail!("{path}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(output.stdout)
    }

    /// Starts a command on pipes, or on a terminal of so many rows and columns.
    pub fn spawn(&self, argv: &[String], terminal: Option<(u16, u16)>) -> Result<Process> {
        let cwd = self.work_dir.display().to_string();
        Process::start(
            &self.ports,
            Spec {
                argv: argv.to_vec(),
                env: Vec::new(),
                cwd,
                terminal,
            },
        )
    }

    /// Runs a shell script to its end and returns its output, an error unless its status is 0.
    pub fn run(&self, script: &str) -> Result<String> {
        let argv = ["sh", "-c", script].map(str::to_owned);
        let Output {
            stdout,
            stderr,
            exit,
        } = self.spawn(&argv, None)?.output(PATIENCE)?;
        let [stdout, stderr] =
            [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        if exit.shell_status() != 0 {
            bail!("{script}: {exit:?}\n{stdout}{stderr}");
        }
        Ok(stdout)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.lab = None;
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A directory of this process's own. What processes left behind that were killed is removed.
fn scratch() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let parent = lab::scratch()?;
    remove_stale(&parent);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let directory = parent.join(format!("{}-{number}", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    Ok(directory)
}

fn remove_stale(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .split_once('-')
            .and_then(|(pid, _)| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// What the emulated host gets: the program under test, the guest parts, and tools.
fn share(parts: &Parts, directory: &Path) -> Result<Share> {
    let mut share = Share::new(directory, &parts.busybox)?;
    share.static_program(&parts.microvm, "microvm")?;
    share.program("mke2fs")?;
    share.program("cp")?;
    share.program("e2fsck")?;
    // Where this machine lacks it, tests do without its opinion.
    let _ = share.program("qemu-img");
    for (file, name) in parts.files() {
        share.file(&file, &Path::new(PARTS_DIR).join(name))?;
    }
    Ok(share)
}
