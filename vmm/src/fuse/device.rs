//! `/dev/fuse`: one read receives one request, one write sends one reply.
#![expect(unsafe_code, reason = "hands raw memory to system calls")]

use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use disk::Buffers;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use zerocopy::IntoBytes as _;

use super::abi::OutHeader;
use super::errno::Errno;
use crate::export::HEADROOM;

/// The connection to the kernel. Closing it ends the file system, whoever uses it.
pub(super) struct Device {
    descriptor: Arc<OwnedFd>,
}

impl Device {
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        let flags = fcntl_getfl(&descriptor)?;
        fcntl_setfl(&descriptor, flags | OFlags::NONBLOCK)?;
        let descriptor = Arc::new(descriptor);
        Ok(Self { descriptor })
    }

    /// Waits until there is a request, or the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        disk::readable(Arc::clone(&self.descriptor)).await
    }

    /// Receives a request into `memory`, which is one piece, and returns its length. An error of
    /// the kind [`ErrorKind::WouldBlock`] if there is none; `ENODEV` if there will be none any more.
    pub(super) fn receive(&self, memory: &Buffers) -> io::Result<usize> {
        let Some(segment) = memory.segments().next() else {
            return Ok(0);
        };
        loop {
            let descriptor = self.descriptor.as_raw_fd();
            // SAFETY: the segment is valid for writes while `memory` lives, and nobody else uses it.
            let count = unsafe { libc::read(descriptor, segment.iov_base, segment.iov_len) };
            if let Ok(count) = usize::try_from(count) {
                return Ok(count);
            }
            let error = io::Error::last_os_error();
            let again = error.kind() == ErrorKind::Interrupted
                // Whoever asked has given up before we could read it.
                || error.raw_os_error() == Some(libc::ENOENT);
            if !again {
                return Err(error);
            }
        }
    }

    /// Answers the request `unique`.
    pub(super) fn send(&self, unique: u64, answer: Result<&[u8], Errno>) {
        let (error, bytes) = match answer {
            Ok(bytes) => (0, bytes),
            Err(Errno(number)) => (-number, &[][..]),
        };
        let header = header(unique, error, bytes.len());
        let pieces = [IoSlice::new(header.as_bytes()), IoSlice::new(bytes)];
        let sent = rustix::io::writev(&*self.descriptor, &pieces);
        log(sent.map_err(io::Error::from));
    }

    /// Answers the request `unique` with data behind [`HEADROOM`] bytes of room.
    pub(super) fn send_data(&self, unique: u64, memory: &Buffers) {
        let header = header(unique, 0, memory.len() - HEADROOM);
        let start = HEADROOM - size_of::<OutHeader>();
        memory.slice(start..HEADROOM).copy_from(header.as_bytes());
        let message = memory.slice(start..memory.len());
        let segments: Vec<_> = message.segments().collect();
        let count = i32::try_from(segments.len()).unwrap_or(i32::MAX);
        let descriptor = self.descriptor.as_raw_fd();
        // SAFETY: the segments are valid while `message` lives.
        let sent = unsafe { libc::writev(descriptor, segments.as_ptr(), count) };
        log(usize::try_from(sent).map_err(|_| io::Error::last_os_error()));
    }
}

fn header(unique: u64, error: i32, len: usize) -> OutHeader {
    OutHeader {
        len: u32::try_from(size_of::<OutHeader>() + len).expect("at most a transfer"),
        error,
        unique,
    }
}

/// A reply that the kernel does not take is one that nobody waits for: the request was given up,
/// or the file system is gone.
fn log(sent: io::Result<usize>) {
    if let Err(error) = sent {
        tracing::debug!(%error, "a FUSE reply was not taken");
    }
}
