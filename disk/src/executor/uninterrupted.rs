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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;
    use std::sync::Arc;

    use super::*;
    use crate::event::eventfd;
    use crate::executor::yield_now;
    use crate::{Backend, EventReceiver, Executor, spawn};

    /// Polls a future once.
    async fn poll_once<T>(future: &mut (impl Future<Output = T> + Unpin)) -> Poll<T> {
        poll_fn(|context| Poll::Ready(Pin::new(&mut *future).poll(context))).await
    }

    /// Work of three steps, which counts those that it has done.
    async fn three_steps(done: Rc<Cell<u32>>) {
        for step in 1..=3 {
            done.set(step);
            yield_now().await;
        }
        done.set(10);
    }

    #[test]
    fn uninterrupted_work_goes_on_without_its_caller() {
        let executor = Executor::with_backend(Backend::Threads).unwrap();
        let done = Rc::new(Cell::new(0));
        let mut work = Box::pin(uninterrupted(three_steps(Rc::clone(&done))));
        executor.run(async {
            assert!(poll_once(&mut work).await.is_pending());
            assert_eq!(done.get(), 1);
        });
        // Even between two runs.
        drop(work);
        executor.run(async {
            for _ in 0..10 {
                yield_now().await;
            }
        });
        assert_eq!(done.get(), 10);
    }

    #[test]
    fn uninterrupted_work_starts_with_the_first_poll_and_ends_with_the_last() {
        let executor = Executor::with_backend(Backend::Threads).unwrap();
        let done = Rc::new(Cell::new(0));
        drop(uninterrupted(three_steps(Rc::clone(&done))));
        executor.run(async {
            yield_now().await;
            assert_eq!(done.get(), 0);
            uninterrupted(three_steps(Rc::clone(&done))).await;
            assert_eq!(done.get(), 10);
            assert_eq!(uninterrupted(async { 7 }).await, 7);
        });
    }

    #[test]
    fn uninterrupted_work_ends_with_its_executor() {
        let held = Rc::new(Cell::new(0));
        let executor = Executor::with_backend(Backend::Threads).unwrap();
        let kept = Rc::clone(&held);
        executor.run(async {
            spawn(async move {
                uninterrupted(async move {
                    // Holds on to the executor, as all that waits does.
                    let receiver = EventReceiver::new(Arc::new(eventfd().unwrap()));
                    kept.set(1);
                    receiver.recv().await.unwrap();
                })
                .await;
            });
            while held.get() == 0 {
                yield_now().await;
            }
        });
        drop(executor);
        assert_eq!(Rc::strong_count(&held), 1);
    }
}
