//! What those who borrow a disk are told when something fails.

/// A failure, as every protocol has a number for it. Details go to the log: borrowers are not told
/// what the host's files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The host has no room for what was to be written.
    NoSpace,
    /// The disk may not be changed.
    ReadOnly,
    /// No disk of this size can do that.
    Invalid,
    /// Everything else.
    Io,
}

impl From<&disk::Error> for Failure {
    fn from(error: &disk::Error) -> Self {
        match error {
            disk::Error::Io { source, .. } | disk::Error::Range { source, .. } => {
                match source.raw_os_error() {
                    Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Self::NoSpace,
                    _ => Self::Io,
                }
            }
            disk::Error::NoPlace { .. } => Self::NoSpace,
            disk::Error::ReadOnly { .. } => Self::ReadOnly,
            disk::Error::Request { .. } => Self::Invalid,
            _ => Self::Io,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_full_host_is_told_from_a_broken_one() {
        let failure = |errno| {
            Failure::from(&disk::Error::Io {
                path: "a".into(),
                operation: "write",
                source: io::Error::from_raw_os_error(errno),
            })
        };
        assert_eq!(failure(libc::ENOSPC), Failure::NoSpace);
        assert_eq!(failure(libc::EDQUOT), Failure::NoSpace);
        assert_eq!(failure(libc::EACCES), Failure::Io);
        let read_only = disk::Error::ReadOnly {
            path: "a".into(),
            operation: "write",
        };
        assert_eq!(Failure::from(&read_only), Failure::ReadOnly);
    }
}
