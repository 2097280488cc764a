//! What can go wrong in a device.

use crate::Window;

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
    /// A window that is empty or does not fit its address space.
    #[error("{device}: {window} is not a usable range of addresses")]
    BadWindow {
        /// The device's name.
        device: String,
        /// The window.
        window: Window,
    },
    /// Two devices answer the same addresses.
    #[error("{device}: {window} is taken by {other}")]
    WindowOverlap {
        /// The device that was to be added.
        device: String,
        /// Its window.
        window: Window,
        /// The device that has it.
        other: String,
    },
    /// There are more PCI functions than one bus holds.
    #[error("{device}: the PCI bus is full; use at most {limit} devices")]
    BusFull {
        /// The device that was to be added.
        device: String,
        /// How many functions there may be.
        limit: usize,
    },
    /// The window for PCI memory is used up.
    #[error("{device}: the PCI memory window has no {len_bytes} bytes left")]
    WindowFull {
        /// The device that was to be added.
        device: String,
        /// The size of its base address register.
        len_bytes: u64,
    },
    /// A device has more queues than its transport can address.
    #[error("{device}: {queues} queues are too many; use at most {limit}")]
    TooManyQueues {
        /// The device.
        device: String,
        /// Its queues.
        queues: usize,
        /// What the transport can address.
        limit: usize,
    },
}
