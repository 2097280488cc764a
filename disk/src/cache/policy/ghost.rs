//! Blocks that have left a short time ago.

use std::collections::{HashMap, VecDeque};

use foldhash::fast::RandomState;

/// The last blocks that left, without what was in them.
pub(super) struct Ghost {
    /// With the number of the departure, for a block may come back and leave again.
    left: VecDeque<(u64, u64)>,
    latest: HashMap<u64, u64, RandomState>,
    next: u64,
    max: usize,
}

impl Ghost {
    /// Remembers so many.
    pub(super) fn new(max: u32) -> Self {
        Self {
            left: VecDeque::new(),
            latest: HashMap::default(),
            next: 0,
            max: max as usize,
        }
    }

    /// A block leaves.
    pub(super) fn insert(&mut self, block: u64) {
        self.latest.insert(block, self.next);
        self.left.push_back((block, self.next));
        self.next += 1;
        while self.left.len() > self.max {
            let Some((oldest, number)) = self.left.pop_front() else {
                break;
            };
            if self.latest.get(&oldest) == Some(&number) {
                self.latest.remove(&oldest);
            }
        }
    }

    /// A block is back; whether it is remembered.
    pub(super) fn take(&mut self, block: u64) -> bool {
        self.latest.remove(&block).is_some()
    }
}
