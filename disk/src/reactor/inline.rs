//! Reads from the page cache and small writes to it, done at once.
//!
//! A read that finds its data in memory is a copy, and a system call of its own costs less than
//! the way through a queue. One that does not comes back, and goes that way.
//!
//! Some file systems (ext4 for one) cannot do a buffered write without waiting in principle, so
//! `io_uring` gives it to a worker thread, and two thread switches take several times as long as
//! the copy. While nothing else is in flight nobody is kept waiting if this thread does it, but
//! for the rare write that the host holds back because too much is dirty: then we stop for a while.

use std::cell::Cell;
use std::fs::File;
use std::time::{Duration, Instant};

use super::Operation;
use super::operation::read_cached;
use crate::Buffers;

/// A page, and what larger writes should be multiples of: less would have to be read first.
const PAGE_BYTES: usize = 4096;
/// A copy of this many bytes takes about as long as a thread switch.
const LEN_MAX: usize = 65536;
/// What takes longer was more than a copy.
const COPY_MAX: Duration = Duration::from_millis(1);
/// Writes that go the usual way after one that took longer.
const HELD_BACK: u32 = 1000;

/// Decides what is done at once.
#[derive(Default)]
pub(super) struct Inline {
    /// Whether a file system has said that it always may wait for a read.
    cannot_read: Cell<bool>,
    held_back: Cell<u32>,
}

impl Inline {
    /// Does `operation` if that is quick, and returns its result.
    pub(super) fn perform(&self, operation: &Operation) -> Option<i32> {
        match operation {
            Operation::Read {
                file,
                offset,
                buffers,
                cached: true,
            } => self.read(file, *offset, buffers),
            Operation::Write {
                offset,
                buffers,
                cached: true,
                ..
            } => self.write(operation, *offset, buffers),
            _ => None,
        }
    }

    fn read(&self, file: &File, offset: u64, buffers: &Buffers) -> Option<i32> {
        if self.cannot_read.get() {
            return None;
        }
        match read_cached(file, offset, buffers) {
            Ok(count) => Some(count),
            Err(error) => {
                let unsupported = error.raw_os_error() == Some(libc::EOPNOTSUPP);
                self.cannot_read.set(unsupported);
                None
            }
        }
    }

    fn write(&self, operation: &Operation, offset: u64, buffers: &Buffers) -> Option<i32> {
        let pages = offset.is_multiple_of(PAGE_BYTES as u64)
            && buffers.len().is_multiple_of(PAGE_BYTES)
            && buffers.len() <= LEN_MAX;
        if !pages {
            return None;
        }
        if let Some(left) = self.held_back.get().checked_sub(1) {
            self.held_back.set(left);
            return None;
        }
        let start = Instant::now();
        let result = operation.perform();
        self.took(start.elapsed());
        Some(result)
    }

    fn took(&self, duration: Duration) {
        if duration > COPY_MAX {
            self.held_back.set(HELD_BACK);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Buffers;

    fn write(offset: u64, len: usize, cached: bool) -> Operation {
        let file = Arc::new(tempfile::tempfile().unwrap());
        Operation::Write {
            file,
            offset,
            buffers: Buffers::zeroed(len),
            cached,
        }
    }

    #[test]
    fn whole_cached_pages_are_written_at_once() {
        let inline = Inline::default();
        assert_eq!(inline.perform(&write(4096, 8192, true)), Some(8192));
        for (offset, len, cached) in [
            (0, 4096, false),
            (512, 4096, true),
            (0, 512, true),
            (0, 1 << 20, true),
        ] {
            assert_eq!(inline.perform(&write(offset, len, cached)), None);
        }
    }

    #[test]
    fn slow_write_holds_others_back_for_a_while() {
        let inline = Inline::default();
        inline.took(COPY_MAX);
        assert!(inline.perform(&write(0, 4096, true)).is_some());
        inline.took(COPY_MAX * 2);
        let page = write(0, 4096, true);
        assert!((0..HELD_BACK).all(|_| inline.perform(&page).is_none()));
        assert!(inline.held_back.get() == 0);
    }
}
