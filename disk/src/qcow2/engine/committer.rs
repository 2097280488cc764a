//! Who commits, one at a time, and how far that has come.

use std::cell::{Cell, RefCell};

use super::locks::RangeLocks;
use super::transaction::Freed;
use crate::wait_queue::WaitQueue;

/// Who commits, and what has been committed.
#[derive(Default)]
pub(super) struct Committer {
    pub(super) running: Cell<bool>,
    pub(super) waiting: WaitQueue,
    /// How many transactions have been sealed. The pending one is the next.
    pub(super) sealed: Cell<u64>,
    /// The last one that became durable.
    pub(super) durable: Cell<u64>,
    /// What nothing points to any more, durably.
    pub(super) freed: RefCell<Vec<Freed>>,
    /// One gives it back at a time.
    pub(super) reclaiming: RangeLocks,
}

/// Lets the next commit begin, however this one ends.
pub(super) struct Running<'a>(pub(super) &'a Committer);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.set(false);
        self.0.waiting.wake_all();
    }
}

impl Committer {
    /// Whether there is something to reclaim.
    pub(super) fn has_freed(&self) -> bool {
        !self.freed.borrow().is_empty()
    }
}
