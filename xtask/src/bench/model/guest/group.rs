//! Commits that are shared.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

use ::disk::Error;

/// Work that one does for all who have come before it began; those who come later share the next.
/// When it ends, all whose work it was go on at once: none of them has to wait for another, who
/// might have come back and be at work again.
#[derive(Default)]
pub(in super::super) struct Group {
    /// How often the work has begun, and how often it has ended.
    begun: Cell<u64>,
    ended: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

impl Group {
    /// Waits until `work` has been done from beginning to end, by us or for us.
    pub(in super::super) async fn join(
        &self,
        work: impl AsyncFnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let ours = self.begun.get() + 1;
        while self.ended.get() < ours {
            if self.begun.get() == self.ended.get() {
                self.begun.set(ours);
                let done = work().await;
                self.ended.set(ours);
                self.waiting.take().into_iter().for_each(Waker::wake);
                return done;
            }
            self.end_of(self.begun.get()).await;
        }
        Ok(())
    }

    async fn end_of(&self, work: u64) {
        poll_fn(|context| {
            if self.ended.get() >= work {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use ::disk::{Backend, Executor, yield_now};
    use futures_util::future::join_all;

    use super::*;

    #[test]
    fn those_who_come_meanwhile_share_the_next() {
        let executor = Executor::with_backend(Backend::Threads).unwrap();
        let (group, log) = (Group::default(), Cell::new((0, 0)));
        let join = async || {
            let work = async || {
                let (started, ended) = log.get();
                log.set((started + 1, ended));
                yield_now().await;
                log.set((started + 1, ended + 1));
                Ok(())
            };
            let before = log.get().0;
            group.join(work).await.unwrap();
            // All of a piece of work came after us.
            assert!(log.get().1 > before);
        };
        executor.run(join_all((0..10).map(|_| join())));
        assert_eq!(log.get(), (2, 2));
    }

    #[test]
    fn who_comes_back_at_once_does_not_keep_others() {
        let executor = Executor::with_backend(Backend::Threads).unwrap();
        let (group, count) = (Group::default(), Cell::new(0));
        let come_ten_times = async || {
            for _ in 0..10 {
                let work = async || {
                    count.set(count.get() + 1);
                    yield_now().await;
                    Ok(())
                };
                group.join(work).await.unwrap();
            }
        };
        executor.run(join_all((0..8).map(|_| come_ten_times())));
        // The first of each round is alone, the others share.
        assert!(count.get() <= 21, "{}", count.get());
    }
}
