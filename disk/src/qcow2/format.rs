//! The structures of a qcow2 file, as bytes and as values, without any I/O.

mod bitmap;
mod entry;
mod header;
mod layout;
mod refcount;
mod snapshot;

pub use crate::format_error::FormatError;
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
