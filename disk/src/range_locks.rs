//! Locks on ranges, of guest clusters for example: in the order of arrival, shared or exclusive.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::wait_queue::WaitQueue;

/// Who is in a range, and who waits for it. Requests for ranges that do not touch each other never
/// meet; of those that do, a later one waits for an earlier one unless both share.
#[derive(Default)]
pub(crate) struct RangeLocks {
    /// In the order of arrival.
    tickets: RefCell<VecDeque<Ticket>>,
    next_id: Cell<u64>,
    waiting: WaitQueue,
}

struct Ticket {
    id: u64,
    first: u64,
    last: u64,
    exclusive: bool,
}

impl Ticket {
    fn excludes(&self, other: &Self) -> bool {
        (self.exclusive || other.exclusive) && self.first <= other.last && other.first <= self.last
    }
}

/// Holds a range until it is dropped.
pub(crate) struct RangeGuard<'a> {
    locks: &'a RangeLocks,
    id: u64,
}

impl RangeLocks {
    /// Locks `first` to `last`, both included, against those that lock any of it exclusively.
    pub(crate) async fn shared(&self, first: u64, last: u64) -> RangeGuard<'_> {
        self.lock(first, last, false).await
    }

    /// Locks as [`RangeLocks::shared`] does, if that takes no waiting.
    pub(crate) fn try_shared(&self, first: u64, last: u64) -> Option<RangeGuard<'_>> {
        self.try_lock(first, last, false)
    }

    /// Locks as [`RangeLocks::exclusive`] does, if that takes no waiting: so does whoever has locked
    /// another range already.
    pub(crate) fn try_exclusive(&self, first: u64, last: u64) -> Option<RangeGuard<'_>> {
        self.try_lock(first, last, true)
    }

    fn try_lock(&self, first: u64, last: u64, exclusive: bool) -> Option<RangeGuard<'_>> {
        let own = Ticket {
            id: self.next_id.get(),
            first,
            last,
            exclusive,
        };
        let mut tickets = self.tickets.borrow_mut();
        if tickets.iter().any(|earlier| earlier.excludes(&own)) {
            return None;
        }
        let id = own.id;
        self.next_id.set(id + 1);
        tickets.push_back(own);
        Some(RangeGuard { locks: self, id })
    }

    /// Locks `first` to `last`, both included, against everyone.
    pub(crate) async fn exclusive(&self, first: u64, last: u64) -> RangeGuard<'_> {
        self.lock(first, last, true).await
    }

    /// Locks everything against everyone.
    pub(crate) async fn all(&self) -> RangeGuard<'_> {
        self.lock(0, u64::MAX, true).await
    }

    async fn lock(&self, first: u64, last: u64, exclusive: bool) -> RangeGuard<'_> {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        self.tickets.borrow_mut().push_back(Ticket {
            id,
            first,
            last,
            exclusive,
        });
        let guard = RangeGuard { locks: self, id };
        while !self.is_first(id) {
            self.waiting.wait().await;
        }
        guard
    }

    /// Whether nobody who came before excludes this one.
    fn is_first(&self, id: u64) -> bool {
        let tickets = self.tickets.borrow();
        let position = tickets.partition_point(|ticket| ticket.id < id);
        let own = &tickets[position];
        !tickets
            .iter()
            .take(position)
            .any(|earlier| earlier.excludes(own))
    }
}

impl Drop for RangeGuard<'_> {
    fn drop(&mut self) {
        let mut tickets = self.locks.tickets.borrow_mut();
        let position = tickets.partition_point(|ticket| ticket.id < self.id);
        tickets.remove(position);
        let alone = tickets.is_empty();
        drop(tickets);
        if !alone {
            self.locks.waiting.wake_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let locks = RangeLocks::default();
        let mut first = pin!(locks.shared(0, 9));
        let Poll::Ready(first) = poll(first.as_mut()) else {
            panic!("nobody else is there");
        };
        assert!(poll(pin!(locks.shared(5, 20)).as_mut()).is_ready());
        let mut writer = pin!(locks.exclusive(9, 9));
        assert!(poll(writer.as_mut()).is_pending());
        assert!(poll(pin!(locks.exclusive(10, 10)).as_mut()).is_ready());
        drop(first);
        assert!(poll(writer.as_mut()).is_ready());
    }

    /// Otherwise readers that come one after the other would keep a writer out for ever.
    #[test]
    fn readers_do_not_overtake_a_waiting_writer() {
        let locks = RangeLocks::default();
        let mut reader = pin!(locks.shared(0, 0));
        let Poll::Ready(reader) = poll(reader.as_mut()) else {
            panic!("nobody else is there");
        };
        let mut writer = pin!(locks.all());
        assert!(poll(writer.as_mut()).is_pending());
        let mut late = pin!(locks.shared(0, 0));
        assert!(poll(late.as_mut()).is_pending());
        drop(reader);
        assert!(poll(late.as_mut()).is_pending());
        assert!(poll(writer.as_mut()).is_ready());
    }

    #[test]
    fn who_gives_up_waiting_is_in_nobodys_way() {
        let locks = RangeLocks::default();
        let mut holder = pin!(locks.shared(0, 0));
        let Poll::Ready(_holder) = poll(holder.as_mut()) else {
            panic!("nobody else is there");
        };
        {
            let mut writer = pin!(locks.exclusive(0, 0));
            assert!(poll(writer.as_mut()).is_pending());
        }
        assert!(poll(pin!(locks.shared(0, 0)).as_mut()).is_ready());
    }
}
