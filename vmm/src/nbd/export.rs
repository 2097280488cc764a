//! A disk as clients see it.

use std::rc::Rc;

use disk::Disk;
use disk::nbd::{Errno, STRING_MAX_BYTES, transmission_flag as flag};

use super::request::Refusal;
use crate::export::{ByteDisk, Failure};

/// The number by which replies name the one metadata context there is.
pub(super) const ALLOCATION_CONTEXT_ID: u32 = 1;

/// A disk with a name.
pub(crate) struct Export {
    name: String,
    pub(super) bytes: ByteDisk,
}

impl Export {
    /// Exports `disk` as `name`.
    pub(crate) fn new(name: &str, disk: Rc<dyn Disk>) -> Self {
        Self {
            name: name.to_owned(),
            bytes: ByteDisk::new(name.to_owned(), disk),
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
        if self.bytes.properties().read_only {
            flags |= flag::READ_ONLY;
        } else {
            flags |= flag::SEND_TRIM | flag::SEND_WRITE_ZEROES;
        }
        if structured {
            flags |= flag::SEND_DF;
        }
        flags
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self::from(match failure {
            Failure::NoSpace => Errno::NoSpace,
            Failure::ReadOnly => Errno::NotPermitted,
            Failure::Invalid => Errno::Invalid,
            Failure::Io => Errno::Io,
        })
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, reason: "" }
    }
}
