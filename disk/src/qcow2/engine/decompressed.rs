//! A few decompressed clusters.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// Decompressed clusters that are kept: sequential reads want one several times.
const KEPT_MAX: usize = 4;

/// The clusters that were decompressed last, by where their data is.
#[derive(Default)]
pub(super) struct Decompressed {
    kept: RefCell<VecDeque<(u64, Rc<Vec<u8>>)>>,
}

impl Decompressed {
    /// The content whose data is at `offset`.
    pub(super) fn get(&self, offset: u64) -> Option<Rc<Vec<u8>>> {
        let kept = self.kept.borrow();
        let found = kept.iter().find(|(at, _)| *at == offset);
        found.map(|(_, content)| Rc::clone(content))
    }

    /// Keeps it for a while.
    pub(super) fn keep(&self, offset: u64, content: &Rc<Vec<u8>>) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back((offset, Rc::clone(content)));
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.kept.borrow_mut().clear();
    }

    /// Forgets what is in some bytes of the file, for they become free.
    pub(super) fn forget(&self, offset: u64, len: u64) {
        let range = offset..offset + len;
        self.kept.borrow_mut().retain(|(at, _)| !range.contains(at));
    }
}
