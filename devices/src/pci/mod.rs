//! One PCI bus whose configuration space is memory mapped (ECAM), without legacy ports, lines or
//! bridges: what a guest with ACPI needs, at few exits.

mod config;
mod msix;
mod root;

pub(crate) use config::{ConfigSpace, Identity};
pub(crate) use msix::{CAPABILITY_ID as MSIX_CAPABILITY_ID, Msix, MsixSignals};
pub use root::PciRoot;

/// A device on the bus: one function with a configuration space and at most one memory window.
pub(crate) trait Function: Send {
    /// Reads the configuration space.
    fn read_config(&mut self, offset: usize, data: &mut [u8]);

    /// Writes the configuration space.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// Where in memory the function answers now, as first address and length in bytes.
    fn memory(&self) -> Option<(u64, u64)> {
        None
    }

    /// Reads the memory window; the access lies within it.
    fn read_memory(&mut self, _offset: u64, _data: &mut [u8]) {}

    /// Writes the memory window; the access lies within it.
    fn write_memory(&mut self, _offset: u64, _data: &[u8]) {}
}
