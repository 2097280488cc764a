//! What every device tells the machine about itself.

use std::fmt;

use vmm_sys_util::eventfd::EventFd;

/// The two address spaces of the x86 bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Port I/O (`IN` and `OUT`), 64 KiB.
    Port,
    /// Guest physical memory that is not RAM.
    Memory,
}

/// A range of addresses that a device answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The address space the range lies in.
    pub space: Space,
    /// The first address.
    pub base: u64,
    /// The length in bytes, at least 1.
    pub len_bytes: u64,
}

impl Window {
    /// Whether the two windows share an address.
    pub(crate) fn overlaps(self, other: Window) -> bool {
        let last = |window: Window| {
            window
                .base
                .saturating_add(window.len_bytes.saturating_sub(1))
        };
        self.space == other.space && self.base <= last(other) && other.base <= last(self)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = match self.space {
            Space::Port => "port",
            Space::Memory => "memory",
        };
        let last = self.base.saturating_add(self.len_bytes.saturating_sub(1));
        write!(f, "{space} {:#x}..={last:#x}", self.base)
    }
}

/// A wire from a device to an interrupt controller pin: writing the event raises it.
#[derive(Debug)]
pub struct InterruptLine {
    /// The global system interrupt, as ACPI counts them.
    pub gsi: u32,
    /// Written by the device, connected to the pin by the machine.
    pub event: EventFd,
}

/// A device on the bus. It describes itself; the machine's builder only iterates.
pub trait Device: Send {
    /// A short name for logs and statistics, `com1` for example.
    fn name(&self) -> &str;

    /// The address ranges the device answers, in the order that [`Device::read`] numbers them.
    fn windows(&self) -> Vec<Window>;

    /// The interrupt line the device drives, where it has one.
    fn interrupt(&self) -> Option<&InterruptLine> {
        None
    }

    /// The device's node below `\_SB` in the DSDT; devices that the guest finds by other means
    /// append nothing.
    fn append_aml(&self, _sink: &mut dyn acpi_tables::AmlSink) {}

    /// Answers a read of `data.len()` bytes at `offset` into window number `window`. The bus
    /// guarantees that the access lies within the window, and that it is one byte on a port.
    ///
    /// Called on a vCPU thread, so it must not wait. What no register backs reads as `0xff`,
    /// which is what `data` holds at entry.
    fn read(&mut self, window: usize, offset: u64, data: &mut [u8]);

    /// Takes a write of `data` at `offset` into window number `window`, within it as for
    /// [`Device::read`].
    ///
    /// Called on a vCPU thread, so it must not wait, other than for the reset of a virtio device.
    /// What no register backs is ignored.
    fn write(&mut self, window: usize, offset: u64, data: &[u8]);
}
