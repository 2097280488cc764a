//! What happens once, and what gives way to it.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;

use futures_util::future::{Either, select};

use crate::wait_queue::WaitQueue;

/// Whether something has happened that nobody undoes.
#[derive(Default)]
pub(crate) struct Latch {
    is_set: Cell<bool>,
    waiting: WaitQueue,
}

impl Latch {
    /// It has happened.
    pub(crate) fn set(&self) {
        self.is_set.set(true);
        self.waiting.wake_all();
    }

    pub(crate) fn is_set(&self) -> bool {
        self.is_set.get()
    }

    /// Waits until it has happened.
    pub(crate) async fn wait(&self) {
        while !self.is_set.get() {
            self.waiting.wait().await;
        }
    }

    /// What comes of `work`, unless it happens before; then `work` is dropped.
    pub(crate) async fn unless_set<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        match select(pin!(work), pin!(self.wait())).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(((), _)) => None,
        }
    }
}
