//! A disk as clients see it.

use std::cell::Cell;
use std::rc::Rc;

use disk::{Disk, Properties};

use super::wire::{Errno, STRING_MAX_BYTES, transmission_flag as flag};
use super::write_order::WriteOrder;

/// The one metadata context there is, and the number by which replies name it.
pub(super) const ALLOCATION_CONTEXT: &str = "base:allocation";
pub(super) const ALLOCATION_CONTEXT_ID: u32 = 1;

/// A disk with a name.
pub(crate) struct Export {
    name: String,
    pub(super) disk: Rc<dyn Disk>,
    pub(super) properties: Properties,
    pub(super) writes: WriteOrder,
    /// Whether a request has failed. Only the first is worth a warning.
    failed: Cell<bool>,
}

impl Export {
    /// Exports `disk` as `name`.
    pub(crate) fn new(name: &str, disk: Rc<dyn Disk>) -> Self {
        Self {
            name: name.to_owned(),
            properties: disk.properties(),
            disk,
            writes: WriteOrder::default(),
            failed: Cell::new(false),
        }
    }

    /// Whether the protocol has room for such a name.
    pub(crate) fn is_name(name: &str) -> bool {
        name.len() <= STRING_MAX_BYTES
    }

    /// What it is called.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The transmission flags.
    pub(super) fn flags(&self, structured: bool) -> u16 {
        let mut flags = flag::HAS_FLAGS
            | flag::SEND_FLUSH
            | flag::SEND_FUA
            | flag::CAN_MULTI_CONN
            | flag::SEND_CACHE;
        if self.properties.read_only {
            flags |= flag::READ_ONLY;
        } else {
            flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES | flag::SEND_FAST_ZERO;
        }
        if structured {
            flags |= flag::SEND_DF;
        }
        flags
    }

    /// The number for an error of the disk, which goes to the log: clients are not told what the
    /// host's files are called.
    pub(super) fn errno(&self, error: &disk::Error) -> Errno {
        let export = self.name.as_str();
        if self.failed.replace(true) {
            tracing::debug!(export, %error, "a request failed");
        } else {
            tracing::warn!(export, %error, "a request failed; more are not reported");
        }
        match error {
            disk::Error::Io { source, .. } | disk::Error::Range { source, .. } => {
                match source.raw_os_error() {
                    Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => Errno::NoSpace,
                    _ => Errno::Io,
                }
            }
            disk::Error::ReadOnly { .. } => Errno::NotPermitted,
            disk::Error::Request { .. } => Errno::Invalid,
            _ => Errno::Io,
        }
    }
}
