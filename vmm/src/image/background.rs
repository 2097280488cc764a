//! Going to the background.
//!
//! The command is started once more, and tells on its standard output when it is ready: then the
//! first one ends, and the shell goes on. Before that, both are in the foreground, so that Ctrl-C
//! and errors reach whom they concern.
#![expect(unsafe_code, reason = "changes descriptors that it does not own")]

use std::env;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::RawFd;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use rustix::process::setsid;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use super::FAILURE;

/// The program that is running, whatever has become of its file.
const PROGRAM: &str = "/proc/self/exe";
/// The descriptors that are open, by number.
const DESCRIPTORS: &str = "/proc/self/fd";
/// How many words of the command line name the program and the command: microvm image mount.
const COMMAND_WORDS: usize = 3;

/// Starts `microvm image mount` in the background, and returns the exit status once it is mounted,
/// or has failed and said why.
pub(super) fn start() -> Result<u8> {
    let words: Vec<_> = env::args_os().take(COMMAND_WORDS).skip(1).collect();
    let options = env::args_os().skip(COMMAND_WORDS);
    let mut command = Command::new(PROGRAM);
    command.args(words).arg("--detached").args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    keep_from_children().context("cannot go to the background")?;
    let mut child = command.spawn().context("cannot go to the background")?;
    let mut ready = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut ready)?;
    }
    if ready.is_empty() {
        let status = child.wait().context("cannot go to the background")?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        return Ok(code.unwrap_or(FAILURE));
    }
    let _ = io::stdout().write_all(ready.as_bytes());
    Ok(0)
}

/// Has what the shell has opened for us, beside the standard streams, closed in those whom we
/// start: nobody would get a lock back, or see the end of a pipe, before the mount ends.
fn keep_from_children() -> io::Result<()> {
    for entry in fs::read_dir(DESCRIPTORS)? {
        let name = entry?.file_name();
        let Some(descriptor) = name.to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if descriptor > libc::STDERR_FILENO {
            // SAFETY: setting this flag changes nothing for whoever uses the descriptor here.
            let set = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
            if set < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Leaves the terminal, the directory and the standard streams of the shell; calls `announce` while there is still
/// somebody to tell.
pub(super) fn detach(announce: impl FnOnce()) -> Result<()> {
    let cannot = "cannot go to the background";
    let nothing = File::options().read(true).write(true).open("/dev/null");
    let nothing = nothing.context("/dev/null")?;
    setsid().context(cannot)?;
    // Or the file system that the shell was in could not be unmounted.
    env::set_current_dir("/").context(cannot)?;
    dup2_stdin(&nothing).context(cannot)?;
    dup2_stderr(&nothing).context(cannot)?;
    announce();
    dup2_stdout(&nothing).context(cannot)?;
    Ok(())
}
