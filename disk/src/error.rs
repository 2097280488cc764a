//! What can go wrong with a disk.

use std::io;
use std::path::{Path, PathBuf};

/// An error of a disk, with the file and the operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host refused an operation on a file.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, `open` for example.
        operation: &'static str,
        /// What the host said.
        source: io::Error,
    },
    /// The host refused an operation on a range of a file.
    #[error("{}: cannot {operation} {len} bytes at {offset}: {source}", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// What was tried, `write` for example.
        operation: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// What the host said.
        source: io::Error,
    },
    /// A compact image has filled the block device that it is on.
    #[error(
        "{}: no space left: the image fills its {size_bytes} bytes; make the device larger, \
         discard what is not needed any more, or delete snapshots",
        path.display()
    )]
    NoPlace {
        /// The device.
        path: PathBuf,
        /// Its size in bytes.
        size_bytes: u64,
    },
    /// The file may not be opened in this way.
    #[error("{}: permission denied; {remedy}", path.display())]
    Permission {
        /// The file.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process has the file open in a way that excludes ours.
    #[error("{}: in use by another process, which {holder}; stop that one first", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// What the other does that is in our way.
        holder: &'static str,
    },
    /// Neither a regular file nor a block device.
    #[error("{}: is {kind}, not a file or block device", path.display())]
    NotADisk {
        /// The path.
        path: PathBuf,
        /// What it is, `a directory` for example.
        kind: &'static str,
    },
    /// The size is not one a disk can have.
    #[error("{}: {size_bytes} bytes is not a disk's size: {reason}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size_bytes: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// The file looks like an image in another format, and no format was given.
    #[error("{}: looks like {looks_like}; give its format (raw, if a guest wrote that)", path.display())]
    FormatNeeded {
        /// The file.
        path: PathBuf,
        /// The format it looks like.
        looks_like: &'static str,
    },
    /// No such format.
    #[error("unknown disk format '{name}'; known: {}", crate::Format::KNOWN)]
    UnknownFormat {
        /// What was given.
        name: String,
    },
    /// No such way to keep metadata in order.
    #[error("unknown order '{name}'; known: {}", crate::Order::KNOWN)]
    UnknownOrder {
        /// What was given.
        name: String,
    },
    /// No such way to choose what leaves a cache.
    #[error(
        "unknown cache policy '{name}'; known: {}",
        crate::cache::PolicyKind::KNOWN
    )]
    UnknownPolicy {
        /// What was given.
        name: String,
    },
    /// No such time at which a cached write is done.
    #[error("unknown way to write '{name}'; known: through, back")]
    UnknownWriteMode {
        /// What was given.
        name: String,
    },
    /// The disk is read-only.
    #[error("{}: cannot {operation}: the disk is read-only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
        /// What was asked, `write` for example.
        operation: &'static str,
    },
    /// A request that no disk of this size can do.
    #[error("{}: {operation} of {len} bytes at {offset}: {reason}", path.display())]
    Request {
        /// The file.
        path: PathBuf,
        /// What was asked, `write` for example.
        operation: &'static str,
        /// Where, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An earlier flush failed, so that no later one can promise anything.
    #[error("{}: an earlier flush failed, so written data may be lost; reopen the disk", path.display())]
    FlushFailedBefore {
        /// The file.
        path: PathBuf,
    },
    /// The image contradicts itself or its format.
    #[error("{}: damaged at offset {offset}: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The image is fine as far as we can tell, but we cannot do this with it.
    #[error("{}: {problem}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported.
        problem: String,
    },
    /// What a server lends is not what was opened. It is not read any more.
    #[error("{}: the base changed under us: {problem}; bring the old one back, and open it again", path.display())]
    Changed {
        /// Where it is.
        path: PathBuf,
        /// What has changed.
        problem: String,
    },
    /// The machinery that does the I/O could not be set up.
    #[error("cannot set up {what}: {source}")]
    Setup {
        /// What was being set up.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: `operation` on `path` failed.
    pub(crate) fn io(path: &Path, operation: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            operation,
            source,
        }
    }

    /// Whether the host has no room for what was to be written.
    pub(crate) fn is_no_space(&self) -> bool {
        let no_space = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
        match self {
            Self::Io { source, .. } | Self::Range { source, .. } => source
                .raw_os_error()
                .is_some_and(|errno| no_space.contains(&errno)),
            Self::NoPlace { .. } => true,
            _ => false,
        }
    }

    /// For `map_err`: setting up `what` failed.
    pub(crate) fn setup(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Setup { what, source }
    }
}
