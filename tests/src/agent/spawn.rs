//! Starts a command in a session of its own, on pipes or on a terminal.
#![expect(
    unsafe_code,
    reason = "what a child does between fork and exec is an unsafe hook"
)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, ioctl_tiocsctty, set_parent_process_death_signal, setsid};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::protocol::Spec;

/// A started command and the other ends of its streams.
pub(super) struct Spawned {
    pub(super) child: Child,
    pub(super) input: Box<dyn Write + Send>,
    pub(super) output: Box<dyn Read + Send>,
    /// Nothing where a terminal carries both.
    pub(super) error: Option<Box<dyn Read + Send>>,
}

/// Starts `spec`. The child leads its own process group and dies with the thread that called this.
pub(super) fn spawn(spec: &Spec) -> io::Result<Spawned> {
    let named = |error: io::Error| {
        let program = spec.argv.first().map_or("", String::as_str);
        io::Error::new(error.kind(), format!("{program}: {error}"))
    };
    start(spec).map_err(named)
}

fn start(spec: &Spec) -> io::Result<Spawned> {
    let [program, arguments @ ..] = spec.argv.as_slice() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "no program named",
        ));
    };
    fs::create_dir_all(&spec.cwd)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(spec.env.iter().cloned())
        .current_dir(&spec.cwd);
    match spec.terminal {
        None => on_pipes(command),
        Some((rows, columns)) => on_terminal(command, rows, columns),
    }
}

/// Has the kernel kill the child when the calling thread ends, so that nothing outlives a test
/// program that was killed. The thread must live as long as the child is wanted.
pub(crate) fn die_with_parent(command: &mut Command) {
    // SAFETY: the hook makes one system call and touches no memory of the parent.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
}

/// Leaves `fds` open in the child, under the same numbers. They close here with the command.
pub(crate) fn inherit(command: &mut Command, fds: Vec<OwnedFd>) {
    // SAFETY: the hook makes system calls on descriptors that it owns, and nothing else.
    unsafe {
        command.pre_exec(move || {
            fds.iter()
                .try_for_each(|fd| Ok(fcntl_setfd(fd, FdFlags::empty())?))
        });
    }
}

fn lead_session(command: &mut Command, terminal: bool) {
    die_with_parent(command);
    // SAFETY: the hook makes two system calls and touches no memory of the parent.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            if terminal {
                ioctl_tiocsctty(rustix::stdio::stdin())?;
            }
            Ok(())
        });
    }
}

fn on_pipes(mut command: Command) -> io::Result<Spawned> {
    lead_session(&mut command, false);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn()?;
    let missing = || io::Error::other("a standard stream is not a pipe");
    Ok(Spawned {
        input: Box::new(child.stdin.take().ok_or_else(missing)?),
        output: Box::new(child.stdout.take().ok_or_else(missing)?),
        error: Some(Box::new(child.stderr.take().ok_or_else(missing)?)),
        child,
    })
}

fn on_terminal(mut command: Command, rows: u16, columns: u16) -> io::Result<Spawned> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    tcsetwinsize(
        &ours,
        Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    lead_session(&mut command, true);
    command
        .stdin(theirs.try_clone()?)
        .stdout(theirs.try_clone()?)
        .stderr(theirs);
    let child = command.spawn()?;
    let ours = File::from(ours);
    Ok(Spawned {
        child,
        input: Box::new(ours.try_clone()?),
        output: Box::new(ours),
        error: None,
    })
}
