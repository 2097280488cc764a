//! The reactor's work by `io_uring`: one system call a turn submits all there is and takes all
//! that is done.
//!
//! Files and memory are not registered with the ring. That saves some tens of nanoseconds of a
//! request that goes to a device, which takes thousands of the processor alone: with fio on a
//! virtual disk, direct I/O at depths 1 and 32, neither showed in requests a second or in
//! processor time, and what is in the page cache does not come here at all.
#![expect(
    unsafe_code,
    reason = "pushes entries that point to the reactor's memory"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, opcode, types};

use super::operation::segments;
use super::probe;
use super::{Completion, Operation};
use crate::Buffers;
use crate::executor::Alarm;

/// Entries of the submission ring; what exceeds it takes another system call.
const ENTRIES: u32 = 128;
/// Entries of the completion ring; what exceeds it the kernel keeps until there is room.
const COMPLETIONS: u32 = 1024;

/// Whose completion it is, in the low bits of an entry's user data; the index is above.
const TAG_BITS: u32 = 2;
const TAG_OPERATION: u64 = 0;
const TAG_WATCH: u64 = 1;
const TAG_ALARM: u64 = 2;
/// The answer to a cancellation, which nobody waits for.
const TAG_CANCEL: u64 = 3;

pub(super) struct Uring {
    ring: IoUring,
    /// Entries that did not enter the ring yet.
    queue: VecDeque<Entry>,
    alarm: RawFd,
}

impl Uring {
    /// Makes a ring and checks that it can do all that we ask.
    pub(super) fn new(alarm: &Alarm) -> io::Result<Self> {
        let ring = probe::ring(ENTRIES, COMPLETIONS)?;
        let mut uring = Self {
            ring,
            queue: VecDeque::new(),
            alarm: alarm.as_raw_fd(),
        };
        uring.watch_alarm();
        Ok(uring)
    }

    /// Queues an operation, which stays where it is until it is done; false if `io_uring` does not
    /// know it.
    pub(super) fn submit(&mut self, operation: &Operation, slot: usize) -> bool {
        let Some(entry) = entry(operation) else {
            return false;
        };
        self.queue
            .push_back(entry.user_data(tagged(slot, TAG_OPERATION)));
        true
    }

    /// Starts a multishot poll.
    pub(super) fn watch(&mut self, event: RawFd, watch: usize) {
        self.queue
            .push_back(poll(event).user_data(tagged(watch, TAG_WATCH)));
    }

    pub(super) fn unwatch(&mut self, watch: usize) {
        let cancel = opcode::AsyncCancel::new(tagged(watch, TAG_WATCH)).build();
        self.queue.push_back(cancel.user_data(TAG_CANCEL));
    }

    /// Asks for an operation's end; its completion comes either way.
    pub(super) fn cancel(&mut self, slot: usize) {
        let cancel = opcode::AsyncCancel::new(tagged(slot, TAG_OPERATION)).build();
        self.queue.push_back(cancel.user_data(TAG_CANCEL));
    }

    fn watch_alarm(&mut self) {
        self.queue.push_back(poll(self.alarm).user_data(TAG_ALARM));
    }

    /// Submits what is queued and takes what is done, waiting for something if `sleep`.
    pub(super) fn turn(&mut self, sleep: bool, done: &mut Vec<Completion>) {
        loop {
            self.fill();
            let last = self.queue.is_empty();
            let entered = self.enter(sleep && last && done.is_empty());
            self.take(done);
            match entered {
                Ok(()) if last => return,
                Ok(()) => {}
                // Out of memory or interrupted: the executor comes back.
                Err(libc::EAGAIN | libc::EBUSY | libc::EINTR) => return,
                Err(errno) => {
                    panic!(
                        "io_uring_enter failed: {}",
                        io::Error::from_raw_os_error(errno)
                    )
                }
            }
        }
    }

