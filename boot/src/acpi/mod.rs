//! The machine's description: ACPI tables (ACPI 6.5), hardware-reduced.

mod dsdt;
mod tables;

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::Error;
use crate::layout::ACPI_TABLES;

/// What the tables describe.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// The number of processors, whose APIC identifiers count from 0.
    pub cpus: u8,
    /// Whether the devices are PCI functions: describes the root bus and its configuration space.
    pub pci: bool,
    /// AML of the devices that describe themselves, which goes into the scope `\_SB`.
    pub dsdt_devices: &'a [u8],
    /// Where the guest switches the machine off and resets it.
    pub power: PowerRegisters,
}

/// The ports of the hardware-reduced power registers (ACPI 6.5 sections 4.8.3.6 and 4.8.3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerRegisters {
    /// The sleep control register, one byte.
    pub sleep_control_port: u16,
    /// The sleep status register, one byte.
    pub sleep_status_port: u16,
    /// The reset register, one byte.
    pub reset_port: u16,
    /// What the guest writes to the reset register.
    pub reset_value: u8,
}

/// Writes all tables and returns the address of the root pointer (RSDP).
pub(crate) fn load(memory: &GuestMemoryMmap, machine: &Machine<'_>) -> Result<u64, Error> {
    let mut area = Area {
        memory,
        next: ACPI_TABLES.start + tables::RSDP_BYTES,
    };
    let dsdt = area.place(&tables::dsdt(machine))?;
    let mut listed = vec![
        area.place(&tables::fadt(machine.power, dsdt))?,
        area.place(&tables::madt(machine.cpus))?,
    ];
    if machine.pci {
        listed.push(area.place(&tables::mcfg())?);
    }
    let xsdt = area.place(&tables::xsdt(&listed))?;
    area.next = ACPI_TABLES.start;
    area.place(&tables::rsdp(xsdt))
}

/// The part of guest memory that the tables lie in, filled from below.
struct Area<'a> {
    memory: &'a GuestMemoryMmap,
    next: u64,
}

impl Area<'_> {
    /// Writes one table and returns its address.
    fn place(&mut self, table: &[u8]) -> Result<u64, Error> {
        let address = self.next.next_multiple_of(16);
        let end = address + table.len() as u64;
        if end > ACPI_TABLES.end {
            let room_bytes = ACPI_TABLES.end - ACPI_TABLES.start;
            return Err(Error::AcpiTooLarge { room_bytes });
        }
        self.memory
            .write_slice(table, GuestAddress(address))
            .map_err(|source| Error::GuestMemory {
                what: "ACPI tables",
                source,
            })?;
        self.next = end;
        Ok(address)
    }
}

#[cfg(test)]
mod tests;
