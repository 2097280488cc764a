//! What the servers are asked for.

use std::fmt;

/// A kind of requests, and how many at a time.
#[derive(Clone, Copy, Debug)]
pub(in crate::bench) struct Load {
    /// Overwrites instead of reads.
    pub(in crate::bench) write: bool,
    /// Anywhere instead of one after the other.
    pub(in crate::bench) random: bool,
    pub(in crate::bench) block_bytes: usize,
    pub(in crate::bench) depth: usize,
}

/// Every kind, those that wait for each request first.
pub(in crate::bench) const LOADS: [Load; 18] = all();

const fn all() -> [Load; 18] {
    let mut loads = [Load {
        write: false,
        random: false,
        block_bytes: 1 << 20,
        depth: 1,
    }; 18];
    loads[17].write = true;
    let mut n = 0;
    while n < 16 {
        loads[n].random = n % 2 == 0;
        loads[n].write = n / 2 % 2 == 1;
        loads[n].block_bytes = if n / 4 % 2 == 0 { 4 << 10 } else { 64 << 10 };
        loads[n].depth = if n < 8 { 1 } else { 32 };
        n += 1;
    }
    loads
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.random { "random" } else { "sequential" };
        let verb = if self.write { "write" } else { "read" };
        let kib = self.block_bytes >> 10;
        write!(f, "{order} {verb} {kib}K depth {}", self.depth)
    }
}
