//! S3-FIFO: three first-in first-out queues (Yang, Zhang, Qiu, Yue, Vinayak, "FIFO Queues are All
//! You Need for Cache Eviction", SOSP 2023, algorithm 1).
//!
//! New blocks go to the small queue, a tenth of the cache. Who was used more than once there goes on
//! to the main queue; the others leave, and only their numbers stay, in the ghost queue: who comes
//! back from there goes to the main queue at once. There, who was used goes round again.
//!
//! A class's credit ([`Credits`]) counts as uses do: with two or more, a block goes to the main queue
//! when it comes.

use super::credits::{Credit, Credits};
use super::ghost::Ghost;
use super::queue::{Links, Queue};
use super::{Arrival, Policy};

/// The small queue is this part of the cache.
const SMALL_PART: u32 = 10;
/// Uses are counted so far.
const USES_MAX: u8 = 3;

pub(super) struct S3Fifo {
    links: Links,
    small: Queue,
    main: Queue,
    ghost: Ghost,
    nodes: Vec<Node>,
    credits: Credits,
    small_max: u32,
}

#[derive(Clone, Copy, Default)]
struct Node {
    block: u64,
    credit: Credit,
    uses: u8,
    is_main: bool,
}

impl S3Fifo {
    pub(super) fn new(slots: u32, credits: Credits) -> Self {
        let small_max = (slots / SMALL_PART).max(1);
        Self {
            links: Links::new(slots),
            small: Queue::new(),
            main: Queue::new(),
            ghost: Ghost::new(slots - small_max.min(slots)),
            nodes: vec![Node::default(); slots as usize],
            credits,
            small_max,
        }
    }

    fn push_main(&mut self, slot: u32) {
        self.nodes[slot as usize].is_main = true;
        self.main.push(&mut self.links, slot);
    }

    /// Takes the oldest block of the small queue, unless it has shown that it is worth more.
    fn evict_small(&mut self) -> Option<u32> {
        let slot = self.small.pop(&mut self.links)?;
        let node = &mut self.nodes[slot as usize];
        if node.uses > 1 {
            node.uses = 0;
        } else if !self.credits.spend(&mut node.credit) {
            self.ghost.insert(node.block);
            return Some(slot);
        }
        self.push_main(slot);
        None
    }

    /// Takes the oldest block of the main queue, unless it goes round again.
    fn evict_main(&mut self) -> Option<u32> {
        let slot = self.main.pop(&mut self.links)?;
        let node = &mut self.nodes[slot as usize];
        if node.uses > 0 {
            node.uses -= 1;
        } else if !self.credits.spend(&mut node.credit) {
            return Some(slot);
        }
        self.push_main(slot);
        None
    }
}

impl Policy for S3Fifo {
    fn insert(&mut self, slot: u32, block: u64, arrival: Arrival) {
        let credit = self.credits.open(arrival);
        let is_main = self.ghost.take(block) || credit.goes_ahead();
        self.nodes[slot as usize] = Node {
            block,
            credit,
            uses: 0,
            is_main,
        };
        let queue = if is_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.push(&mut self.links, slot);
    }

    fn touch(&mut self, slot: u32) {
        let node = &mut self.nodes[slot as usize];
        node.uses = (node.uses + 1).min(USES_MAX);
        self.credits.renew(&mut node.credit);
    }

    fn remove(&mut self, slot: u32) {
        let Node {
            credit, is_main, ..
        } = self.nodes[slot as usize];
        self.credits.close(credit);
        let queue = if is_main {
            &mut self.main
        } else {
            &mut self.small
        };
        queue.remove(&mut self.links, slot);
    }

    fn evict(&mut self) -> Option<u32> {
        while self.small.len() + self.main.len() > 0 {
            let from_small = self.small.len() >= self.small_max || self.main.len() == 0;
            let left = if from_small {
                self.evict_small()
            } else {
                self.evict_main()
            };
            if let Some(slot) = left {
                self.credits.close(self.nodes[slot as usize].credit);
                return Some(slot);
            }
        }
        None
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        (self.small.len() + self.main.len()) as usize
    }

    #[cfg(test)]
    fn favoured(&self) -> usize {
        self.credits.held()
    }
}
