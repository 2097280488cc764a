//! What the requests of a connection may take at a time.

use std::cell::Cell;
use std::rc::Rc;

use super::notify::Notify;

/// Requests in flight, or answered but not yet taken by the client.
const REQUESTS_MAX: usize = 128;
/// Bytes of their data. A single request may be as large as this.
const DATA_MAX_BYTES: usize = super::wire::PAYLOAD_MAX_BYTES as usize;

/// Counts the requests of one connection. Who is at the limit is not listened to, and harms nobody
/// else: neither one that asks for more than it takes, nor one that is in a hurry.
#[derive(Default)]
pub(super) struct Budget {
    requests: Cell<usize>,
    bytes: Cell<usize>,
    changed: Notify,
}

/// The share of one request, which ends with it.
pub(super) struct Permit {
    budget: Rc<Budget>,
    bytes: usize,
}

impl Budget {
    /// The share of a request with this much data, if there is room for it.
    pub(super) fn try_acquire(self: &Rc<Self>, bytes: usize) -> Option<Permit> {
        let total = self.bytes.get().saturating_add(bytes);
        if self.requests.get() >= REQUESTS_MAX
            || total > DATA_MAX_BYTES && bytes > 0 && self.bytes.get() > 0
        {
            return None;
        }
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(total);
        Some(Permit {
            budget: Rc::clone(self),
            bytes,
        })
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
        budget.requests.set(budget.requests.get() - 1);
        budget.bytes.set(budget.bytes.get() - self.bytes);
        budget.changed.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_request_may_take_all_and_then_there_is_none_left() {
        let budget = Rc::new(Budget::default());
        let all = budget.try_acquire(DATA_MAX_BYTES).unwrap();
        assert!(budget.try_acquire(1).is_none());
        assert!(budget.try_acquire(0).is_some(), "a flush needs no memory");
        drop(all);
        assert!(budget.is_unused());
        assert!(budget.try_acquire(1).is_some());
    }

    #[test]
    fn requests_are_counted_whatever_their_size() {
        let budget = Rc::new(Budget::default());
        let permits: Vec<_> = (0..REQUESTS_MAX).map(|_| budget.try_acquire(0)).collect();
        assert!(permits.iter().all(Option::is_some));
        assert!(budget.try_acquire(0).is_none());
    }
}
