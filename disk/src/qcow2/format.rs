//! The structures of a qcow2 file, as bytes and as values, without any I/O.

use std::path::Path;

use crate::Error;

mod bitmap;
mod entry;
mod header;
mod layout;
mod refcount;
mod snapshot;

pub use bitmap::{BitmapEntry, BitmapFlags, BitmapsExtension};
pub use entry::{Cluster, L1Entry, L2Entry, Subclusters};
pub use header::{
    AutoclearFeatures, CompatibleFeatures, Compression, Header, IncompatibleFeatures,
    JournalExtension, MAGIC, UnknownExtension,
};
pub(crate) use layout::TABLE_CLUSTERS_MAX;
pub use layout::{L1_BYTES_MAX, Layout, REFCOUNT_TABLE_BYTES_MAX};
pub use refcount::RefcountWidth;
pub use snapshot::{SNAPSHOTS_MAX, SnapshotEntry};

/// What is wrong with a structure, and where in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormatError {
    /// The offset of the structure or the field, in bytes.
    pub offset: u64,
    /// What is wrong, as the end of a sentence that begins with the file's name.
    pub problem: String,
    /// Whether the file may be fine, but asks for something that is not supported.
    pub unsupported: bool,
}

impl FormatError {
    pub(crate) fn damaged(offset: u64, problem: impl Into<String>) -> Self {
        Self {
            offset,
            problem: problem.into(),
            unsupported: false,
        }
    }

    /// The error of an image at `path`.
    pub(crate) fn at(path: &Path) -> impl FnOnce(Self) -> Error {
        move |error| {
            let path = path.to_owned();
            if error.unsupported {
                Error::Unsupported {
                    path,
                    problem: error.problem,
                }
            } else {
                Error::Damaged {
                    path,
                    offset: error.offset,
                    problem: error.problem,
                }
            }
        }
    }

    pub(crate) fn unsupported(offset: u64, problem: impl Into<String>) -> Self {
        Self {
            offset,
            problem: problem.into(),
            unsupported: true,
        }
    }
}
