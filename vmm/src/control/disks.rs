//! The disks of a machine: how they are opened, also at the next boot, and the way to those that
//! are in use.

use std::cell::OnceCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, bail};
use disk::cache::{Cached, CachedRange};
use disk::{BoxFuture, Disk, EventReceiver, Exchange, Format, Statistics, spawn};
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

/// What is asked of a disk, and where its outcome goes.
enum Job {
    /// To go on in a new overlay.
    Snapshot {
        file: PathBuf,
        format: Format,
        done: Sender<Result<()>>,
    },
    /// To empty its cache.
    ClearCache(Sender<Result<()>>),
    /// To list what its cache has from a byte on.
    ListCache(u64, Sender<Result<Vec<CachedRange>>>),
    /// To say what it has done.
    Statistics(Sender<Result<Statistics>>),
}

/// A disk that is in use.
struct InUse {
    exchange: Rc<Exchange>,
    cache: Option<Rc<Cached>>,
    /// All of it, as its user has it.
    whole: Rc<dyn Disk>,
}

/// As many ranges as fit into a reply.
const RANGES_MAX: usize = 400;

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

    /// What opens disk `number`, on the thread that will use it, with what `tell` puts before it.
    pub(crate) fn opener<T>(
        self: &Arc<Self>,
        number: usize,
        argument: &DiskArgument,
        tell: T,
    ) -> Result<impl FnOnce() -> Opening + Send + use<T>>
    where
        T: FnOnce(Rc<dyn Disk>) -> Rc<dyn Disk> + Send + 'static,
    {
        let argument = argument.clone();
        let waiting = self.exchangeable.then(|| self.inbox(number)).transpose()?;
        let disks = Arc::clone(self);
        Ok(move || {
            let opening: Opening = Box::pin(async move {
                let open = async || argument.open_options().open().await;
                let Some((jobs, event)) = waiting else {
                    return Ok(tell(argument.open_behind_cache(open).await?.0));
                };
                let exchange: OnceCell<Rc<Exchange>> = OnceCell::new();
                // The cache stays what it is when the disk below is exchanged.
                let opened = argument.open_behind_cache(async || {
                    let disk = Rc::new(Exchange::new(open().await?));
                    Ok(Rc::clone(exchange.get_or_init(|| disk)) as Rc<dyn Disk>)
                });
                let (disk, cache) = opened.await?;
                let disk = tell(disk);
                if let Some(exchange) = exchange.into_inner() {
                    let whole = Rc::clone(&disk);
                    let in_use = InUse {
                        exchange,
                        cache,
                        whole,
                    };
                    let event = EventReceiver::new(event);
                    spawn(obey(disks, number, in_use, jobs, event));
                }
                Ok(disk)
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
        self.ask(name, |done| Job::Snapshot { file, format, done })
    }

    /// Empties the cache of the disk called `name`.
    pub(super) fn clear_cache(&self, name: &str) -> Result<()> {
        self.ask(name, Job::ClearCache)
    }

    /// What the cache of the disk called `name` has from byte `offset` on: the first of it.
    pub(super) fn list_cache(&self, name: &str, offset: u64) -> Result<Vec<CachedRange>> {
        self.ask(name, |done| Job::ListCache(offset, done))
    }

    /// What the disk called `name` has done since it was opened.
    pub(super) fn statistics(&self, name: &str) -> Result<Statistics> {
        self.ask(name, Job::Statistics)
    }

    /// What they are called.
    pub(super) fn names(&self) -> Vec<String> {
        let count = lock(&self.list).len();
        (0..count).map(|number| format!("blk{number}")).collect()
    }

    /// Has the disk called `name` do something, and waits for the outcome.
    fn ask<T>(&self, name: &str, job: impl FnOnce(Sender<Result<T>>) -> Job) -> Result<T> {
        let (done, reply) = channel();
        let number = name
            .strip_prefix("blk")
            .and_then(|number| number.parse().ok());
        {
            let inboxes = lock(&self.inboxes);
            let inbox = number.and_then(|number: usize| inboxes.get(number));
            let inbox = inbox.with_context(|| {
                let known = self.names().join(", ");
                format!("'{name}' is no disk of the machine, which has {known}")
            })?;
            let inbox = inbox.as_ref().context("the machine is just starting")?;
            let sent = inbox.jobs.send(job(done));
            sent.ok().context("the disk is closed")?;
            inbox.event.write(1).context("cannot wake the disk")?;
        }
        reply.recv().context("the machine has ended")?
    }

    /// Takes a snapshot of disk `number`.
    async fn take(&self, number: usize, disk: &InUse, file: PathBuf, format: Format) -> Result<()> {
        let old = lock(&self.list)[number].clone();
        if old.read_only || old.snapshot.is_some() {
            bail!("the disk is read-only: it stays as it is without a snapshot");
        }
        if old.data_file.is_some() {
            bail!("the disk was given data-file=, which nobody would give below a new image");
        }
        let base_format = old.format.unwrap_or(Format::Raw);
        let size_bytes = disk.exchange.properties().size_bytes;
        create_overlay(&file, format, (&old.path, base_format), size_bytes).await?;
        let new = old.overlaid(file, format);
        let exchange = async || {
            let next = async || new.open_options().open().await;
            let again = async || old.open_options().open().await;
            disk.exchange.exchange(next, again).await
        };
        let exchanged = match &disk.cache {
            Some(cache) => cache.while_home(new.path.clone(), exchange).await,
            None => exchange().await,
        };
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
    disk: InUse,
    jobs: Receiver<Job>,
    event: EventReceiver,
) {
    loop {
        match jobs.try_recv() {
            // Whoever has asked may be gone.
            Ok(Job::Snapshot { file, format, done }) => {
                let _ = done.send(disks.take(number, &disk, file, format).await);
            }
            Ok(Job::ClearCache(done)) => {
                let _ = done.send(clear_cache(&disk).await);
            }
            Ok(Job::ListCache(offset, done)) => {
                let listed = disk.cached().map(|cache| cache.list(offset, RANGES_MAX));
                let _ = done.send(listed);
            }
            Ok(Job::Statistics(done)) => {
                let _ = done.send(Ok(disk.whole.statistics()));
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

async fn clear_cache(disk: &InUse) -> Result<()> {
    Ok(disk.cached()?.clear().await?)
}

impl InUse {
    fn cached(&self) -> Result<&Cached> {
        let cache = self.cache.as_deref();
        cache.context("the disk has no cache; it gets one by --disk PATH,cache=SIZE")
    }
}

/// What is in there is whole whatever a thread that panicked was about to do.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use disk::graybox::GrayBox;
    use disk::{Buffers, Class, Classified, Executor, Request, yield_now};

    use super::*;

    /// Reads and writes behind a cache until `done`.
    async fn use_disk(disk: &dyn Disk, done: &Receiver<()>) {
        let read = Request::read(8192, Buffers::zeroed(8192)).of_class(Class::Metadata);
        disk.submit(read).await.unwrap();
        let write = Request::write(0, Buffers::from_vec(vec![7; 4096]));
        disk.submit(write).await.unwrap();
        while matches!(done.try_recv(), Err(TryRecvError::Empty)) {
            yield_now().await;
        }
    }

    type Tell = fn(Rc<dyn Disk>) -> Rc<dyn Disk>;

    /// Runs `ask` while a disk with these options, and what `tell` puts before it, is in use on
    /// another thread.
    fn with_disk(options: &str, tell: Tell, ask: impl FnOnce(&Disks, &std::path::Path)) {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        std::fs::write(&image, vec![0; 1 << 20]).unwrap();
        let argument: DiskArgument = format!("{}{options}", image.display()).parse().unwrap();
        let disks = Arc::new(Disks::new(vec![argument.clone()], true));
        let opener = disks.opener(0, &argument, tell).unwrap();
        let (ready, is_open) = channel();
        let (done, is_done) = channel();
        let user = thread::spawn(move || {
            Executor::new().unwrap().run(async {
                let disk = opener().await.unwrap();
                // What is cached is there when somebody asks for it.
                disk.submit(Request::flush()).await.unwrap();
                ready.send(()).unwrap();
                use_disk(disk.as_ref(), &is_done).await;
                disk.close().await.unwrap();
            });
        });
        is_open.recv().unwrap();
        ask(&disks, directory.path());
        done.send(()).unwrap();
        user.join().unwrap();
    }

    /// What is cached, once it is so much.
    fn listed(disks: &Disks, ranges: usize) -> Vec<CachedRange> {
        loop {
            let found = disks.list_cache("blk0", 0).unwrap();
            if found.len() == ranges {
                return found;
            }
        }
    }

    #[test]
    fn a_cache_is_listed_and_cleared_and_outlives_a_snapshot() {
        with_disk(
            ",cache=1M",
            |disk| disk,
            |disks, directory| {
                let found = listed(disks, 2);
                assert_eq!((found[0].offset, found[0].len), (0, 4096));
                assert_eq!((found[1].offset, found[1].len), (8192, 8192));
                assert_eq!(found[1].class, Class::Metadata);
                let overlay = directory.join("overlay");
                disks.snapshot("blk0", overlay, Format::Flat).unwrap();
                assert_eq!(disks.list_cache("blk0", 0).unwrap(), found);
                disks.clear_cache("blk0").unwrap();
                assert_eq!(disks.list_cache("blk0", 0).unwrap(), []);
            },
        );
    }

    #[test]
    fn what_a_disk_has_done_is_what_its_user_asked_for() {
        let tell: Tell = |disk| {
            let classifier = GrayBox::new(disk.properties().size_bytes);
            Rc::new(Classified::new(disk, Rc::new(classifier)))
        };
        with_disk(",cache=1M", tell, |disks, _| {
            // The requests may still be on their way.
            let found = loop {
                let found = disks.statistics("blk0").unwrap();
                if found.writes > 0 {
                    break found;
                }
            };
            assert_eq!(found.classes[Class::Other].read_bytes, 8192);
            assert_eq!(found.classes[Class::Other].written_bytes, 4096);
        });
    }

    #[test]
    fn a_disk_without_a_cache_says_so() {
        with_disk(
            "",
            |disk| disk,
            |disks, _| {
                let error = disks.clear_cache("blk0").unwrap_err();
                assert!(error.to_string().contains("has no cache"), "{error}");
            },
        );
    }
}
