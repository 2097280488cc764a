//! The disks of a machine: how they are opened, also at the next boot, and the way to those that
//! are in use.

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use disk::{BoxFuture, Disk, EventReceiver, Exchange, Format, spawn};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::cli::DiskArgument;
use crate::image::create_overlay;

/// The disks of a machine.
pub(crate) struct Disks {
    list: Mutex<Vec<DiskArgument>>,
    /// Whether there is anybody who may have them exchanged.
    exchangeable: bool,
    /// The way to the threads of those that are in use, by number.
    inboxes: Mutex<Vec<Option<Inbox>>>,
}

/// A disk that is being opened.
type Opening = BoxFuture<'static, Result<Rc<dyn Disk>, disk::Error>>;

/// The way to the thread of a disk.
struct Inbox {
    jobs: Sender<Job>,
    event: Arc<EventFd>,
}

/// A snapshot to be taken.
struct Job {
    file: PathBuf,
    format: Format,
    done: Sender<Result<()>>,
}

impl Disks {
    /// With `exchangeable`, they can be exchanged while they are in use.
    pub(crate) fn new(list: Vec<DiskArgument>, exchangeable: bool) -> Self {
        Self {
            inboxes: Mutex::new(list.iter().map(|_| None).collect()),
            list: Mutex::new(list),
            exchangeable,
        }
    }

    /// How to open them now.
    pub(crate) fn list(&self) -> Vec<DiskArgument> {
        lock(&self.list).clone()
    }

    /// What opens disk `number`, on the thread that will use it.
    pub(crate) fn opener(
        self: &Arc<Self>,
        number: usize,
        argument: &DiskArgument,
    ) -> Result<impl FnOnce() -> Opening + Send + use<>> {
        let options = argument.open_options();
        let waiting = self.exchangeable.then(|| self.inbox(number)).transpose()?;
        let disks = Arc::clone(self);
        Ok(move || {
            let opening: Opening = Box::pin(async move {
                let disk = options.open().await?;
                let Some((jobs, event)) = waiting else {
                    return Ok(disk);
                };
                let disk = Rc::new(Exchange::new(disk));
                let event = EventReceiver::new(event);
                spawn(obey(disks, number, Rc::clone(&disk), jobs, event));
                Ok(disk as Rc<dyn Disk>)
            });
            opening
        })
    }

    fn inbox(&self, number: usize) -> Result<(Receiver<Job>, Arc<EventFd>)> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).context("cannot make an event")?;
        let event = Arc::new(event);
        let (jobs, waiting) = channel();
        lock(&self.inboxes)[number] = Some(Inbox {
            jobs,
            event: Arc::clone(&event),
        });
        Ok((waiting, event))
    }

    /// Puts a new overlay, `file`, on the disk called `name`, and waits until it is in use.
    pub(super) fn snapshot(&self, name: &str, file: PathBuf, format: Format) -> Result<()> {
        let (done, reply) = channel();
        let job = Job { file, format, done };
        let number = name
            .strip_prefix("blk")
            .and_then(|number| number.parse().ok());
        {
            let inboxes = lock(&self.inboxes);
            let inbox = number.and_then(|number: usize| inboxes.get(number));
            let inbox = inbox.with_context(|| {
                let known = (0..inboxes.len()).map(|number| format!("blk{number}"));
                let known = known.collect::<Vec<_>>().join(", ");
                format!("'{name}' is no disk of the machine, which has {known}")
            })?;
            let inbox = inbox.as_ref().context("the machine is just starting")?;
            let sent = inbox.jobs.send(job);
            sent.ok().context("the disk is closed")?;
            inbox.event.write(1).context("cannot wake the disk")?;
        }
        reply.recv().context("the machine has ended")?
    }

    /// Takes a snapshot of disk `number`.
    async fn take(
        &self,
        number: usize,
        disk: &Exchange,
        file: PathBuf,
        format: Format,
    ) -> Result<()> {
        let old = lock(&self.list)[number].clone();
        if old.read_only || old.snapshot.is_some() {
            bail!("the disk is read-only: it stays as it is without a snapshot");
        }
        if old.data_file.is_some() {
            bail!("the disk was given data-file=, which nobody would give below a new image");
        }
        let base_format = old.format.unwrap_or(Format::Raw);
        let size_bytes = disk.properties().size_bytes;
        create_overlay(&file, format, (&old.path, base_format), size_bytes).await?;
        let new = old.overlaid(file, format);
        let exchanged = disk
            .exchange(
                async || new.open_options().open().await,
                async || old.open_options().open().await,
            )
            .await;
        match exchanged {
            Ok(()) => lock(&self.list)[number] = new,
            Err(error) => {
                // It is empty, and nobody uses it.
                let _ = std::fs::remove_file(&new.path);
                return Err(error.into());
            }
        }
        Ok(())
    }
}

/// Does what is asked of a disk, for as long as its thread runs.
async fn obey(
    disks: Arc<Disks>,
    number: usize,
    disk: Rc<Exchange>,
    jobs: Receiver<Job>,
    event: EventReceiver,
) {
    loop {
        match jobs.try_recv() {
            Ok(Job { file, format, done }) => {
                // Whoever has asked may be gone.
                let _ = done.send(disks.take(number, &disk, file, format).await);
            }
            Err(TryRecvError::Disconnected) => return,
            Err(TryRecvError::Empty) => {
                if event.recv().await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What is in there is whole whatever a thread that panicked was about to do.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
