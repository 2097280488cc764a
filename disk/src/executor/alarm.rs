//! Wakes an executor that sleeps in its reactor, from any thread.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::event::eventfd;

/// An eventfd that is written only while the executor sleeps.
pub(crate) struct Alarm {
    event: File,
    sleeping: AtomicBool,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            event: eventfd()?,
            sleeping: AtomicBool::new(false),
        })
    }

    /// Whether the executor may sleep: true if `idle` still holds once others have been told that
    /// they must ring. Each side writes its own flag before it reads the other's.
    pub(crate) fn prepare_sleep(&self, idle: impl FnOnce() -> bool) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        let sleep = idle();
        if !sleep {
            self.awake();
        }
        sleep
    }

    /// The executor runs again, and looks at its queues by itself.
    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Wakes the executor if it sleeps; called after the queue was filled.
    pub(crate) fn ring(&self) {
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // It fails only if the counter would overflow, and then it has been rung.
            let _ = (&self.event).write(&1_u64.to_ne_bytes());
        }
    }

    /// Takes back earlier rings.
    pub(crate) fn clear(&self) {
        let _ = (&self.event).read(&mut [0; 8]);
    }
}

impl AsRawFd for Alarm {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}
