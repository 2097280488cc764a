//! `cargo xtask lab`: any command inside the emulated KVM host.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use tests::Parts;
use tests::agent::init::WORK_DIR;
use tests::agent::protocol::{Exit, Spec};
use tests::lab::share::{PARTS_DIR, Share};
use tests::lab::{Config, Lab, make_disk, scratch};
use tests::process::Process;

use crate::attach;

/// The size of the disk that stays; it takes space only where it is written.
const DISK_BYTES: u64 = 64 << 30;
/// What is taken along where this machine has it.
const TOOLS: [&str; 12] = [
    "bash",
    "cmp",
    "cp",
    "debugfs",
    "e2fsck",
    "fio",
    "mke2fs",
    "qemu-img",
    "qemu-io",
    "qemu-system-x86_64",
    "strace",
    "tune2fs",
];
/// Where the share has the named files.
const FILES_DIR: &str = "/files";
/// Firmware for `qemu-system-x86_64`.
const FIRMWARE: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];
/// What a shell shows for a command that was killed, as one that loses its machine is.
const KILLED: u8 = 128 + 9;
/// How long copying the named files, or writing the disk back, may say nothing.
const PATIENCE: Duration = Duration::from_mins(10);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Put a copy of this file into the working directory
    #[arg(long, value_name = "HOSTPATH", value_parser = crate::existing_file)]
    file: Vec<PathBuf>,
    /// Kill the emulated host after this many seconds; the status is 137 then
    #[arg(long, value_name = "SECS")]
    power_cut_after: Option<f64>,
    /// Begin with an empty disk
    #[arg(long)]
    fresh: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let parts = &Parts::get()?;
    let directory = scratch()?.join("xtask");
    fs::create_dir_all(&directory)?;
    let lock = directory.join("lock");
    let lock = File::create(&lock).with_context(|| format!("{}: create", lock.display()))?;
    lock.lock().context("cannot wait for the other lab")?;

    let disk = directory.join("disk.img");
    if arguments.fresh || !disk.exists() {
        make_disk(&disk, DISK_BYTES)?;
    }
    let share = share(parts, &directory, arguments)?;
    let lab = Lab::start(Config::default(), &parts.kernel, &share, &disk, &directory)?;
    copy_in(&lab, &share, &arguments.file)?;

    let terminal = attach::terminal_size();
    let process = spawn(&lab, arguments.command.clone(), terminal)?;
    let deadline = arguments
        .power_cut_after
        .map(Duration::try_from_secs_f64)
        .transpose()?;
    let deadline = deadline.map(|after| Instant::now() + after);
    let Some(exit) = attach::attach(process, terminal.is_some(), deadline)? else {
        lab.power_cut();
        eprintln!("xtask: power cut; a next run without --fresh finds the disk as it is now");
        return Ok(ExitCode::from(KILLED));
    };
    command(&lab, &["sync"])?;
    Ok(ExitCode::from(
        u8::try_from(exit.shell_status()).unwrap_or(u8::MAX),
    ))
}

fn share(parts: &Parts, directory: &Path, arguments: &Arguments) -> Result<Share> {
    let mut share = Share::new(directory, &parts.busybox)?;
    let first = arguments.command.first().map(String::as_str);
    for tool in TOOLS.into_iter().chain(first) {
        // A tool that this machine lacks is missed there only by who calls it.
        let _ = share.program(tool);
    }
    for firmware in FIRMWARE.map(Path::new) {
        if firmware.is_dir() {
            share.directory(firmware)?;
        }
    }
    share.static_program(&parts.microvm, "microvm")?;
    for (file, name) in parts.files() {
        share.file(&file, &Path::new(PARTS_DIR).join(name))?;
    }
    for file in &arguments.file {
        let name = file.file_name().context("no file name")?;
        share.file(file, &Path::new(FILES_DIR).join(name))?;
    }
    Ok(share)
}

/// Copies the named files from the share, which cannot be written, to the working directory.
fn copy_in(lab: &Lab, share: &Share, files: &[PathBuf]) -> Result<()> {
    for file in files {
        let place = share
            .places()
            .get(file)
            .context("a file is missing in the share")?;
        command(
            lab,
            &["cp", "--sparse=always", &place.display().to_string(), "."],
        )
        .with_context(|| format!("{}: copy into the lab", file.display()))?;
    }
    Ok(())
}

fn command(lab: &Lab, argv: &[&str]) -> Result<()> {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    let output = spawn(lab, argv, None)?.output(PATIENCE)?;
    anyhow::ensure!(
        output.exit == Exit::Status(0),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

fn spawn(lab: &Lab, argv: Vec<String>, terminal: Option<(u16, u16)>) -> Result<Process> {
    Process::start(
        lab.ports(),
        Spec {
            argv,
            env: Vec::new(),
            cwd: WORK_DIR.to_owned(),
            terminal,
        },
    )
}
