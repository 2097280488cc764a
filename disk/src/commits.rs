//! Commits, one at a time, and how far they have come.

use std::cell::Cell;

use crate::Error;
use crate::wait_queue::WaitQueue;

/// Counts transactions. There is always a pending one, which collects changes until it is sealed.
#[derive(Default)]
pub(crate) struct Commits {
    running: Cell<bool>,
    waiting: WaitQueue,
    /// How many transactions have been sealed. The pending one is the next.
    sealed: Cell<u64>,
    /// The last one that became durable.
    durable: Cell<u64>,
}

/// Lets the next commit begin, however this one ends.
struct Running<'a>(&'a Commits);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.waiting.wake_all();
    }
}

impl Commits {
    /// How many transactions have been sealed.
    pub(crate) fn sealed(&self) -> u64 {
        self.sealed.get()
    }

    /// The pending transaction takes no more changes: another is pending now.
    pub(crate) fn seal(&self) {
        self.sealed.set(self.sealed.get() + 1);
    }

    /// All that was sealed is durable.
    pub(crate) fn committed(&self) {
        self.durable.set(self.sealed.get());
    }

    /// Commits until transaction `wanted` is durable. Whoever comes while a commit is running
    /// waits for its end; all of those then share the next.
    pub(crate) async fn reach(
        &self,
        wanted: u64,
        commit: impl AsyncFn() -> Result<(), Error>,
    ) -> Result<(), Error> {
        while self.durable.get() < wanted {
            if self.running.replace(true) {
                self.waiting.wait().await;
            } else {
                let _running = Running(self);
                commit().await?;
            }
        }
        Ok(())
    }
}
