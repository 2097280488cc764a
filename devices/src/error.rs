//! What can go wrong in a device.

/// An error of a device or its transport.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine could not give the device what it needs.
    #[error("{device}: cannot {operation}: {source}")]
    Host {
        /// The device's name.
        device: String,
        /// What was tried.
        operation: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// The disk behind a block device failed to open.
    #[error(transparent)]
    Disk(#[from] disk::Error),
}
