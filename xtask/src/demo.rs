//! `cargo xtask demo`: the stock kernel, a fresh disk, and files that survive a power-off.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use tests::host::Choice;
use tests::{Ended, Guest, Host, Parts};

use crate::attach;

const DISK_MIB: u32 = 256;
/// Enough files for the guest's file system to need more than its journal.
const FILES: u32 = 200;

pub(crate) fn run(shell: bool) -> Result<ExitCode> {
    let parts = Parts::get()?;
    println!("host:   {}", Choice::make(&parts.microvm)?);
    let host = Host::start(parts)?;
    let parts = host.parts();
    println!(
        "kernel: {} ({})",
        parts.kernel.release(),
        parts.kernel.version()
    );

    let disk = host.ext4_disk(&format!("{DISK_MIB}M"));
    println!("disk:   {DISK_MIB} MiB, ext4, fresh");

    let mut vm = Guest::on(&host).disk(&disk).boot();
    println!("boot 1: {}", vm.shell("uname -a").text);
    let write = format!(
        "i=0; while [ $i -lt {FILES} ]; do \
         dd if=/dev/urandom of=/disk/$i bs=5000 count=1 conv=fsync 2>/dev/null || exit 1; \
         i=$((i+1)); done; cd /disk && cat $(seq 0 {}) | sha256sum",
        FILES - 1
    );
    let written = vm.shell(&write).assert_success().text.clone();
    println!("boot 1: wrote and fsynced {FILES} files");
    check_end(&vm.power_off(), 1)?;

    let mut vm = Guest::on(&host).disk(&disk).boot();
    let read = format!("cd /disk && cat $(seq 0 {}) | sha256sum", FILES - 1);
    let found = vm.shell(&read).assert_success().text.clone();
    ensure!(
        found == written,
        "the files changed: {written} was written, {found} is there"
    );
    println!("boot 2: found {FILES} files as they were written");
    check_end(&vm.power_off(), 2)?;

    if shell {
        leave_at_prompt(&host, &disk)?;
    }
    println!("demo: ok");
    Ok(ExitCode::SUCCESS)
}

fn check_end(ended: &Ended, boot: u32) -> Result<()> {
    ensure!(
        ended.status == 0,
        "boot {boot}: microvm ended with status {}\n{}{}",
        ended.status,
        ended.console,
        ended.stderr
    );
    println!("boot {boot}: powered off");
    Ok(())
}

fn leave_at_prompt(host: &Host, disk: &str) -> Result<()> {
    println!("shell:  the disk is on /disk; 'exit' powers off, Ctrl-A x quits");
    let parts = host.parts();
    let kernel = host.path(&parts.kernel.bzimage()).display().to_string();
    let initrd = host.path(&parts.initramfs).display().to_string();
    let microvm = host.microvm();
    let argv = [
        &microvm,
        "--kernel",
        &kernel,
        "--initrd",
        &initrd,
        "--cmdline",
        "quiet",
        "--disk",
        disk,
    ]
    .map(str::to_owned);
    let terminal = attach::terminal_size();
    let process = host.spawn(&argv, terminal)?;
    let exit = attach::attach(process, terminal.is_some(), None)?;
    let status = exit.map_or(0, tests::agent::protocol::Exit::shell_status);
    ensure!(status == 0, "microvm ended with status {status}");
    Ok(())
}
