//! Work that goes on though nobody waits for it any more.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::Core;

/// Runs `work` to its end, on this thread's executor if the caller goes away: what it has started
/// in a file must not stop halfway, nor go on while others think that it is over. As long as the
/// caller stays, it costs no task.
///
/// Before the first poll nothing has been started, and nothing is if the future is dropped.
///
/// # Panics
/// When polled and no executor runs on this thread.
pub(crate) fn uninterrupted<T: 'static>(
    work: impl Future<Output = T> + 'static,
) -> impl Future<Output = T> {
    Uninterrupted {
        work: Some(Box::pin(work)),
        core: None,
    }
}

struct Uninterrupted<T: 'static> {
    /// Absent at the end, and while it is polled: work that panics is over.
    work: Option<Pin<Box<dyn Future<Output = T>>>>,
    /// The executor that polled it first.
    core: Option<Rc<Core>>,
}

impl<T> Future for Uninterrupted<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut work = self.work.take().expect("polled after completion");
        self.core.get_or_insert_with(Core::current);
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T> Drop for Uninterrupted<T> {
    fn drop(&mut self) {
        if let (Some(work), Some(core)) = (self.work.take(), self.core.take()) {
            core.spawn(Box::pin(async move { drop(work.await) }));
        }
    }
}
