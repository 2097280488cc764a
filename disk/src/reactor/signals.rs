//! Waiting for eventfds without `io_uring`: `poll`, then `read`.
#![expect(unsafe_code, reason = "calls poll and read")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use slab::Slab;

use super::{Completion, Watch};
use crate::executor::Alarm;

/// Reports the eventfds that were signalled; sleeps until one is, or the alarm rings, if `sleep`.
pub(super) fn wait(sleep: bool, alarm: &Alarm, watches: &Slab<Watch>, done: &mut Vec<Completion>) {
    if !sleep && watches.is_empty() {
        return;
    }
    let polled = |fd: RawFd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut fds = vec![polled(alarm.as_raw_fd())];
    fds.extend(
        watches
            .iter()
            .map(|(_, watch)| polled(watch.event.as_raw_fd())),
    );
    let timeout_ms = if sleep { -1 } else { 0 };
    // SAFETY: a valid array and its length.
    let ready = unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms) };
    if ready <= 0 {
        // Interrupted, or nothing: the executor comes back.
        return;
    }
    if fds[0].revents != 0 {
        alarm.clear();
    }
    for ((watch, entry), polled) in watches.iter().zip(&fds[1..]) {
        if polled.revents != 0 {
            let result = take_count(entry.event.as_raw_fd());
            if result != -libc::EAGAIN {
                done.push(Completion::Signal {
                    watch,
                    result,
                    more: result >= 0,
                });
            }
        }
    }
}

/// Sets an eventfd's counter to zero.
fn take_count(event: RawFd) -> i32 {
    let mut count = [0_u8; 8];
    // SAFETY: a buffer of the length given.
    let done = unsafe { libc::read(event, count.as_mut_ptr().cast(), count.len()) };
    if done < 0 {
        -io::Error::last_os_error()
            .raw_os_error()
            .unwrap_or(libc::EIO)
    } else {
        0
    }
}
