//! The executor: runs tasks on one thread, and sleeps in the reactor when none is ready.
//!
//! ```text
//!   spawn ──> tasks ──(woken)──> ready queue ──> poll ──> reactor: io_uring │ threads │ simulated
//!               ^                                              │
//!               └───────────────── wakers ─────────────────────┘
//! ```
//! A turn polls every task that was ready when it began, then hands all that they submitted to the
//! reactor at once. Nothing here needs `Send`: a disk and its tasks live and die on one thread.

mod alarm;
mod ready;
mod uninterrupted;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use slab::Slab;

pub(crate) use alarm::Alarm;
use ready::{MAIN, ReadyQueue};
pub(crate) use uninterrupted::uninterrupted;

use crate::Error;
use crate::reactor::Reactor;

/// How an executor does its I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// By `io_uring`.
    IoUring,
    /// By a pool of threads that do blocking calls.
    Threads,
    /// Not at all, but for [`SimulatedStorage`](crate::SimulatedStorage) under a virtual clock,
    /// with tasks run in an order drawn from the seed. The same seed gives the same run.
    Simulated {
        /// Where all choices come from.
        seed: u64,
    },
}

/// Runs futures on the thread that made it.
pub struct Executor {
    core: Rc<Core>,
    backend: Backend,
}

/// What tasks and operations reach of their executor.
pub(crate) struct Core {
    /// A task is absent while it is being polled.
    tasks: RefCell<Slab<Option<LocalFuture>>>,
    ready: Arc<ReadyQueue>,
    /// Whether the executor is gone, so that no task would run any more.
    over: Cell<bool>,
    pub(crate) reactor: Reactor,
}

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Core>>> = const { RefCell::new(None) };
}

impl Executor {
    /// Makes an executor that does its I/O by `io_uring`, or by threads where the host has no
    /// `io_uring` or does not allow it. Which one, and why, goes to the log.
    pub fn new() -> Result<Self, Error> {
        match Self::with_backend(Backend::IoUring) {
            Ok(executor) => {
                tracing::info!("disk I/O by io_uring");
                Ok(executor)
            }
            Err(error) => {
                tracing::info!(%error, "disk I/O by threads, which is slower than io_uring");
                Self::with_backend(Backend::Threads)
            }
        }
    }

    /// Makes an executor with just this backend.
    pub fn with_backend(backend: Backend) -> Result<Self, Error> {
        let alarm = Arc::new(Alarm::new().map_err(Error::setup("the executor's eventfd"))?);
        let reactor = Reactor::new(backend, Arc::clone(&alarm))?;
        let seed = match backend {
            Backend::Simulated { seed } => Some(seed),
            Backend::IoUring | Backend::Threads => None,
        };
        let ready = Arc::new(ReadyQueue::new(alarm, seed));
        let core = Rc::new(Core {
            tasks: RefCell::default(),
            ready,
            over: Cell::new(false),
            reactor,
        });
        Ok(Self { core, backend })
    }

    /// The backend in use.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// The time on the virtual clock since the executor was made; only a simulation has one.
    pub fn virtual_now_ns(&self) -> Option<u64> {
        self.core.reactor.virtual_now_ns()
    }

    /// Runs `main` to its end, and spawned tasks beside it. Tasks that are not done by then wait
    /// for the next run, or are dropped with the executor.
    ///
    /// # Panics
    /// When called from within a running executor; when a task panics; and, on the simulated
    /// backend, when every task waits for something that never comes.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> T {
        let _entered = Entered::new(&self.core);
        let mut main = pin!(main);
        self.core.ready.start(MAIN);
        loop {
            for _ in 0..self.core.ready.len() {
                let Some((task, waker)) = self.core.ready.pop() else {
                    break;
                };
                let mut context = Context::from_waker(&waker);
                if task != MAIN {
                    self.core.poll_task(task, &mut context);
                } else if let Poll::Ready(output) = main.as_mut().poll(&mut context) {
                    return output;
                }
            }
            self.core.reactor.turn(|| self.core.ready.is_empty());
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        // Tasks and their wakers hold what holds them: break the circles. The reactor then waits
        // for operations in flight before it frees their memory.
        self.core.over.set(true);
        let tasks = std::mem::take(&mut *self.core.tasks.borrow_mut());
        drop(tasks);
        self.core.ready.clear();
    }
}

impl Core {
    /// The executor that runs on this thread.
    pub(crate) fn current() -> Rc<Self> {
        CURRENT
            .with_borrow(Clone::clone)
            .expect("disk futures run on a disk::Executor, and there is none on this thread")
    }

    fn spawn(&self, future: LocalFuture) {
        if self.over.get() {
            return;
        }
        let task = self.tasks.borrow_mut().insert(Some(future));
        self.ready.start(task);
    }

    /// Polls a task outside the borrow of the table, for it may spawn others.
    fn poll_task(&self, task: usize, context: &mut Context<'_>) {
        // A waker that outlives its task may still be woken.
        let taken = self.tasks.borrow_mut().get_mut(task).and_then(Option::take);
        let Some(mut future) = taken else { return };
        let done = future.as_mut().poll(context).is_ready();
        let mut tasks = self.tasks.borrow_mut();
        if done {
            tasks.remove(task);
        } else {
            tasks[task] = Some(future);
        }
    }
}

/// Marks an executor as the thread's own.
struct Entered;

impl Entered {
    fn new(core: &Rc<Core>) -> Self {
        CURRENT.with_borrow_mut(|current| {
            assert!(
                current.is_none(),
                "an executor is already running on this thread"
            );
            *current = Some(Rc::clone(core));
        });
        Self
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.with_borrow_mut(|current| *current = None);
    }
}

/// Runs `future` on this thread's executor beside the caller.
///
/// # Panics
/// When no executor runs on this thread.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    Core::current().spawn(Box::pin(future));
}

/// Lets the other tasks that are ready go first.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
#[expect(unsafe_code, reason = "makes buffers with an owner to observe")]
mod tests;
