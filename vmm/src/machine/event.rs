//! Waiting for events of a type that only lends its descriptor's number.
#![expect(unsafe_code, reason = "borrows a descriptor by its number")]

use std::os::fd::{AsRawFd, BorrowedFd};

use vmm_sys_util::eventfd::EventFd;

/// The descriptor of `event`, to poll.
pub(super) fn descriptor(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the event owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}
