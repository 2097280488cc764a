//! Threads that do operations by blocking calls: all of them where there is no `io_uring`, and
//! else the few that it does not know.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Completion, Operation};
use crate::executor::Alarm;

/// Enough to keep a disk busy; more would only wait for the same device.
const THREADS_MAX: usize = 16;

/// Plenty for a system call, and too small for the host to back it by a huge page.
const STACK_BYTES: usize = 128 << 10;

/// The threads are made when there is something to do and none is idle.
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Cell<Vec<JoinHandle<()>>>,
    /// Operations whose completion has not been taken.
    outstanding: Cell<usize>,
}

struct Shared {
    state: Mutex<Work>,
    available: Condvar,
    alarm: Arc<Alarm>,
}

#[derive(Default)]
struct Work {
    queue: VecDeque<(Operation, usize)>,
    done: Vec<Completion>,
    idle: usize,
    closing: bool,
}

impl Pool {
    pub(super) fn new(alarm: Arc<Alarm>) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            available: Condvar::new(),
            alarm,
        });
        Self {
            shared,
            threads: Cell::default(),
            outstanding: Cell::new(0),
        }
    }

    pub(super) fn submit(&self, operation: Operation, slot: usize) {
        self.outstanding.set(self.outstanding.get() + 1);
        let mut work = self.shared.work();
        work.queue.push_back((operation, slot));
        let short_of_threads = work.idle < work.queue.len();
        drop(work);
        self.shared.available.notify_one();
        if short_of_threads {
            self.grow();
        }
    }

    /// Adds a thread, up to the limit. If the host has none left, those there are must do; without
    /// any, this thread does the work itself.
    fn grow(&self) {
        let mut threads = self.threads.take();
        if threads.len() < THREADS_MAX {
            let shared = Arc::clone(&self.shared);
            let started = thread::Builder::new()
                .name("disk-io".into())
                .stack_size(STACK_BYTES)
                .spawn(move || shared.serve());
            match started {
                Ok(thread) => threads.push(thread),
                Err(error) => tracing::warn!(%error, "cannot start a disk thread"),
            }
        }
        if threads.is_empty() {
            self.shared.drain();
        }
        self.threads.set(threads);
    }

    pub(super) fn has_done(&self) -> bool {
        self.outstanding.get() > 0 && !self.shared.work().done.is_empty()
    }

    pub(super) fn take_done(&self, done: &mut Vec<Completion>) {
        if self.outstanding.get() > 0 {
            let before = done.len();
            done.append(&mut self.shared.work().done);
            self.outstanding
                .set(self.outstanding.get() - (done.len() - before));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.work().closing = true;
        self.shared.available.notify_all();
        for thread in self.threads.take() {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// A thread's life.
    fn serve(&self) {
        let mut work = self.work();
        loop {
            if let Some((operation, slot)) = work.queue.pop_front() {
                drop(work);
                self.finish(operation, slot);
                work = self.work();
            } else if work.closing {
                return;
            } else {
                work.idle += 1;
                work = self
                    .available
                    .wait(work)
                    .unwrap_or_else(PoisonError::into_inner);
                work.idle -= 1;
            }
        }
    }

    fn drain(&self) {
        loop {
            let next = self.work().queue.pop_front();
            let Some((operation, slot)) = next else {
                return;
            };
            self.finish(operation, slot);
        }
    }

    fn finish(&self, operation: Operation, slot: usize) {
        let result = operation.perform();
        // The memory is let go before anybody hears that the operation is done.
        drop(operation);
        self.work()
            .done
            .push(Completion::Operation { slot, result });
        self.alarm.ring();
    }

    /// The queues are whole at every instant, so a panic elsewhere does not spoil them.
    fn work(&self) -> MutexGuard<'_, Work> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
