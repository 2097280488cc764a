//! What a block's class is worth.

use crate::Class;

/// Of all blocks, so many quarters may have a credit at a time.
const QUARTERS: u32 = 3;

/// Gives credits to blocks. One that has a credit and would have to leave goes on, and has one less;
/// when it is used it has all of it again.
///
/// At most three quarters of the cache have one, whoever comes: in the rest all blocks are alike, so
/// that no class can keep another out, however much of it there is. What comes when that share is
/// full has no credit until it is used when there is room. So a tree of metadata that is larger than
/// the cache, and is read again and again, keeps three quarters of it there, where each block would
/// push out the next one that is needed.
pub(super) struct Credits {
    by_class: bool,
    bound: u32,
    held: u32,
}

/// What one block has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Credit {
    whole: u8,
    left: u8,
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
        }
    }

    /// What a new block gets.
    pub(super) fn open(&mut self, class: Class) -> Credit {
        let whole = if self.by_class { worth(class) } else { 0 };
        let mut credit = Credit { whole, left: 0 };
        self.renew(&mut credit);
        credit
    }

    /// The block was used.
    pub(super) fn renew(&mut self, credit: &mut Credit) {
        let room = credit.left > 0 || self.held < self.bound;
        if credit.whole > 0 && room {
            self.held += u32::from(credit.left == 0);
            credit.left = credit.whole;
        }
    }

    /// The block would have to leave; whether it goes on.
    pub(super) fn spend(&mut self, credit: &mut Credit) -> bool {
        if credit.left == 0 {
            return false;
        }
        credit.left -= 1;
        self.held -= u32::from(credit.left == 0);
        true
    }

    /// The block leaves.
    pub(super) fn close(&mut self, credit: Credit) {
        self.held -= u32::from(credit.left > 0);
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
