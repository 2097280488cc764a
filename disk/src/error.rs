//! What can go wrong with a disk.

use std::path::PathBuf;

/// An error of a disk, with the file and the operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host refused an operation on a file.
    #[error("{}: cannot {operation}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried, `open` for example.
        operation: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
}
