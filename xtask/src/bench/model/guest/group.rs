//! Commits that are shared.

use std::cell::Cell;

use ::disk::Error;
use futures_util::lock::Mutex;

/// Work that one does for all who have come before it began; those who come later share the next.
#[derive(Default)]
pub(in super::super) struct Group {
    /// Who has it, works.
    turn: Mutex<()>,
    /// How often the work has begun.
    begun: Cell<u64>,
}

impl Group {
    /// Waits until `work` has been done from beginning to end, by us or for us.
    pub(in super::super) async fn join(
        &self,
        work: impl AsyncFnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let begun = self.begun.get();
        let _turn = self.turn.lock().await;
        if self.begun.get() > begun {
            return Ok(());
        }
        self.begun.set(begun + 1);
        work().await
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
}
