//! What the requests of clients may take at a time.

use crate::export::Notify;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Requests of a client in flight, or answered but not yet taken by it.
const REQUESTS_MAX: usize = 128;
/// Bytes of their data. A single request may be as large as this.
const DATA_MAX_BYTES: usize = disk::nbd::PAYLOAD_MAX_BYTES as usize;
/// Bytes of data that a client may have in flight whatever others have: as much as QEMU asks for at
/// once when it copies.
const SHARE_BYTES: usize = 2 << 20;
/// Bytes of data beyond their shares that all clients together may have in flight.
const COMMON_BYTES: usize = 128 << 20;

/// Counts the requests of one connection. Who is at the limit is not listened to, and harms nobody
/// else: neither one that asks for more than it takes, nor one that is in a hurry.
pub(super) struct Budget {
    common: Rc<Common>,
    requests: Cell<usize>,
    bytes: Cell<usize>,
    changed: Notify,
}

/// What the clients of a server take beyond their shares, first come, first served.
pub(super) struct Common {
    left_bytes: Cell<usize>,
    /// Who has found too little left.
    waiting: RefCell<Vec<Rc<Budget>>>,
}

/// The share of one request, which ends with it.
pub(super) struct Permit {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            left_bytes: Cell::new(COMMON_BYTES),
            waiting: RefCell::default(),
        }
    }
}

impl Common {
    /// Gives back, and lets everybody look again who has found too little.
    fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.left_bytes.set(self.left_bytes.get() + bytes);
            for budget in self.waiting.take() {
                budget.changed.notify();
            }
        }
    }
}

impl Budget {
    /// For a client that has part in `common`.
    pub(super) fn new(common: Rc<Common>) -> Self {
        Self {
            common,
            requests: Cell::new(0),
            bytes: Cell::new(0),
            changed: Notify::default(),
        }
    }

    /// The share of a request with this much data, if there is room for it.
    pub(super) fn try_acquire(self: &Rc<Self>, bytes: usize) -> Option<Permit> {
        let total = self.bytes.get().saturating_add(bytes);
        if self.requests.get() >= REQUESTS_MAX
            || total > DATA_MAX_BYTES && bytes > 0 && self.bytes.get() > 0
        {
            return None;
        }
        let borrowed = beyond_share(total) - beyond_share(self.bytes.get());
        let Some(left) = self.common.left_bytes.get().checked_sub(borrowed) else {
            self.wait_for_others();
            return None;
        };
        self.common.left_bytes.set(left);
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(total);
        Some(Permit {
            budget: Rc::clone(self),
            bytes,
        })
    }

    /// Has [`Self::changed`] end when another client gives something back, too.
    fn wait_for_others(self: &Rc<Self>) {
        let mut waiting = self.common.waiting.borrow_mut();
        if !waiting.iter().any(|other| Rc::ptr_eq(other, self)) {
            waiting.push(Rc::clone(self));
        }
    }

    /// Waits until a share is given back. One task at a time may wait.
    pub(super) async fn changed(&self) {
        self.changed.wait().await;
    }

    /// Whether no request is left.
    pub(super) fn is_unused(&self) -> bool {
        self.requests.get() == 0
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.budget;
        let total = budget.bytes.get();
        budget.requests.set(budget.requests.get() - 1);
        budget.bytes.set(total - self.bytes);
        budget.changed.notify();
        let borrowed = beyond_share(total) - beyond_share(total - self.bytes);
        budget.common.give_back(borrowed);
    }
}

/// How much of a client's bytes is not covered by its share.
fn beyond_share(bytes: usize) -> usize {
    bytes.saturating_sub(SHARE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(common: &Rc<Common>) -> Rc<Budget> {
        Rc::new(Budget::new(Rc::clone(common)))
    }

    #[test]
    fn one_request_may_take_all_and_then_there_is_none_left() {
        let budget = budget(&Rc::default());
        let all = budget.try_acquire(DATA_MAX_BYTES).unwrap();
        assert!(budget.try_acquire(1).is_none());
        assert!(budget.try_acquire(0).is_some(), "a flush needs no memory");
        drop(all);
        assert!(budget.is_unused());
        assert!(budget.try_acquire(1).is_some());
    }

    #[test]
    fn requests_are_counted_whatever_their_size() {
        let budget = budget(&Rc::default());
        let permits: Vec<_> = (0..REQUESTS_MAX).map(|_| budget.try_acquire(0)).collect();
        assert!(permits.iter().all(Option::is_some));
        assert!(budget.try_acquire(0).is_none());
    }

    #[test]
    fn everybody_has_a_share_where_others_have_taken_the_rest() {
        let common = Rc::<Common>::default();
        let greedy: Vec<_> = (0..20).map(|_| budget(&common)).collect();
        let taken: Vec<_> = greedy
            .iter()
            .filter_map(|budget| budget.try_acquire(DATA_MAX_BYTES))
            .collect();
        let taken_bytes: usize = taken.iter().map(|permit| permit.bytes).sum();
        assert!(taken_bytes <= COMMON_BYTES + taken.len() * SHARE_BYTES);
        let modest = budget(&common);
        let share = modest.try_acquire(SHARE_BYTES);
        assert!(share.is_some());
        let left = common.left_bytes.get();
        assert!(modest.try_acquire(left + 1).is_none());
        assert!(Rc::ptr_eq(common.waiting.borrow().last().unwrap(), &modest));
        drop(taken);
        assert!(common.waiting.borrow().is_empty());
        assert!(modest.try_acquire(left + 1).is_some());
        drop(share);
        assert_eq!(common.left_bytes.get(), COMMON_BYTES);
    }
}
