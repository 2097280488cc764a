//! Reads from the page cache and small writes to it, done at once.
//!
//! A read that finds its data in memory is a copy, and a system call of its own costs less than
//! the way through a queue. One that does not comes back, and goes that way.
//!
//! Some file systems (ext4 for one) cannot do a buffered write without waiting in principle, so
//! `io_uring` gives it to a worker thread, and two thread switches take several times as long as
//! the copy. This thread does it in less, but where the host would hold it up: to read what it
//! writes only a part of, to wait for an operation that holds the file's lock, or because too much
//! is dirty. The last shows only when it has happened: then we stop for a while.

use std::cell::Cell;
use std::fs::File;
use std::time::{Duration, Instant};

use super::Operation;
use super::operation::{is_cached, read_cached};
use crate::Buffers;

/// What the host caches by. Of a page that is written in part, it must have the rest.
const PAGE_BYTES: u64 = 4096;
/// A copy of this many bytes takes about as long as a thread switch.
const LEN_MAX: usize = 65536;
/// So many are copied where nobody else waits for this thread: the switch would come on top.
const LEN_MAX_ALONE: usize = 1 << 20;
/// What takes longer was more than a copy.
const COPY_MAX: Duration = Duration::from_millis(1);
/// How many times as long as a write that took longer others go the usual way.
const PENALTY: u32 = 10;

/// Decides what is done at once.
#[derive(Default)]
pub(super) struct Inline {
    /// Whether a file system has said that it always may wait for a read.
    cannot_read: Cell<bool>,
    /// Until when writes go the usual way.
    held_back_until: Cell<Option<Instant>>,
}

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is done, with this result.
    Done(i32),
    /// It goes the usual way.
    Queue {
        /// Whether it may hold its file's lock for long, so that a write would have to wait.
        locks: bool,
    },
}

impl Inline {
    /// Does `operation` if that is quick; `locked` says whether one that locks is in flight, and
    /// `alone` whether none is.
    pub(super) fn perform(
        &self,
        operation: &Operation,
        locked: bool,
        alone: impl FnOnce() -> bool,
    ) -> Verdict {
        let done = match operation {
            Operation::Read {
                file,
                offset,
                buffers,
                cached: true,
            } => self.read(file, *offset, buffers),
            Operation::Write {
                file,
                offset,
                buffers,
                cached: true,
            } => {
                let len = buffers.len();
                let is_short = len <= LEN_MAX || (len <= LEN_MAX_ALONE && alone());
                if !is_short || !has_edges(file, *offset, len) {
                    return Verdict::Queue { locks: true };
                }
                (!locked && self.may_write()).then(|| self.write(operation))
            }
            Operation::Allocate { .. }
            | Operation::Discard { .. }
            | Operation::FindExtent { .. }
            | Operation::SetLen { .. } => return Verdict::Queue { locks: true },
            _ => None,
        };
        done.map_or(Verdict::Queue { locks: false }, Verdict::Done)
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

    fn may_write(&self) -> bool {
        match self.held_back_until.get() {
            Some(until) if Instant::now() < until => false,
            _ => {
                self.held_back_until.set(None);
                true
            }
        }
    }

    fn write(&self, operation: &Operation) -> i32 {
        let start = Instant::now();
        let result = operation.perform();
        self.took(start.elapsed());
        result
    }

    fn took(&self, duration: Duration) {
        if duration > COPY_MAX {
            let until = Instant::now() + duration * PENALTY;
            self.held_back_until.set(Some(until));
        }
    }
}

/// Whether the host has in memory what a write leaves of its first and last page; past the end of
/// the file, there is nothing to have.
fn has_edges(file: &File, offset: u64, len: usize) -> bool {
    let end = offset.saturating_add(len as u64);
    let is_cut = |at: &u64| !at.is_multiple_of(PAGE_BYTES);
    [offset, end].iter().filter(|at| is_cut(at)).all(|at| {
        let page = at - at % PAGE_BYTES;
        is_cached(file, page)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn write(file: &Arc<File>, offset: u64, len: usize, cached: bool) -> Operation {
        Operation::Write {
            file: Arc::clone(file),
            offset,
            buffers: Buffers::zeroed(len),
            cached,
        }
    }

    fn file() -> Arc<File> {
        Arc::new(tempfile::tempfile().unwrap())
    }

    const QUEUED: Verdict = Verdict::Queue { locks: false };
    const QUEUED_AND_LOCKS: Verdict = Verdict::Queue { locks: true };

    #[test]
    fn small_cached_writes_are_done_at_once() {
        let (inline, file) = (Inline::default(), file());
        let verdict = |offset, len, cached, locked| {
            inline.perform(&write(&file, offset, len, cached), locked, || false)
        };
        assert_eq!(verdict(4096, 8192, true, false), Verdict::Done(8192));
        assert_eq!(verdict(4096, 8192, true, true), QUEUED);
        assert_eq!(verdict(4096, 8192, false, false), QUEUED);
        assert_eq!(verdict(0, 1 << 20, true, false), QUEUED_AND_LOCKS);
        let alone = |len| inline.perform(&write(&file, 0, len, true), false, || true);
        assert_eq!(alone(1 << 20), Verdict::Done(1 << 20));
        assert_eq!(alone(2 << 20), QUEUED_AND_LOCKS);
        // The pages are in memory, and past the end there are none.
        assert_eq!(verdict(4608, 512, true, false), Verdict::Done(512));
        assert_eq!(verdict(12_000, 1000, true, false), Verdict::Done(1000));
        assert_eq!(verdict(1 << 20, 1000, true, false), Verdict::Done(1000));
    }

    #[test]
    fn page_that_must_be_read_first_is_not_waited_for() {
        let (inline, file) = (Inline::default(), file());
        // Nobody can read this descriptor at all, as little as a page that is not in memory.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&*file));
        let write_only = Arc::new(File::options().write(true).open(path).unwrap());
        let verdict =
            |offset, len| inline.perform(&write(&write_only, offset, len, true), false, || false);
        assert_eq!(verdict(0, 4096), Verdict::Done(4096));
        assert_eq!(verdict(512, 3584), QUEUED_AND_LOCKS);
        assert_eq!(verdict(0, 512), QUEUED_AND_LOCKS);
    }

    #[test]
    fn slow_write_holds_others_back_for_a_while() {
        let (inline, file) = (Inline::default(), file());
        let page = write(&file, 0, 4096, true);
        inline.took(COPY_MAX);
        assert_eq!(inline.perform(&page, false, || false), Verdict::Done(4096));
        inline.took(Duration::from_secs(1000));
        assert_eq!(inline.perform(&page, false, || false), QUEUED);
        inline.held_back_until.set(Some(Instant::now()));
        assert_eq!(inline.perform(&page, false, || false), Verdict::Done(4096));
    }
}
