//! Error numbers, as programs see them in `errno`.

use crate::export::Failure;

/// Why a request is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Errno(pub(super) i32);

impl From<Failure> for Errno {
    fn from(failure: Failure) -> Self {
        Self(match failure {
            Failure::NoSpace => libc::ENOSPC,
            Failure::ReadOnly => libc::EROFS,
            Failure::Invalid => libc::EINVAL,
            Failure::Io => libc::EIO,
        })
    }
}
