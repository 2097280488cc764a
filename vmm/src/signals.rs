//! The signals that the program answers, as bytes on sockets that an event loop can wait for.

use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::low_level::pipe;

/// Counts the signals of one kind.
pub(crate) struct SignalPipe(UnixStream);

impl SignalPipe {
    fn new(signals: &[i32]) -> Result<Self> {
        let refused = "cannot install signal handlers";
        let (read, write) = UnixStream::pair().context(refused)?;
        read.set_nonblocking(true).context(refused)?;
        for &signal in signals {
            pipe::register(signal, write.try_clone().context(refused)?).context(refused)?;
        }
        Ok(Self(read))
    }

    /// How many came since the last call.
    pub(crate) fn take(&mut self) -> usize {
        let mut count = 0;
        let mut bytes = [0; 16];
        loop {
            match self.0.read(&mut bytes) {
                Ok(0) => return count,
                Ok(read) => count += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return count,
            }
        }
    }

    /// Waits for one since the last call, as one of the tasks of an executor.
    pub(crate) async fn next(&mut self) {
        while self.take() == 0 {
            let socket = self.0.as_fd().try_clone_to_owned();
            let waited = match socket {
                Ok(socket) => disk::readable(Arc::new(socket)).await,
                Err(error) => Err(error),
            };
            if let Err(error) = waited {
                tracing::warn!(%error, "cannot wait for signals");
                return;
            }
        }
    }
}

impl AsFd for SignalPipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The signals of interest.
pub(crate) struct Signals {
    /// Somebody wants the program to end: SIGTERM, SIGINT, SIGHUP, SIGQUIT.
    pub(crate) end: SignalPipe,
    /// The program goes on after it was stopped: SIGCONT.
    pub(crate) resume: SignalPipe,
    /// The guest has been asked to switch itself off. A guest that resets instead has been asked.
    pub(crate) asked_to_end: bool,
}

impl Signals {
    /// Takes over the signals from their default actions.
    pub(crate) fn install() -> Result<Self> {
        let end = SignalPipe::new(&[SIGTERM, SIGINT, SIGHUP, SIGQUIT])?;
        let resume = SignalPipe::new(&[SIGCONT])?;
        Ok(Self {
            end,
            resume,
            asked_to_end: false,
        })
    }
}
