//! Virtio devices and their transports (virtio 1.2).

mod device;
mod doorbells;
mod link;
mod mmio;
pub(crate) mod pci;
mod queue_setup;
mod statistics;
mod transport;

pub use device::{Activation, ActiveQueue, Notifier, VirtioDevice};
pub use mmio::MmioTransport;
pub use statistics::TransportStatistics;

/// The virtio vendor, on PCI and elsewhere (virtio 1.2 section 4.1.2).
const VENDOR_ID: u16 = 0x1af4;
