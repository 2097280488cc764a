//! What was used least recently leaves.

use super::credits::{Credit, Credits};
use super::queue::{Links, Queue};
use super::{Arrival, Policy};

/// One queue, in the order of use.
pub(super) struct Lru {
    links: Links,
    queue: Queue,
    credit: Vec<Credit>,
    credits: Credits,
}

impl Lru {
    pub(super) fn new(slots: u32, credits: Credits) -> Self {
        Self {
            links: Links::new(slots),
            queue: Queue::new(),
            credit: vec![Credit::default(); slots as usize],
            credits,
        }
    }
}

impl Policy for Lru {
    fn insert(&mut self, slot: u32, _block: u64, arrival: Arrival) {
        self.credit[slot as usize] = self.credits.open(arrival);
        self.queue.push(&mut self.links, slot);
    }

    fn touch(&mut self, slot: u32) {
        self.credits.renew(&mut self.credit[slot as usize]);
        self.queue.remove(&mut self.links, slot);
        self.queue.push(&mut self.links, slot);
    }

    fn remove(&mut self, slot: u32) {
        self.credits.close(self.credit[slot as usize]);
        self.queue.remove(&mut self.links, slot);
    }

    fn evict(&mut self) -> Option<u32> {
        loop {
            let slot = self.queue.pop(&mut self.links)?;
            if !self.credits.spend(&mut self.credit[slot as usize]) {
                return Some(slot);
            }
            self.queue.push(&mut self.links, slot);
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.queue.len() as usize
    }

    #[cfg(test)]
    fn favoured(&self) -> usize {
        self.credits.held()
    }
}
