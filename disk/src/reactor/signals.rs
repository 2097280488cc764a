//! Waiting for eventfds and sockets without `io_uring`: `poll`, then what there is to do.
#![expect(unsafe_code, reason = "calls poll and read")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use slab::Slab;

use super::{Completion, Operation, Slot, Watch};
use crate::executor::Alarm;

/// Reports the eventfds that were signalled, and does the operations of `waiting` whose socket is
/// ready; sleeps until there is one, or the alarm rings, if `sleep`.
pub(super) fn wait(
    sleep: bool,
    alarm: &Alarm,
    watches: &Slab<Watch>,
    (waiting, slots): (&mut Vec<usize>, &Slab<Slot>),
    done: &mut Vec<Completion>,
) {
    if !sleep && watches.is_empty() && waiting.is_empty() {
        return;
    }
    let mut fds = vec![polled(alarm.as_raw_fd(), libc::POLLIN)];
    fds.extend(
        watches
            .iter()
            .map(|(_, watch)| polled(watch.event.as_raw_fd(), libc::POLLIN)),
    );
    let sockets = fds.len();
    fds.extend(waiting.iter().map(|&slot| polled_by(&slots[slot])));
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
    let mut ready = fds[sockets..].iter().map(|polled| polled.revents != 0);
    waiting.retain(|&slot| !ready.next().unwrap_or(false) || !finish(slot, &slots[slot], done));
    for ((watch, entry), polled) in watches.iter().zip(&fds[1..sockets]) {
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

fn polled(fd: RawFd, events: i16) -> libc::pollfd {
    libc::pollfd {
        fd,
        events,
        revents: 0,
    }
}

/// What the operation on a socket waits for.
fn polled_by(slot: &Slot) -> libc::pollfd {
    match &slot.operation {
        Some(Operation::Receive { socket, .. }) => polled(socket.as_raw_fd(), libc::POLLIN),
        Some(Operation::Wait {
            descriptor,
            readiness,
        }) => polled(descriptor.as_raw_fd(), readiness.events()),
        _ => unreachable!("only operations on sockets wait here"),
    }
}

/// Does an operation whose socket is ready; false if it has to wait on.
fn finish(slot: usize, entry: &Slot, done: &mut Vec<Completion>) -> bool {
    let result = entry.operation.as_ref().map_or(0, Operation::perform);
    if result == -libc::EAGAIN {
        return false;
    }
    done.push(Completion::Operation { slot, result });
    true
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
