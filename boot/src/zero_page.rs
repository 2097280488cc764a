//! The zero page: what a boot loader tells the kernel (Linux, `Documentation/arch/x86/zero-page.rst`).

use std::ops::Range;

use linux_loader::bootparam::{KASLR_FLAG, LOADED_HIGH, boot_e820_entry, boot_params};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};

use crate::Error;
use crate::kernel::Kernel;
use crate::layout;

const E820_RAM: u32 = 1;
const E820_RESERVED: u32 = 2;
/// `type_of_loader`: a boot loader without an assigned number.
const LOADER_UNDEFINED: u8 = 0xff;
/// `vid_mode`: "normal", the mode that the machine is in.
const VIDEO_NORMAL: u16 = 0xffff;

/// What the kernel is told.
pub(crate) struct Parameters<'a> {
    /// The kernel as loaded, with the setup header that came with it.
    pub(crate) kernel: &'a Kernel,
    /// The addresses of the initrd.
    pub(crate) initrd: Option<Range<u64>>,
    /// The address of the ACPI root pointer.
    pub(crate) rsdp: u64,
    /// Whether there is a window of PCI configuration space.
    pub(crate) ecam: bool,
}

/// Writes the zero page.
pub(crate) fn load(memory: &GuestMemoryMmap, parameters: &Parameters<'_>) -> Result<(), Error> {
    let mut page = boot_params {
        hdr: parameters.kernel.header,
        ..Default::default()
    };
    page.hdr.type_of_loader = LOADER_UNDEFINED;
    page.hdr.vid_mode = VIDEO_NORMAL;
    // The decompressor sets the flag where it has randomised the kernel's address.
    page.hdr.loadflags = (page.hdr.loadflags | LOADED_HIGH) & !KASLR_FLAG;
    page.hdr.cmd_line_ptr = low_u32(layout::CMDLINE);
    if let Some(initrd) = &parameters.initrd {
        page.hdr.ramdisk_image = low_u32(initrd.start);
        page.hdr.ramdisk_size = low_u32(initrd.end - initrd.start);
    }
    page.acpi_rsdp_addr = parameters.rsdp;
    let map = e820(memory, parameters.ecam);
    page.e820_entries = u8::try_from(map.len()).expect("a map of a few entries");
    let mut table = page.e820_table;
    table[..map.len()].copy_from_slice(&map);
    page.e820_table = table;
    memory
        .write_obj(page, GuestAddress(layout::ZERO_PAGE))
        .map_err(|source| Error::GuestMemory {
            what: "zero page",
            source,
        })
}

/// Everything but high RAM lies below 4 GiB.
fn low_u32(address: u64) -> u32 {
    u32::try_from(address).expect("the layout keeps it below 4 GiB")
}

/// The memory map (ACPI 6.5 section 15).
fn e820(memory: &GuestMemoryMmap, ecam: bool) -> Vec<boot_e820_entry> {
    let entry = |range: Range<u64>, kind| boot_e820_entry {
        addr: range.start,
        size: range.end - range.start,
        r#type: kind,
    };
    let mut map = vec![
        entry(0..layout::CONVENTIONAL_END, E820_RAM),
        entry(layout::ACPI_TABLES.start..layout::KERNEL_MIN, E820_RESERVED),
    ];
    for region in memory.iter() {
        let start = region.start_addr().0;
        let end = start + region.len();
        map.push(entry(start.max(layout::KERNEL_MIN)..end, E820_RAM));
    }
    if ecam {
        let window = layout::ECAM_BASE..layout::ECAM_BASE + layout::ECAM_BYTES;
        map.push(entry(window, E820_RESERVED));
    }
    map.sort_by_key(|entry| entry.addr);
    map
}

#[cfg(test)]
mod tests {
    use super::*;
    use linux_loader::bootparam::setup_header;

    const MIB: u64 = 1 << 20;

    fn written(memory: &GuestMemoryMmap, parameters: &Parameters<'_>) -> boot_params {
        load(memory, parameters).unwrap();
        memory.read_obj(GuestAddress(layout::ZERO_PAGE)).unwrap()
    }

    fn map_of(page: &boot_params) -> Vec<(u64, u64, u32)> {
        let table = page.e820_table;
        let entries = &table[..usize::from(page.e820_entries)];
        entries
            .iter()
            .map(|entry| (entry.addr, entry.addr + entry.size, entry.r#type))
            .collect()
    }

    #[test]
    fn the_memory_map_has_ram_on_both_sides_of_the_hole() {
        let ranges = layout::ram_ranges(3584 * MIB);
        let memory = GuestMemoryMmap::from_ranges(&ranges).unwrap();
        let expected = [
            (0, 0x9_fc00, 1),
            (0xe_0000, 0x10_0000, 2),
            (0x10_0000, 0xc000_0000, 1),
            (0xe000_0000, 0xe010_0000, 2),
            (1 << 32, (1 << 32) + 512 * MIB, 1),
        ];
        let header = setup_header::default();
        let kernel = Kernel {
            entry: 0,
            span: 0..0,
            header,
        };
        let mut parameters = Parameters {
            kernel: &kernel,
            initrd: None,
            rsdp: 0xe_0000,
            ecam: true,
        };
        assert_eq!(map_of(&written(&memory, &parameters)), expected);
        parameters.ecam = false;
        let without: Vec<_> = expected
            .into_iter()
            .filter(|e| e.0 != 0xe000_0000)
            .collect();
        assert_eq!(map_of(&written(&memory, &parameters)), without);
    }

    #[test]
    fn the_kernel_finds_initrd_command_line_and_acpi() {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram_ranges(64 * MIB)).unwrap();
        let header = setup_header {
            loadflags: KASLR_FLAG,
            version: 0x20f,
            ..Default::default()
        };
        let kernel = Kernel {
            entry: 0,
            span: 0..0,
            header,
        };
        let initrd = Some(0x3ff_0000..0x3ff_1234);
        let parameters = Parameters {
            kernel: &kernel,
            initrd,
            rsdp: 0xe_0000,
            ecam: true,
        };
        let page = written(&memory, &parameters);
        let hdr = page.hdr;
        assert_eq!({ hdr.ramdisk_image }, 0x3ff_0000);
        assert_eq!({ hdr.ramdisk_size }, 0x1234);
        assert_eq!(u64::from(hdr.cmd_line_ptr), layout::CMDLINE);
        assert_eq!({ hdr.version }, 0x20f, "the kernel's own header is kept");
        assert_eq!(hdr.type_of_loader, 0xff);
        assert_eq!(hdr.loadflags, LOADED_HIGH);
        // Offset 0x70 is what Linux reads; the field came with boot protocol 2.14.
        let rsdp: u64 = memory
            .read_obj(GuestAddress(layout::ZERO_PAGE + 0x70))
            .unwrap();
        assert_eq!(rsdp, 0xe_0000);
        // A non-zero sentinel would make the kernel throw half of the page away.
        assert_eq!(page.sentinel, 0);
    }
}
