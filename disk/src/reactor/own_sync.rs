//! Syncs that the executor's own thread does.
//!
//! A thread that has nothing to do but wait for a sync may as well do it itself: to hand it to
//! another and be woken takes two thread switches, on a fast disk a good part of the sync. But who
//! comes meanwhile has to wait. So that is found out: whatever else is there after a sync has
//! waited, and then the next ones go the usual way: more each time that it happens again.

use std::cell::Cell;

/// So many syncs go the usual way after one that held others up, and twice as many after each that
/// follows, up to a bound.
const HELD_BACK_MIN: u32 = 64;
const HELD_BACK_MAX: u32 = 1 << 16;

/// Decides who does a sync.
#[derive(Default)]
pub(super) struct OwnSync {
    /// The slot of a sync that this thread may do.
    slot: Cell<Option<usize>>,
    /// Whether it was kept for more than one turn.
    kept_on: Cell<bool>,
    /// So many go the usual way from now on.
    held_back: Cell<u32>,
    /// So many did the last time that one had held others up; 0 if the last did not.
    held_back_before: Cell<u32>,
}

impl OwnSync {
    /// Whether this thread should do a sync; `alone` says whether nothing else is in flight.
    pub(super) fn wants(&self, alone: bool) -> bool {
        match self.held_back.get().checked_sub(1) {
            Some(left) => {
                self.held_back.set(left);
                false
            }
            None => alone && self.slot.get().is_none(),
        }
    }

    /// Keeps a sync until the thread has nothing else to do.
    pub(super) fn keep(&self, slot: usize) {
        self.slot.set(Some(slot));
        self.kept_on.set(false);
    }

    /// Keeps a sync for another turn, for a task that only finds that it has nothing to do; false if
    /// that was done before.
    pub(super) fn keep_on(&self, slot: usize) -> bool {
        let again = !self.kept_on.replace(true);
        if again {
            self.slot.set(Some(slot));
        }
        again
    }

    /// The sync that is kept.
    pub(super) fn take(&self) -> Option<usize> {
        self.slot.take()
    }

    /// A sync is done; whether others have waited.
    pub(super) fn done(&self, others_waited: bool) {
        let before = self.held_back_before.get();
        let held_back = if others_waited {
            (before * 2).clamp(HELD_BACK_MIN, HELD_BACK_MAX)
        } else {
            0
        };
        self.held_back.set(held_back);
        self.held_back_before.set(held_back);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_held_up_is_not_again_for_a_while() {
        let own = OwnSync::default();
        assert!(!own.wants(false));
        assert!(own.wants(true));
        let usual = || (0..1 << 20).take_while(|_| !own.wants(true)).count();
        own.done(true);
        assert_eq!(usual(), 64);
        own.done(true);
        assert_eq!(usual(), 128);
        (0..20).for_each(|_| own.done(true));
        assert_eq!(usual(), 1 << 16);
        own.done(false);
        assert_eq!(usual(), 0);
        own.done(true);
        assert_eq!(usual(), 64);
    }

    #[test]
    fn one_is_kept_at_a_time() {
        let own = OwnSync::default();
        assert!(own.wants(true));
        own.keep(3);
        assert!(!own.wants(true));
        assert_eq!((own.take(), own.take()), (Some(3), None));
        assert!(own.keep_on(3));
        assert_eq!(own.take(), Some(3));
        assert!(!own.keep_on(3));
        assert_eq!(own.take(), None);
        assert!(own.wants(true));
    }
}
