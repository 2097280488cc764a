//! Reads the tables back from guest memory as a guest does.

use super::*;
use crate::layout;

const POWER: PowerRegisters = PowerRegisters {
    sleep_control_port: 0x600,
    sleep_status_port: 0x601,
    reset_port: 0x602,
    reset_value: 0x42,
};

fn machine(cpus: u8, pci: bool, dsdt_devices: &[u8]) -> Machine<'_> {
    Machine {
        cpus,
        pci,
        dsdt_devices,
        power: POWER,
    }
}

fn memory() -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&layout::ram_ranges(2 << 20)).unwrap()
}

fn read(memory: &GuestMemoryMmap, address: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    memory
        .read_slice(&mut bytes, GuestAddress(address))
        .unwrap();
    bytes
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

/// A table whose length and checksum hold.
fn table(memory: &GuestMemoryMmap, address: u64) -> Vec<u8> {
    assert!(layout::ACPI_TABLES.contains(&address), "{address:#x}");
    let header = read(memory, address, 36);
    let len = u32_at(&header, 4);
    assert!(address + u64::from(len) <= layout::ACPI_TABLES.end);
    let bytes = read(memory, address, len as usize);
    assert!(
        sums_to_zero(&bytes),
        "{:?}",
        String::from_utf8_lossy(&bytes[..4])
    );
    bytes
}

/// All tables that the root pointer leads to, the DSDT last.
fn walk(memory: &GuestMemoryMmap, rsdp: u64) -> Vec<Vec<u8>> {
    let rsdp = read(memory, rsdp, 36);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert!(sums_to_zero(&rsdp[..20]) && sums_to_zero(&rsdp));
    let xsdt = table(memory, u64_at(&rsdp, 24));
    assert_eq!(&xsdt[..4], b"XSDT");
    let mut tables: Vec<_> = xsdt[36..]
        .chunks(8)
        .map(|entry| table(memory, u64_at(entry, 0)))
        .collect();
    let fadt = tables
        .iter()
        .find(|table| table.starts_with(b"FACP"))
        .unwrap();
    tables.push(table(memory, u64_at(fadt, 140)));
    tables
}

fn signatures(tables: &[Vec<u8>]) -> Vec<&[u8]> {
    tables.iter().map(|table| &table[..4]).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[test]
fn the_root_pointer_leads_to_every_table() {
    let memory = memory();
    let rsdp = load(&memory, &machine(4, true, &[])).unwrap();
    // Where a kernel that does not look into the zero page searches.
    assert_eq!(rsdp, 0xe_0000);
    let tables = walk(&memory, rsdp);
    assert_eq!(signatures(&tables), [b"FACP", b"APIC", b"MCFG", b"DSDT"]);
    let mcfg = &tables[2];
    assert_eq!(u64_at(mcfg, 44), layout::ECAM_BASE);
    assert_eq!(mcfg[54..56], [0, 0], "bus 0 alone");
    assert!(contains(&tables[3], b"PCI0"));
}

#[test]
fn a_machine_without_pci_has_neither_root_nor_configuration_space() {
    let memory = memory();
    let rsdp = load(&memory, &machine(1, false, &[])).unwrap();
    let tables = walk(&memory, rsdp);
    assert_eq!(signatures(&tables), [b"FACP", b"APIC", b"DSDT"]);
    assert!(!contains(&tables[2], b"PCI0") && !contains(&tables[2], b"ECAM"));
}

#[test]
fn the_fadt_tells_how_to_switch_off_and_to_reset() {
    let memory = memory();
    let rsdp = load(&memory, &machine(1, true, &[])).unwrap();
    let tables = walk(&memory, rsdp);
    let fadt = &tables[0];
    assert_eq!(fadt.len(), 276);
    let flags = u32_at(fadt, 112);
    assert_eq!(flags & (1 << 20), 1 << 20, "hardware reduced");
    assert_eq!(flags & (1 << 10), 1 << 10, "reset register");
    assert_eq!(
        fadt[109..111],
        [0x04, 0x00],
        "no VGA, no i8042, a CMOS clock"
    );
    let byte_port = |port: u8| [1, 8, 0, 1, port, 0x06, 0, 0, 0, 0, 0, 0];
    assert_eq!(fadt[116..128], byte_port(0x02));
    assert_eq!(fadt[128], 0x42);
    assert_eq!(fadt[244..256], byte_port(0x00));
    assert_eq!(fadt[256..268], byte_port(0x01));
}

#[test]
fn the_madt_lists_every_processor_and_the_io_apic() {
    for cpus in [1, 4, 255] {
        let memory = memory();
        let rsdp = load(&memory, &machine(cpus, true, &[])).unwrap();
        let madt = walk(&memory, rsdp).swap_remove(1);
        assert_eq!(u64::from(u32_at(&madt, 36)), layout::LAPIC);
        let (lapics, ioapic) = madt[44..].split_at(8 * usize::from(cpus));
        for (lapic, cpu) in lapics.chunks(8).zip(0..) {
            assert_eq!(lapic, [0, 8, cpu, cpu, 1, 0, 0, 0]);
        }
        assert_eq!(ioapic[..4], [1, 12, 0, 0]);
        assert_eq!(u64::from(u32_at(ioapic, 4)), layout::IOAPIC);
        assert_eq!(u32_at(ioapic, 8), 0);
    }
}

#[test]
fn soft_off_is_sleep_type_five() {
    let memory = memory();
    let rsdp = load(&memory, &machine(1, true, &[])).unwrap();
    let dsdt = walk(&memory, rsdp).pop().unwrap();
    // NameOp, the name, PackageOp, its length, four elements, of which the first is a byte.
    assert!(contains(&dsdt, b"\x08_S5_\x12\x07\x04\x0a\x05\x00\x00\x00"));
}

#[test]
fn given_devices_are_in_the_system_bus_scope() {
    let memory = memory();
    let node = b"\x5b\x82\x05TEST";
    let rsdp = load(&memory, &machine(1, false, node)).unwrap();
    let dsdt = walk(&memory, rsdp).pop().unwrap();
    // ScopeOp, a one-byte length, the name, the device.
    assert!(
        contains(&dsdt, b"\x10\x0c_SB_\x5b\x82\x05TEST"),
        "{dsdt:02x?}"
    );
}

#[test]
fn too_many_devices_are_an_error() {
    let room = layout::ACPI_TABLES.end - layout::ACPI_TABLES.start;
    let devices = vec![0; usize::try_from(room).unwrap()];
    let error = load(&memory(), &machine(1, true, &devices)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the ACPI tables do not fit in 131056 bytes; attach fewer devices"
    );
    // Whatever fits leaves alone what follows, the last table's every byte counted.
    let mut refused = 0;
    for len in (room - 1024..room).step_by(8) {
        let memory = memory();
        let devices = vec![0xff; usize::try_from(len).unwrap()];
        match load(&memory, &machine(1, true, &devices)) {
            Ok(_) => assert_eq!(
                read(&memory, layout::ACPI_TABLES.end, 128),
                [0; 128],
                "{len}"
            ),
            Err(_) => refused += 1,
        }
    }
    assert!((1..128).contains(&refused), "{refused}");
}
