//! What the guest sees: buses, virtio transports, block, entropy, serial, clock, power.

mod acpi_power;
mod bus;
mod device;
mod error;
mod i8042;
mod pci;
mod platform;
#[cfg(test)]
mod platform_fake;
mod pvpanic;
#[cfg(test)]
mod random_test;
mod rtc;
mod serial;
#[cfg(test)]
mod tests;
pub mod virtio;

pub use acpi_power::{AcpiPower, PowerButton};
pub use bus::Bus;
pub use device::{Device, InterruptLine, Space, Window};
pub use error::Error;
pub use i8042::I8042;
pub use pci::PciRoot;
pub use platform::{Doorbell, MsiMessage, MsiVector, Platform, PowerEvent};
pub use pvpanic::Pvpanic;
pub use rtc::Rtc;
pub use serial::{Serial, SerialInput};
pub use virtio::{Block, BlockConfig, BlockHandle, BlockStatistics, Entropy, SERIAL_BYTES_MAX};
