//! Waiting for an operation.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::operation::{self, Operation};
use crate::executor::Core;

/// How far an operation is.
#[derive(Clone, Copy)]
pub(super) enum Progress {
    /// It has this slot.
    Slot(usize),
    /// It is done, with this result.
    Done(i32),
    /// The result was taken.
    Over,
}

/// An operation that someone waits for.
pub(crate) struct Submitted {
    core: Rc<Core>,
    progress: Progress,
}

/// Starts an operation on this thread's executor.
pub(crate) fn submit(operation: Operation) -> Submitted {
    let core = Core::current();
    let progress = core.reactor.submit(operation);
    Submitted { core, progress }
}

impl Future for Submitted {
    type Output = io::Result<usize>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.progress {
            Progress::Slot(slot) => {
                ready!(self.core.reactor.poll_slot(slot, context))
            }
            Progress::Done(result) => result,
            Progress::Over => panic!("polled after completion"),
        };
        self.progress = Progress::Over;
        Poll::Ready(operation::outcome(result))
    }
}

impl Drop for Submitted {
    fn drop(&mut self) {
        if let Progress::Slot(slot) = self.progress {
            self.core.reactor.abandon(slot);
        }
    }
}
