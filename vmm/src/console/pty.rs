//! A pseudo-terminal as the guest's console, for `screen` or `minicom` to attach to.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// How often to look whether who is attached has left without taking the output.
const ROOM_INTERVAL: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

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
        let flags = fcntl_getfl(&master)? | OFlags::NONBLOCK;
        fcntl_setfl(&master, flags).context("cannot prepare the pseudo-terminal")?;
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
    wait_for_room(master, &Timespec::default())
}

/// Waits until there is room for output, or nobody left to take it. False if nobody is attached.
fn wait_for_room(master: &impl AsFd, timeout: &Timespec) -> bool {
    let mut fds = [PollFd::new(master, PollFlags::OUT)];
    let polled = poll(&mut fds, Some(timeout));
    polled.is_ok() && !fds[0].revents().contains(PollFlags::HUP)
}

/// Writes console output to a pseudo-terminal; what comes while nobody is attached is dropped, or
/// the guest would stop when the kernel's small buffer is full.
///
/// The descriptor does not block: a write that waits for room would go on waiting after the one
/// who was attached has left.
pub(crate) struct PtySink(pub(crate) File);

impl Write for PtySink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        while wait_for_room(&self.0, &ROOM_INTERVAL) {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Who was attached has just left, and may come back.
                Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
                result => return result,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn who_leaves_in_the_middle_of_output_does_not_end_the_console() {
        let pty = Pty::open().unwrap();
        let mut slave = File::open(&pty.path).unwrap();
        let mut sink = PtySink(File::from(pty.try_clone().unwrap()));
        // More than the kernel buffers: the write is under way when the other end closes.
        let writer = std::thread::spawn(move || sink.write_all(&vec![b'x'; 1 << 20]));
        slave.read_exact(&mut [0; 1]).unwrap();
        drop(slave);
        writer.join().unwrap().unwrap();
    }

    #[test]
    fn who_is_attached_gets_all_output_however_slowly_it_is_read() {
        let pty = Pty::open().unwrap();
        let mut slave = File::open(&pty.path).unwrap();
        let mut sink = PtySink(File::from(pty.try_clone().unwrap()));
        let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        let bytes = sent.clone();
        let writer = std::thread::spawn(move || sink.write_all(&bytes));
        let mut got = vec![0; sent.len()];
        slave.read_exact(&mut got).unwrap();
        assert!(got == sent);
        writer.join().unwrap().unwrap();
    }
}
