//! The guest physical memory map: the one place that says where things are.
//!
//! ```text
//! 0x0000_0500  GDT                      ┐
//! 0x0000_7000  zero page (boot_params)  │
//! 0x0000_8000  boot stack, 4 KiB        │ RAM, used until the kernel has its own
//! 0x0000_9000  page tables, 24 KiB      │
//! 0x0002_0000  command line, 64 KiB     ┘
//! 0x0009_fc00  end of conventional RAM: what lies between is the PC's legacy hole
//! 0x000e_0000  ACPI tables              ┐ RAM that the e820 map calls reserved
//! 0x000f_fff0  legacy reset vector      ┘
//! 0x0010_0000  kernel, and as high as it may be below 2 GiB, the initrd
//! 0xc000_0000  the hole: low RAM ends here or earlier
//!              PCI window (32-bit BARs), 512 MiB
//! 0xe000_0000  PCI configuration space (ECAM) of bus 0, 1 MiB
//! 0xe800_0000  virtio-mmio windows, 4 KiB each
//! 0xfec0_0000  I/O APIC
//! 0xfee0_0000  local APICs
//! 0xfffb_c000  KVM's identity-map page and, behind it, its TSS pages (Intel hosts only)
//! 0x1_0000_0000  high RAM: what did not fit below the hole
//! ```

use std::ops::Range;

use vm_memory::GuestAddress;

/// The global descriptor table that the kernel is entered with.
pub const GDT: u64 = 0x500;
/// The zero page: `struct boot_params` of the Linux boot protocol, 4 KiB.
pub const ZERO_PAGE: u64 = 0x7000;
/// The top of the stack that the entry state points to, 4 KiB deep.
pub const BOOT_STACK_TOP: u64 = 0x9000;
/// The page tables that the kernel is entered with.
pub const PAGE_TABLES: u64 = 0x9000;
/// The kernel's command line, terminated by a zero byte.
pub const CMDLINE: u64 = 0x2_0000;
/// The room for the command line in bytes, the terminating zero included.
pub const CMDLINE_BYTES_MAX: usize = 0x1_0000;
/// The end of conventional memory, where a PC keeps its extended BIOS data area.
pub const CONVENTIONAL_END: u64 = 0x9_fc00;
/// Where the ACPI tables lie; the root pointer (RSDP) comes first.
pub const ACPI_TABLES: Range<u64> = 0xe_0000..RESET_VECTOR;
/// Where a processor in real mode goes to reset the machine, 16 bytes.
pub const RESET_VECTOR: u64 = 0xf_fff0;
/// The lowest address that a kernel may be loaded to.
pub const KERNEL_MIN: u64 = 0x10_0000;
/// Where low RAM ends at the latest, and the hole for devices begins.
pub const RAM_LOW_END_MAX: u64 = 0xc000_0000;
/// The addresses for PCI functions' 32-bit BARs.
pub const PCI_WINDOW: Range<u64> = 0xc000_0000..0xe000_0000;
/// PCI configuration space, memory mapped (PCI Express 5.0 section 7.2.2).
pub const ECAM_BASE: u64 = 0xe000_0000;
/// The length of [`ECAM_BASE`]'s window: bus 0 alone.
pub const ECAM_BYTES: u64 = 1 << 20;
/// The first virtio-mmio window.
pub const VIRTIO_MMIO_BASE: u64 = 0xe800_0000;
/// The length of each virtio-mmio window.
pub const VIRTIO_MMIO_BYTES: u64 = 0x1000;
/// The I/O APIC's registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The local APICs' registers.
pub const LAPIC: u64 = 0xfee0_0000;
/// A page that KVM wants for itself on Intel hosts.
pub const KVM_IDENTITY_MAP: u64 = 0xfffb_c000;
/// Three pages that KVM wants for itself on Intel hosts.
pub const KVM_TSS: u64 = 0xfffb_d000;
/// Where RAM goes on that did not fit below [`RAM_LOW_END_MAX`].
pub const RAM_HIGH_START: u64 = 1 << 32;

/// Splits `mem_bytes` of RAM round the hole below 4 GiB: start and length in bytes, ascending.
///
/// # Panics
/// If `mem_bytes` is more than an address can count, which no host can map either.
pub fn ram_ranges(mem_bytes: u64) -> Vec<(GuestAddress, usize)> {
    let low = mem_bytes.min(RAM_LOW_END_MAX);
    let high = mem_bytes - low;
    [(0, low), (RAM_HIGH_START, high)]
        .into_iter()
        .filter(|&(_, len)| len > 0)
        .map(|(start, len)| {
            let len = usize::try_from(len).expect("addresses have 64 bits");
            (GuestAddress(start), len)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn ram_is_split_round_the_hole() {
        let ranges = |bytes| -> Vec<(u64, u64)> {
            ram_ranges(bytes)
                .iter()
                .map(|&(start, len)| (start.0, len as u64))
                .collect()
        };
        assert_eq!(ranges(0), []);
        assert_eq!(ranges(256 << 20), [(0, 256 << 20)]);
        assert_eq!(ranges(3 * GIB), [(0, 3 * GIB)]);
        assert_eq!(ranges(3 * GIB + 4096), [(0, 3 * GIB), (4 * GIB, 4096)]);
        assert_eq!(ranges(6 * GIB), [(0, 3 * GIB), (4 * GIB, 3 * GIB)]);
    }

    #[test]
    fn the_windows_of_the_hole_do_not_overlap() {
        let windows = [
            PCI_WINDOW,
            ECAM_BASE..ECAM_BASE + ECAM_BYTES,
            VIRTIO_MMIO_BASE..VIRTIO_MMIO_BASE + 32 * VIRTIO_MMIO_BYTES,
            IOAPIC..IOAPIC + 0x1000,
            LAPIC..LAPIC + 0x1000,
            KVM_IDENTITY_MAP..KVM_IDENTITY_MAP + 0x1000,
            KVM_TSS..KVM_TSS + 0x3000,
        ];
        assert!(windows[0].start >= RAM_LOW_END_MAX);
        assert!(windows.windows(2).all(|pair| pair[0].end <= pair[1].start));
        assert!(
            windows
                .last()
                .is_some_and(|last| last.end <= RAM_HIGH_START)
        );
    }
}
