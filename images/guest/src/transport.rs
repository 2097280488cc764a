//! What a driver asks of the way to its device, whichever that is.

use crate::command_line::CommandLine;
use crate::mmio::Mmio;
use crate::pci::Pci;
use crate::virtqueue::Rings;
use crate::{Outcome, pattern::Random};

/// A way to a virtio device (virtio 1.2 section 4).
pub trait Transport {
    /// Reads the device status (section 2.1).
    fn status(&self) -> u8;

    /// Writes the device status; 0 resets the device.
    fn set_status(&self, status: u8);

    /// Reads 32 of the feature bits offered: `page` 0 is bits 0 to 31, 1 is bits 32 to 63.
    fn features(&self, page: u32) -> u32;

    /// Writes 32 of the feature bits taken.
    fn set_features(&self, page: u32, features: u32);

    /// The largest size of queue `queue`; 0 means that there is no such queue.
    fn queue_size_max(&self, queue: u16) -> u16;

    /// Gives queue `queue` its rings and enables it.
    fn enable_queue(&self, queue: u16, rings: &Rings);

    /// Tells the device that there are new buffers in queue `queue`.
    fn notify(&self, queue: u16);

    /// Reads 32 bits of the device's configuration space.
    fn config(&self, offset: u64) -> u32;

    /// Writes `count` random values to random registers.
    fn poke(&self, random: &mut Random, count: u32);
}

/// What the command line names, with room for whichever it is.
pub enum Either {
    /// A device in memory.
    Mmio(Mmio),
    /// A function on the PCI bus.
    Pci(Pci),
}

impl Either {
    /// Finds the first device of type `device_type` in the way the command line names.
    pub fn find(command_line: &CommandLine, device_type: u16) -> Outcome<Self> {
        if let Some(base) = command_line.number("mmio") {
            return Mmio::new(base, device_type).map(Self::Mmio);
        }
        let ecam = command_line
            .number("ecam")
            .ok_or("neither ecam= nor mmio= is given")?;
        Pci::find(ecam, device_type).map(Self::Pci)
    }

    /// The transport itself.
    pub fn transport(&self) -> &dyn Transport {
        match self {
            Self::Mmio(mmio) => mmio,
            Self::Pci(pci) => pci,
        }
    }
}
