//! Waiting for an eventfd, a doorbell of a guest for example, in the reactor.
#![expect(unsafe_code, reason = "std has no eventfd")]

use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::rc::Rc;
use std::sync::Arc;

use crate::Error;
use crate::executor::Core;

/// Receives the signals of an eventfd. Signals between two calls count as one, none is lost, and
/// it may wake once without any. Nobody else may read the eventfd.
///
/// With `io_uring` this is one multishot poll for as long as the receiver lives: waking up costs
/// no system call but the one that waits for everything.
pub struct EventReceiver {
    core: Rc<Core>,
    watch: usize,
}

/// An eventfd, however its owner wraps it.
pub(crate) type Event = Arc<dyn AsRawFd + Send + Sync>;

impl EventReceiver {
    /// Starts to watch `event` on this thread's executor.
    ///
    /// # Panics
    /// When no executor runs on this thread.
    pub fn new(event: Arc<impl AsRawFd + Send + Sync + 'static>) -> Self {
        let core = Core::current();
        let watch = core.reactor.watch(event);
        Self { core, watch }
    }

    /// Waits for a signal since the last call. One task at a time may wait.
    pub async fn recv(&self) -> Result<(), Error> {
        poll_fn(|context| self.core.reactor.poll_watch(self.watch, context))
            .await
            .map_err(Error::setup("waiting for an eventfd"))
    }
}

impl Drop for EventReceiver {
    fn drop(&mut self) {
        self.core.reactor.unwatch(self.watch);
    }
}

/// A new eventfd that does not block.
pub(crate) fn eventfd() -> io::Result<File> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { File::from_raw_fd(fd) })
}
