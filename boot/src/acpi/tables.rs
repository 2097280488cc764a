//! The fixed tables, as bytes.

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;

use super::{Machine, PowerRegisters, dsdt};
use crate::layout;

/// The room for the root pointer, which lies before the tables.
pub(super) const RSDP_BYTES: u64 = 64;

const OEM_ID: [u8; 6] = *b"MICROV";
const OEM_TABLE_ID: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;
const HEADER_BYTES: u32 = 36;
/// Revision 2 and later give AML integers 64 bits.
const DSDT_REVISION: u8 = 2;
/// IA-PC boot flag (ACPI 6.5 table 5.11): there is no VGA to probe. The flags for an i8042
/// keyboard controller and for a missing CMOS clock stay clear: no keyboard, but a clock.
const NO_VGA: u16 = 1 << 2;

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// Root system description pointer (section 5.2.5).
pub(super) fn rsdp(xsdt: u64) -> Vec<u8> {
    bytes(&Rsdp::new(OEM_ID, xsdt))
}

/// Extended system description table (section 5.2.8): the list of the others.
pub(super) fn xsdt(tables: &[u64]) -> Vec<u8> {
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for &table in tables {
        xsdt.add_entry(table);
    }
    bytes(&xsdt)
}

/// Fixed ACPI description table (section 5.2.9).
pub(super) fn fadt(power: PowerRegisters, dsdt: u64) -> Vec<u8> {
    let port = |port: u16| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(port),
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Wbinvd)
        .flag(Flags::Headless)
        // Both set: neither button is a fixed one, the power button is a device in the DSDT.
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = NO_VGA.into();
    fadt.reset_reg = port(power.reset_port);
    fadt.reset_value = power.reset_value;
    fadt.sleep_control_reg = port(power.sleep_control_port);
    fadt.sleep_status_reg = port(power.sleep_status_port);
    bytes(&fadt.finalize())
}

/// Multiple APIC description table (section 5.2.12): the processors and the I/O APIC, which has
/// the global system interrupts from 0 on.
pub(super) fn madt(cpus: u8) -> Vec<u8> {
    let lapic = LocalInterruptController::Address(low_u32(layout::LAPIC));
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, lapic);
    for cpu in 0..cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, low_u32(layout::IOAPIC), 0));
    bytes(&madt)
}

/// PCI Express memory-mapped configuration space (PCI firmware 3.2 section 4.1.2).
pub(super) fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM_BASE, 0, 0, 0);
    bytes(&mcfg)
}

/// Differentiated system description table (section 5.2.11.1).
pub(super) fn dsdt(machine: &Machine<'_>) -> Vec<u8> {
    let mut sdt = Sdt::new(
        *b"DSDT",
        HEADER_BYTES,
        DSDT_REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    sdt.append_slice(&dsdt::body(machine));
    bytes(&sdt)
}

fn low_u32(address: u64) -> u32 {
    u32::try_from(address).expect("the layout keeps it below 4 GiB")
}