    /// Moves entries from the queue to the ring.
    fn fill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(entry) = self.queue.front() {
            // SAFETY: the operation and its memory stay in the reactor's slot until the completion
            // comes, and polls have no memory.
            if unsafe { submission.push(entry) }.is_err() {
                return;
            }
            self.queue.pop_front();
        }
    }

    fn enter(&mut self, sleep: bool) -> Result<(), i32> {
        let submission = self.ring.submission();
        let work = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        let sleep = sleep && self.ring.completion().is_empty();
        if !work && !sleep {
            return Ok(());
        }
        match self.ring.submit_and_wait(usize::from(sleep)) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn take(&mut self, done: &mut Vec<Completion>) {
        let mut alarm_is_over = false;
        for completion in self.ring.completion() {
            let (user_data, result) = (completion.user_data(), completion.result());
            let more = cqueue::more(completion.flags());
            let index = usize::try_from(user_data >> TAG_BITS).expect("we made it of a usize");
            match user_data & ((1 << TAG_BITS) - 1) {
                TAG_OPERATION => done.push(Completion::Operation {
                    slot: index,
                    result,
                }),
                TAG_WATCH => done.push(Completion::Signal {
                    watch: index,
                    result,
                    more,
                }),
                TAG_ALARM => alarm_is_over |= !more,
                _ => {}
            }
        }
        if alarm_is_over {
            self.watch_alarm();
        }
    }
}

fn tagged(index: usize, tag: u64) -> u64 {
    (index as u64) << TAG_BITS | tag
}

fn poll(event: RawFd) -> Entry {
    let events = libc::POLLIN.cast_unsigned();
    opcode::PollAdd::new(types::Fd(event), events.into())
        .multi(true)
        .build()
}

fn entry(operation: &Operation) -> Option<Entry> {
    let entry = match operation {
        Operation::Read {
            file,
            offset,
            buffers,
            ..
        } => {
            let fd = types::Fd(file.as_raw_fd());
            if let Some((base, len)) = single(buffers) {
                opcode::Read::new(fd, base, len).offset(*offset).build()
            } else {
                let (segments, count) = segments(buffers);
                opcode::Readv::new(fd, segments, count)
                    .offset(*offset)
                    .build()
            }
        }
        Operation::Write {
            file,
            offset,
            buffers,
            ..
        } => {
            let fd = types::Fd(file.as_raw_fd());
            if let Some((base, len)) = single(buffers) {
                opcode::Write::new(fd, base, len).offset(*offset).build()
            } else {
                let (segments, count) = segments(buffers);
                opcode::Writev::new(fd, segments, count)
                    .offset(*offset)
                    .build()
            }
        }
        Operation::Sync { file } => opcode::Fsync::new(types::Fd(file.as_raw_fd()))
            .flags(types::FsyncFlags::DATASYNC)
            .build(),
        Operation::Allocate {
            file,
            offset,
            len,
            mode,
        } => {
            let fd = types::Fd(file.as_raw_fd());
            opcode::Fallocate::new(fd, *len)
                .offset(*offset)
                .mode(mode.flags())
                .build()
        }
        Operation::Receive { socket, buffers } => {
            let (base, len) = single(buffers).expect("received into one segment");
            opcode::Recv::new(types::Fd(socket.as_raw_fd()), base, len).build()
        }
        Operation::Wait {
            descriptor,
            readiness,
        } => {
            let events = readiness.events().cast_unsigned();
            opcode::PollAdd::new(types::Fd(descriptor.as_raw_fd()), events.into()).build()
        }
        Operation::Delay { .. } => opcode::Nop::new().build(),
        Operation::Barrier { .. }
        | Operation::Discard { .. }
        | Operation::FindExtent { .. }
        | Operation::SetLen { .. } => return None,
    };
    Some(entry)
}

/// The memory of buffers with one segment, which need no segment list.
fn single(buffers: &Buffers) -> Option<(*mut u8, u32)> {
    match buffers.iovecs() {
        [segment] => {
            let len = u32::try_from(segment.iov_len).expect("transfers are cut at 1 GiB");
            Some((segment.iov_base.cast(), len))
        }
        _ => None,
    }
}
