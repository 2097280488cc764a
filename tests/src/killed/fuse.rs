//! When the program is killed: at a count, so that a seed means the same moment.

use std::sync::{Mutex, PoisonError};

/// What burns down while a program works, and kills it at the end.
pub(super) struct Fuse<'a> {
    left: Mutex<Left>,
    kill: &'a (dyn Fn() + Sync),
}

struct Left {
    promises: u64,
    /// Counted when no promises are left.
    answers: u64,
    is_burnt: bool,
}

impl<'a> Fuse<'a> {
    /// Kills after so many promises and, from there, so many answers.
    pub(super) fn new(promises: u64, answers: u64, kill: &'a (dyn Fn() + Sync)) -> Self {
        let left = Left {
            promises,
            answers,
            is_burnt: false,
        };
        Self {
            left: Mutex::new(left),
            kill,
        }
    }

    /// Notes that something was promised.
    pub(super) fn promised(&self) {
        self.burn(|left| left.promises = left.promises.saturating_sub(1));
    }

    /// Notes that something was answered.
    pub(super) fn answered(&self) {
        self.burn(|left| {
            if left.promises == 0 {
                left.answers = left.answers.saturating_sub(1);
            }
        });
    }

    /// Whether the program was killed.
    pub(super) fn is_burnt(&self) -> bool {
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_burnt
    }

    fn burn(&self, step: impl FnOnce(&mut Left)) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        step(&mut left);
        if left.promises == 0 && left.answers == 0 && !left.is_burnt {
            left.is_burnt = true;
            (self.kill)();
        }
    }
}
