//! Virtio devices and their transports (virtio 1.2).

mod block;
mod chain;
mod device;
mod doorbells;
#[cfg(test)]
mod driver_mock;
mod entropy;
mod link;
mod mmio;
pub(crate) mod pci;
mod queue_setup;
mod statistics;
#[cfg(test)]
mod tests;
mod transport;
mod virtqueue;

pub use block::{Block, BlockConfig, BlockHandle, BlockStatistics, SERIAL_BYTES_MAX};
pub use device::{Activation, ActiveQueue, Notifier, VirtioDevice};
pub use entropy::Entropy;
pub use mmio::MmioTransport;
pub use statistics::TransportStatistics;

/// The virtio vendor, on PCI and elsewhere (virtio 1.2 section 4.1.2).
const VENDOR_ID: u16 = 0x1af4;
