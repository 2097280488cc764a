//! The AML of the DSDT: what is there besides the devices that describe themselves.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope, ZERO,
};

use super::Machine;
use crate::layout::{ECAM_BASE, ECAM_BYTES, PCI_WINDOW};

/// The sleep type of S5, soft off, which the guest writes to the sleep control register.
const S5_SLEEP_TYPE: u8 = 5;

/// The table's definition block, without the header.
pub(super) fn body(machine: &Machine<'_>) -> Vec<u8> {
    let mut devices = Vec::new();
    if machine.pci {
        pci_root(&mut devices);
        reserve_ecam(&mut devices);
    }
    devices.extend_from_slice(machine.dsdt_devices);
    let mut body = Vec::new();
    sleep_types(&mut body);
    body.extend(Scope::raw(Path::new("_SB_"), devices));
    body
}

/// `\_S5_` (ACPI 6.5 section 7.4.2.6).
fn sleep_types(aml: &mut Vec<u8>) {
    let package = Package::new(vec![&S5_SLEEP_TYPE, &ZERO, &ZERO, &ZERO]);
    Name::new(Path::new("_S5_"), &package).to_aml_bytes(aml);
}

/// The PCI Express root: bus 0 and the addresses for BARs. There is no port I/O and no interrupt
/// routing (`_PRT`), because functions interrupt by messages.
fn pci_root(aml: &mut Vec<u8>) {
    let bus = AddressSpace::new_bus_number(0_u16, 0_u16);
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        low_u32(PCI_WINDOW.start),
        low_u32(PCI_WINDOW.end - 1),
        None,
    );
    Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_SEG"), &ZERO),
            &Name::new(Path::new("_BBN"), &ZERO),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&bus, &window]),
            ),
        ],
    )
    .to_aml_bytes(aml);
}

/// A motherboard resource: Linux believes the MCFG table only where the window is reserved.
fn reserve_ecam(aml: &mut Vec<u8>) {
    let window = Memory32Fixed::new(true, low_u32(ECAM_BASE), low_u32(ECAM_BYTES));
    Device::new(
        Path::new("ECAM"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &ZERO),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&window])),
        ],
    )
    .to_aml_bytes(aml);
}

fn low_u32(address: u64) -> u32 {
    u32::try_from(address).expect("the layout keeps it below 4 GiB")
}
