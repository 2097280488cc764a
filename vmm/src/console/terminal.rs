//! The user's terminal in raw mode while the guest has it, and back whatever happens.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetpgrp, tcsetattr};

/// The settings to go back to, while the terminal is raw. Global, because a panic or a signal on
/// any thread must restore them.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal on standard input, raw until this is dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Makes the terminal raw; without a terminal on standard input there is nothing to do.
    pub(crate) fn enter() -> Result<Option<Self>> {
        let terminal = stdin();
        if !isatty(terminal) || !in_foreground(terminal) {
            return Ok(None);
        }
        let settings = tcgetattr(terminal).context("cannot read the terminal's settings")?;
        super::crash::restore_on_fatal_signal();
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some(settings.clone());
        set_raw(settings)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes the terminal raw again, if it was, after a shell has had it (job control).
pub(crate) fn resume() -> Result<()> {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    saved
        .filter(|_| in_foreground(stdin()))
        .map_or(Ok(()), set_raw)
}

/// A background process that changes the terminal is stopped by the kernel.
fn in_foreground(terminal: BorrowedFd<'_>) -> bool {
    tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp())
}

fn set_raw(mut settings: Termios) -> Result<()> {
    settings.make_raw();
    tcsetattr(stdin().as_fd(), OptionalActions::Now, &settings)
        .map_err(io::Error::from)
        .context("cannot make the terminal raw")
}

/// Gives the terminal back as it was; harmless when it is not raw.
pub(crate) fn restore() {
    let saved = SAVED.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(settings) = saved {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(stdin().as_fd(), OptionalActions::Now, &settings);
    }
}

/// Has a panic on any thread restore the terminal before its message is printed.
pub(crate) fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
}
