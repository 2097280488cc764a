//! What a block's class is worth.

use super::Arrival;
use crate::Class;

/// Of all blocks, so many quarters may have a credit at a time.
const QUARTERS: u32 = 3;
/// Of these, one in so many may be a block that came in a long run.
const RUN_PART: u32 = 4;

/// Gives credits to blocks. One that has a credit and would have to leave goes on, and has one less;
/// when it is used it has all of it again.
///
/// At most three quarters of the cache have one, whoever comes: in the rest all blocks are alike, so
/// that no class can keep another out, however much of it there is. What comes when that share is
/// full has no credit until it is used when there is room. So a tree of metadata that is larger than
/// the cache, and is read again and again, keeps three quarters of it there, where each block would
/// push out the next one that is needed.
///
/// Blocks that came in a long run cost one way of the heads together, and would again; those that came
/// alone cost one each. So the former have a quarter of what there is at most: an ext4 reads 32 blocks
/// of inodes for one of them, which would leave nothing to its directories.
pub(super) struct Credits {
    by_class: bool,
    bound: u32,
    held: u32,
    held_by_runs: u32,
}

/// What one block has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    whole: u8,
    left: u8,
    came_in_run: bool,
}

impl Credit {
    /// Whether a block with so much needs no proof that it is used more than once.
    pub(super) fn goes_ahead(self) -> bool {
        self.left > 1
    }
}

impl Credits {
    /// For so many slots; none for anybody, unless `by_class`.
    pub(super) fn new(slots: u32, by_class: bool) -> Self {
        Self {
            by_class,
            bound: slots / 4 * QUARTERS,
            held: 0,
            held_by_runs: 0,
        }
    }

    /// What a new block gets.
    pub(super) fn open(&mut self, Arrival { class, came_in_run }: Arrival) -> Credit {
        let whole = if self.by_class { worth(class) } else { 0 };
        let mut credit = Credit {
            whole,
            left: 0,
            came_in_run,
        };
        self.renew(&mut credit);
        credit
    }

    /// The block was used.
    pub(super) fn renew(&mut self, credit: &mut Credit) {
        let has_room = self.held < self.bound
            && (!credit.came_in_run || self.held_by_runs < self.bound / RUN_PART);
        if credit.whole > 0 && (credit.left > 0 || has_room) {
            if credit.left == 0 {
                self.held += 1;
                self.held_by_runs += u32::from(credit.came_in_run);
            }
            credit.left = credit.whole;
        }
    }

    /// The block would have to leave; whether it goes on.
    pub(super) fn spend(&mut self, credit: &mut Credit) -> bool {
        if credit.left == 0 {
            return false;
        }
        credit.left -= 1;
        if credit.left == 0 {
            self.give_back(*credit);
        }
        true
    }

    /// The block leaves.
    pub(super) fn close(&mut self, credit: Credit) {
        if credit.left > 0 {
            self.give_back(credit);
        }
    }

    fn give_back(&mut self, credit: Credit) {
        self.held -= 1;
        self.held_by_runs -= u32::from(credit.came_in_run);
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.held as usize
    }
}

/// How many times a block goes on. docs/cache.md says why so often.
fn worth(class: Class) -> u8 {
    match class {
        Class::Other => 0,
        Class::Below10Mib | Class::Below5Mib => 1,
        Class::Below2Mib => 2,
        Class::Below1Mib => 3,
        Class::Metadata => 6,
    }
}
