//! The way to a block device's I/O thread, from wherever the device itself went.

use std::io;
use std::sync::mpsc::{Sender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use vmm_sys_util::eventfd::EventFd;

use super::statistics::{BlockStatistics, Counters};
use super::worker::{Command, Ending};
use crate::Error;

/// Closes a block device's disk and reads its statistics, while a transport owns the device.
#[derive(Clone)]
pub struct BlockHandle {
    shared: Arc<Shared>,
}

struct Shared {
    name: String,
    counters: Arc<Counters>,
    commands: Sender<Command>,
    wakeup: Arc<EventFd>,
    thread: Mutex<Thread>,
}

/// How far the I/O thread has come.
struct Thread {
    /// Present until someone closes the disk.
    running: Option<JoinHandle<Ending>>,
    /// What the disk counted, once it is closed.
    disk: Option<disk::Statistics>,
}

impl BlockHandle {
    pub(super) fn new(
        name: String,
        counters: Arc<Counters>,
        commands: Sender<Command>,
        wakeup: Arc<EventFd>,
        thread: JoinHandle<Ending>,
    ) -> Self {
        let thread = Mutex::new(Thread {
            running: Some(thread),
            disk: None,
        });
        Self {
            shared: Arc::new(Shared {
                name,
                counters,
                commands,
                wakeup,
                thread,
            }),
        }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Answers the requests in flight, flushes the disk, gives its image back to others, and ends
    /// the I/O thread. The guest's requests stay unanswered from then on, so it is best stopped
    /// before. Closing a closed device does nothing.
    pub fn close(&self) -> Result<(), Error> {
        let mut thread = self.thread();
        let Some(running) = thread.running.take() else {
            return Ok(());
        };
        // A thread that is gone already says why below.
        let _ = self.send(Command::Close);
        let (disk, closed) = running.join().map_err(|_| self.gone())?;
        thread.disk = Some(disk);
        Ok(closed?)
    }

    /// What the device has done so far.
    pub fn statistics(&self) -> BlockStatistics {
        let disk = self.thread().disk;
        self.shared.counters.snapshot(disk.as_ref())
    }

    pub(super) fn send(&self, command: Command) -> Result<(), Error> {
        self.shared
            .commands
            .send(command)
            .map_err(|_| self.gone())?;
        // A counter that is full has a signal to be seen already.
        let _ = self.shared.wakeup.write(1);
        Ok(())
    }

    /// Returns when the I/O thread touches neither queues nor guest memory.
    pub(super) fn reset(&self) {
        let (done, reset) = sync_channel(1);
        if self.send(Command::Reset(done)).is_ok() {
            // An error says that the thread is gone, which is as good.
            let _ = reset.recv();
        }
    }

    fn thread(&self) -> MutexGuard<'_, Thread> {
        self.shared
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn gone(&self) -> Error {
        gone(self.name())
    }
}

/// The I/O thread ended before it was told to.
pub(super) fn gone(device: &str) -> Error {
    Error::Host {
        device: device.to_owned(),
        operation: "reach its I/O thread",
        source: io::Error::other("it ended early"),
    }
}
