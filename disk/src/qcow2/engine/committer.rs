//! What commits leave behind.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::metadata::Page;
use super::transaction::{Freed, Sealed};
use crate::commits::Commits;
use crate::range_locks::RangeLocks;

/// Who commits, and what has been committed.
#[derive(Default)]
pub(super) struct Committer {
    pub(super) commits: Commits,
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
