//! Tasks that wait for each other on one executor.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Tasks that wait until something changes, and then look for themselves.
#[derive(Default)]
pub(crate) struct WaitQueue {
    wakers: RefCell<Vec<Waker>>,
    /// Counts the calls of `wake_all`.
    generation: Cell<u64>,
}

impl WaitQueue {
    /// Waits for the next [`WaitQueue::wake_all`].
    pub(crate) async fn wait(&self) {
        let generation = self.generation.get();
        poll_fn(|context| {
            if self.generation.get() != generation {
                return Poll::Ready(());
            }
            self.wakers.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Wakes all that wait, in the order they came.
    pub(crate) fn wake_all(&self) {
        self.generation.set(self.generation.get().wrapping_add(1));
        let wakers = std::mem::take(&mut *self.wakers.borrow_mut());
        for waker in wakers {
            waker.wake();
        }
    }
}
