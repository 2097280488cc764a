//! Writes that wait for each other.
//!
//! Those who borrow a disk may address bytes, while disks have sectors. A write that covers a part of a sector
//! reads the rest of it first; nobody else may change the sector meanwhile. Whole sectors need no
//! order among themselves.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::ops::Range;
use std::task::{Poll, Waker};

/// The changes in progress, and those that wait.
#[derive(Default)]
pub(super) struct WriteOrder {
    /// In the order they came.
    changes: RefCell<BTreeMap<u64, Change>>,
    next: Cell<u64>,
    /// How many of them are exclusive.
    exclusive: Cell<usize>,
}

struct Change {
    range: Range<u64>,
    exclusive: bool,
    waker: Option<Waker>,
}

/// A change's turn, up to its end.
pub(super) struct Turn<'a> {
    order: &'a WriteOrder,
    number: u64,
    exclusive: bool,
}

impl WriteOrder {
    /// Waits until the bytes of `range` may be changed: until all earlier changes that overlap it
    /// are done, if either side is `exclusive`.
    pub(super) async fn turn(&self, range: Range<u64>, exclusive: bool) -> Turn<'_> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.exclusive
            .set(self.exclusive.get() + usize::from(exclusive));
        self.changes.borrow_mut().insert(
            number,
            Change {
                range,
                exclusive,
                waker: None,
            },
        );
        let turn = Turn {
            order: self,
            number,
            exclusive,
        };
        poll_fn(|context| {
            if !self.has_to_wait(number) {
                return Poll::Ready(());
            }
            if let Some(change) = self.changes.borrow_mut().get_mut(&number) {
                change.waker = Some(context.waker().clone());
            }
            Poll::Pending
        })
        .await;
        turn
    }

    fn has_to_wait(&self, number: u64) -> bool {
        if self.exclusive.get() == 0 {
            return false;
        }
        let changes = self.changes.borrow();
        let Some(own) = changes.get(&number) else {
            return false;
        };
        changes.range(..number).any(|(_, other)| {
            (own.exclusive || other.exclusive)
                && own.range.start < other.range.end
                && other.range.start < own.range.end
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let order = self.order;
        let waited_for = order.exclusive.get() > 0;
        order
            .exclusive
            .set(order.exclusive.get() - usize::from(self.exclusive));
        let mut changes = order.changes.borrow_mut();
        changes.remove(&self.number);
        if !waited_for {
            return;
        }
        let wakers: Vec<_> = changes
            .range_mut(self.number..)
            .filter_map(|(_, change)| change.waker.take())
            .collect();
        drop(changes);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    fn is_ready(future: impl Future) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        pin!(future).poll(&mut context).is_ready()
    }

    #[test]
    fn whole_sectors_do_not_wait_for_each_other() {
        let order = WriteOrder::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(order.turn(0..4096, false));
        let Poll::Ready(_first) = first.as_mut().poll(&mut context) else {
            panic!("nobody is in the way");
        };
        assert!(is_ready(order.turn(0..512, false)));
        assert!(!is_ready(order.turn(0..512, true)));
        assert!(is_ready(order.turn(4096..4608, true)));
    }

    #[test]
    fn who_waits_is_not_overtaken_by_those_that_come_later() {
        let order = WriteOrder::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(order.turn(0..512, false));
        let Poll::Ready(turn) = first.as_mut().poll(&mut context) else {
            panic!("nobody is in the way");
        };
        let mut part = pin!(order.turn(0..512, true));
        assert!(part.as_mut().poll(&mut context).is_pending());
        assert!(!is_ready(order.turn(0..512, false)));
        drop(turn);
        assert!(part.as_mut().poll(&mut context).is_ready());
    }

    #[test]
    fn a_turn_that_nobody_waits_for_any_more_is_over() {
        let order = WriteOrder::default();
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut part = pin!(order.turn(0..512, true));
            let Poll::Ready(_part) = part.as_mut().poll(&mut context) else {
                panic!("nobody is in the way");
            };
            let mut dropped = pin!(order.turn(0..512, true));
            assert!(dropped.as_mut().poll(&mut context).is_pending());
        }
        assert!(is_ready(order.turn(0..512, false)));
        assert_eq!(
            (order.exclusive.get(), order.changes.borrow().len()),
            (0, 0)
        );
    }
}
