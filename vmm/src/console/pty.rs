//! A pseudo-terminal as the guest's console, for `screen` or `minicom` to attach to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// The program's end of a pseudo-terminal.
#[derive(Debug)]
pub(crate) struct Pty {
    master: OwnedFd,
    /// What the user attaches to.
    pub(crate) path: String,
}

impl Pty {
    /// Makes one, raw: the guest does the echoing.
    pub(crate) fn open() -> Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags).context("cannot make a pseudo-terminal")?;
        grantpt(&master).context("cannot prepare the pseudo-terminal")?;
        unlockpt(&master).context("cannot unlock the pseudo-terminal")?;
        let path = ptsname(&master, Vec::new()).context("the pseudo-terminal has no name")?;
        let path = path.to_string_lossy().into_owned();
        // Opened and closed once, so that the kernel reports "nobody attached" from the beginning.
        let slave = File::options().read(true).write(true).open(&path);
        let slave = slave.with_context(|| format!("{path}: cannot open"))?;
        let mut settings =
            tcgetattr(&slave).context("cannot read the pseudo-terminal's settings")?;
        settings.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &settings)
            .context("cannot make the pseudo-terminal raw")?;
        Ok(Self { master, path })
    }

    /// A second handle to the same end.
    pub(crate) fn try_clone(&self) -> Result<OwnedFd> {
        self.master
            .try_clone()
            .context("cannot duplicate the pseudo-terminal")
    }
}

/// Whether somebody has the other end open.
pub(crate) fn attached(master: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(master, PollFlags::OUT)];
    let polled = poll(
        &mut fds,
        Some(&Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        }),
    );
    polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
}

/// Writes console output to a pseudo-terminal; what comes while nobody is attached is dropped, or
/// the guest would stop when the kernel's small buffer is full.
pub(crate) struct PtySink(pub(crate) File);

impl Write for PtySink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if attached(&self.0) {
            self.0.write(bytes)
        } else {
            Ok(bytes.len())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
