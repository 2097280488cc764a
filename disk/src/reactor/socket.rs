//! Operations on sockets, which take as long as the other side likes.
//!
//! With `io_uring` they are entries like any other. Without it, `poll` says when to try, and then
//! they are done by this thread. Either way one that nobody waits for any more is cancelled, for
//! it might never end.
#![expect(unsafe_code, reason = "hands raw memory to system calls")]

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};

use super::operation::{segments, transferred};
use crate::Buffers;

const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Something to receive, or somebody to accept, or the end.
    Readable,
    /// Room to send.
    Writable,
}

impl Readiness {
    /// As `poll` has it.
    pub(super) fn events(self) -> i16 {
        match self {
            Self::Readable => libc::POLLIN,
            Self::Writable => libc::POLLOUT,
        }
    }
}

/// Receives what there is, up to the length of `buffers`, without waiting.
pub(super) fn receive(socket: &OwnedFd, buffers: &Buffers) -> io::Result<i32> {
    let (segments, count) = segments(buffers);
    let mut message = message(segments, count as usize);
    let flags = libc::MSG_DONTWAIT;
    // SAFETY: the segments are valid while `buffers` lives.
    transferred(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })
}

/// Sends what there is room for, without waiting. A hang-up is an error, not a signal.
pub(crate) fn send(socket: &OwnedFd, buffers: &Buffers) -> io::Result<i32> {
    let (segments, count) = segments(buffers);
    let message = message(segments, count as usize);
    // SAFETY: the segments are valid while `buffers` lives.
    transferred(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, SEND_FLAGS) })
}

/// As [`send`], of slices.
pub(crate) fn send_slices(socket: &OwnedFd, slices: &[IoSlice<'_>]) -> io::Result<i32> {
    // The standard library has them laid out as the kernel wants them.
    let message = message(slices.as_ptr().cast(), slices.len());
    // SAFETY: the slices are borrowed, and so are valid; sending only reads them.
    transferred(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, SEND_FLAGS) })
}

/// Ends a connection in both directions. One that has ended already is no less ended.
pub(crate) fn shutdown(socket: &OwnedFd) {
    // SAFETY: takes no pointers.
    unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RDWR) };
}

/// A message that is in `count` segments.
fn message(segments: *const libc::iovec, count: usize) -> libc::msghdr {
    // SAFETY: all zeros is a valid `msghdr`: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = segments.cast_mut();
    message.msg_iovlen = count;
    message
}
