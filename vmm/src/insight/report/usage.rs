//! What was done with something, and by how many.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use super::summary::Traffic;

/// Processes that are told apart; more count as so many.
const PIDS_MAX: usize = 64;

/// What was done with a file, or by an executable.
#[derive(Clone, Debug, Default)]
pub(super) struct Usage {
    pub(super) traffic: Traffic,
    pids: Vec<u32>,
}

impl Usage {
    /// Notes a process that has to do with it.
    pub(super) fn by(&mut self, pid: u32) {
        if self.pids.len() < PIDS_MAX && !self.pids.contains(&pid) {
            self.pids.push(pid);
        }
    }

    /// How many processes there were, as far as they are told apart.
    pub(super) fn processes(&self) -> u64 {
        self.pids.len() as u64
    }

    /// Adds what was done with another that counts as the same.
    pub(super) fn add(&mut self, other: &Self) {
        self.traffic.add(other.traffic);
        for &pid in &other.pids {
            self.by(pid);
        }
    }
}

impl Traffic {
    /// Notes a read.
    pub(super) fn read(&mut self, bytes: u64) {
        self.reads += 1;
        self.read_bytes = self.read_bytes.saturating_add(bytes);
    }

    /// Notes a write.
    pub(super) fn wrote(&mut self, bytes: u64) {
        self.writes += 1;
        self.written_bytes = self.written_bytes.saturating_add(bytes);
    }

    /// Adds what was done elsewhere.
    pub(super) fn add(&mut self, other: Self) {
        let Self {
            reads,
            read_bytes,
            writes,
            written_bytes,
        } = other;
        self.reads = self.reads.saturating_add(reads);
        self.read_bytes = self.read_bytes.saturating_add(read_bytes);
        self.writes = self.writes.saturating_add(writes);
        self.written_bytes = self.written_bytes.saturating_add(written_bytes);
    }

    /// All bytes, read and written.
    pub(super) fn bytes(self) -> u64 {
        self.read_bytes.saturating_add(self.written_bytes)
    }
}

/// Removes the half of `map` that has the least bytes, and returns that.
pub(super) fn take_smaller_half<K, V, S>(
    map: &mut HashMap<K, V, S>,
    bytes: impl Fn(&V) -> u64,
) -> Vec<(K, V)>
where
    K: Clone + Eq + Hash + Ord,
    S: BuildHasher,
{
    let mut order: Vec<_> = map
        .iter()
        .map(|(key, value)| (bytes(value), key.clone()))
        .collect();
    order.sort_unstable();
    order.truncate(order.len().div_ceil(2));
    order
        .into_iter()
        .filter_map(|(_, key)| map.remove_entry(&key))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_told_apart_up_to_a_bound() {
        let mut usage = Usage::default();
        for pid in [1, 2, 1] {
            usage.by(pid);
        }
        assert_eq!(usage.processes(), 2);
        let mut other = Usage::default();
        for pid in 2..10_000 {
            other.by(pid);
        }
        usage.add(&other);
        assert_eq!(usage.processes(), PIDS_MAX as u64);
    }

    #[test]
    fn the_smaller_half_goes() {
        let mut map: HashMap<u64, u64> = (0..11).map(|number| (number, 100 - number)).collect();
        let mut gone = take_smaller_half(&mut map, |bytes| *bytes);
        gone.sort_unstable();
        assert_eq!(
            gone,
            [(5, 95), (6, 94), (7, 93), (8, 92), (9, 91), (10, 90)]
        );
        assert_eq!(map.len(), 5);
    }
}
