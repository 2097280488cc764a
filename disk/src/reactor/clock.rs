//! Virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Completion;

/// Virtual time, in which delays end in their order as soon as nothing else can happen.
#[derive(Default)]
pub(super) struct Clock {
    pub(super) now_ns: u64,
    sequence: u64,
    timers: BinaryHeap<Reverse<(u64, u64, usize)>>,
}

impl Clock {
    pub(super) fn start(&mut self, duration_ns: u64, slot: usize) {
        let end_ns = self.now_ns.saturating_add(duration_ns);
        self.timers.push(Reverse((end_ns, self.sequence, slot)));
        self.sequence += 1;
    }

    pub(super) fn advance(&mut self) -> Completion {
        let Reverse((end_ns, _, slot)) = self
            .timers
            .pop()
            .expect("simulation: every task waits, and nothing is due");
        self.now_ns = end_ns;
        Completion::Operation { slot, result: 0 }
    }
}
