//! Errors on demand.

use std::io;

/// The kinds of operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads.
    Read,
    /// Writes, which then leave some of their sectors written.
    Write,
    /// Syncs, after which what they should have made durable may be lost, as on Linux.
    Sync,
    /// Barriers, which then order nothing.
    Barrier,
    /// Discards and zeroed ranges.
    Zero,
    /// Changes of the size.
    SetLen,
}

/// Makes some operations fail.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    operation: Operation,
    skip: u64,
    count: u64,
    errno: i32,
}

impl Fault {
    /// Fails the next `operation` with `errno`, `libc::EIO` for example.
    pub fn new(operation: Operation, errno: i32) -> Self {
        Self {
            operation,
            skip: 0,
            count: 1,
            errno,
        }
    }

    /// Lets so many succeed first.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// Fails so many in a row.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.count = count;
        self
    }

    /// Counts an operation; the error, if it is to fail.
    pub(super) fn strikes(&mut self, operation: Operation) -> Option<io::Error> {
        if operation != self.operation || self.count == 0 {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.count -= 1;
        Some(io::Error::from_raw_os_error(self.errno))
    }
}
