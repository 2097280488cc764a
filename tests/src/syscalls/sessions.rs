//! Processes that become another program, or leave their session.
#![expect(unsafe_code, reason = "takes a descriptor by its number")]

use std::fs::File;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::io::{FdFlags, fcntl_setfd, write};
use rustix::process::{getpgrp, getpid, getsid};

use super::child;

/// Executes this program again and again, and writes the number of what is left to a file that all
/// share. `rest` is what is handed on: the count at first, the descriptor, the process.
pub(super) fn exec_chain(left: u64, rest: &[&str]) -> Result<String> {
    let process = getpid().to_string();
    let (total, file) = match *rest {
        [] => (left, start()?),
        [total, fd, before] => {
            ensure!(
                process == before,
                "execve changed the process: {before} to {process}"
            );
            let fd: RawFd = fd.parse()?;
            // SAFETY: the program before left it open for this one.
            (
                total.parse()?,
                File::from(unsafe { OwnedFd::from_raw_fd(fd) }),
            )
        }
        _ => bail!("exec-chain COUNT"),
    };
    ensure!(write(&file, &left.to_le_bytes()) == Ok(8), "write");
    if left == 0 {
        check(&file, total)?;
        return Ok(format!("exec-chain execs={total} process={process}"));
    }
    let failed = Command::new(std::env::current_exe().context("/proc/self/exe")?)
        .arg("exec-chain")
        .args([left - 1, total].map(|number| number.to_string()))
        .arg(file.as_raw_fd().to_string())
        .arg(process)
        .exec();
    Err(failed).context("execve")
}

/// A file that outlives `execve`, and is gone with the last program that has it.
fn start() -> Result<File> {
    let path = format!("exec-chain-{}", std::process::id());
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).open(&path);
    let file = file.with_context(|| format!("{path}: create"))?;
    std::fs::remove_file(&path)?;
    fcntl_setfd(&file, FdFlags::empty())?;
    Ok(file)
}

fn check(file: &File, total: u64) -> Result<()> {
    let expected: Vec<_> = (0..=total).rev().flat_map(u64::to_le_bytes).collect();
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0)
        .context("what all wrote")?;
    let bytes = file.metadata()?.len();
    ensure!(
        found == expected && bytes == expected.len() as u64,
        "the programs wrote something else"
    );
    Ok(())
}

/// A child leads a session of its own, and writes in it.
pub(super) fn setsid() -> Result<String> {
    let null = File::options().write(true).open("/dev/null");
    let null = null.context("/dev/null")?;
    let child = child::fork(|| {
        let is_leader = rustix::process::setsid() == Ok(getpid())
            && getsid(None) == Ok(getpid())
            && getpgrp() == getpid();
        u8::from(!(is_leader && write(&null, b"in a session") == Ok(12)))
    })?;
    child::expect(child, 0)?;
    Ok(format!("setsid session={child}"))
}
