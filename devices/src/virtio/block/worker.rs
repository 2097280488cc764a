//! The I/O thread of a block device. It opens the disk, serves the queues, and closes the disk.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};

use disk::{Disk, EventReceiver, Executor, Properties};
use vmm_sys_util::eventfd::EventFd;

use super::execute::{Backend, Serial};
use super::request::Limits;
use super::session::{Served, Session};
use super::statistics::Counters;
use crate::virtio::device::Notifier;

/// What the other threads ask of the I/O thread.
pub(super) enum Command {
    /// Serves queues, until the next reset.
    Activate {
        queues: Vec<Served>,
        features: u64,
        notifier: Arc<dyn Notifier>,
    },
    /// Stops serving, and says when.
    Reset(SyncSender<()>),
    /// Stops serving, closes the disk and ends the thread.
    Close,
}

/// What the I/O thread is made of.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) serial: Serial,
    pub(super) counters: Arc<Counters>,
    pub(super) writeback: Arc<AtomicBool>,
    pub(super) commands: Receiver<Command>,
    /// Signalled after each command.
    pub(super) wakeup: Arc<EventFd>,
}

/// What the disk counted, and whether it was closed in order.
pub(super) type Ending = (disk::Statistics, Result<(), disk::Error>);

impl Worker {
    /// The whole life of the thread. Says in `opened` how opening went; where it failed, nothing
    /// else happens.
    pub(super) fn run<F>(
        self,
        open: impl FnOnce() -> F,
        opened: &SyncSender<Result<Properties, disk::Error>>,
    ) -> Ending
    where
        F: Future<Output = Result<Rc<dyn Disk>, disk::Error>>,
    {
        let disk = Executor::new().and_then(|executor| {
            let disk = executor.run(open())?;
            Ok((executor, disk))
        });
        let (executor, disk) = match disk {
            Ok(disk) => disk,
            Err(error) => {
                // Who started the thread waits for this.
                let _ = opened.send(Err(error));
                return (disk::Statistics::default(), Ok(()));
            }
        };
        let _ = opened.send(Ok(disk.properties()));
        executor.run(async {
            self.serve(&disk).await;
            let closed = disk.close().await;
            (disk.statistics(), closed)
        })
    }

    /// Obeys commands up to the one that ends the thread.
    async fn serve(self, disk: &Rc<dyn Disk>) {
        let wakeup = EventReceiver::new(self.wakeup);
        let properties = disk.properties();
        let backend = Rc::new(Backend {
            name: self.name,
            serial: self.serial,
            disk: Rc::clone(disk),
            counters: self.counters,
            writeback: self.writeback,
            failed: Cell::new(false),
            broken: Cell::new(false),
        });
        let mut session: Option<Rc<Session>> = None;
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(TryRecvError::Disconnected) => Command::Close,
                Err(TryRecvError::Empty) => {
                    if wakeup.recv().await.is_ok() {
                        continue;
                    }
                    Command::Close
                }
            };
            if matches!(command, Command::Close) {
                // The guest is stopped: what it waits for may never come.
                disk.give_up();
            }
            if let Some(session) = session.take() {
                session.stop().await;
            }
            match command {
                Command::Activate {
                    queues,
                    features,
                    notifier,
                } => {
                    let limits = Limits {
                        size_bytes: properties.size_bytes,
                        read_only: properties.read_only,
                        features,
                    };
                    let backend = Rc::clone(&backend);
                    session = Some(Session::start(backend, limits, notifier, queues));
                }
                Command::Reset(done) => {
                    // Who asked waits for this.
                    let _ = done.send(());
                }
                Command::Close => return,
            }
        }
    }
}
