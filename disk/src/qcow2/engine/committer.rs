//! Who commits, one at a time, and how far that has come.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::locks::RangeLocks;
use super::metadata::Page;
use super::transaction::{Freed, Sealed};
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
    /// The one that could not be written, and how far it came nobody knows. It is not joined with
    /// the next: some of its tables may be pointed to already, and changes of those have their turn
    /// only when what they point to is durable.
    pub(super) failed: RefCell<Option<(Sealed, Vec<Rc<Page>>)>>,
    /// What nothing points to any more, durably.
    pub(super) freed: RefCell<Vec<Freed>>,
    /// What was given back, and is zeros once a change of the file is durable.
    pub(super) zeroed: RefCell<VecDeque<(u64, Freed)>>,
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
