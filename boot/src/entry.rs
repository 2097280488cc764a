//! The processor state that the kernel is entered with, and the tables in memory that it needs
//! (Linux, `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol").

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use zerocopy::IntoBytes;

use crate::Error;
use crate::layout::{BOOT_STACK_TOP, GDT, PAGE_TABLES, ZERO_PAGE};

/// Protected mode, extension type, paging (Intel SDM volume 3A section 2.5).
const CR0: u64 = 1 | (1 << 4) | (1 << 31);
/// Physical address extension, which long mode needs.
const CR4: u64 = 1 << 5;
/// Long mode enabled and active.
const EFER: u64 = (1 << 8) | (1 << 10);

const ENTRIES: usize = 512;
const TABLE_BYTES: u64 = 4096;
/// Page directories, each mapping 1 GiB: everything below 4 GiB.
const DIRECTORIES: usize = 4;
/// Present and writable.
const TABLE_ENTRY: u64 = 0b11;
/// Present, writable, a 2 MiB page. Pages of 1 GiB would do with one table, but not every
/// processor has them.
const PAGE_2MIB: u64 = 0b11 | (1 << 7);

/// A segment register: selector and the descriptor behind it (Intel SDM volume 3A section 3.4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "they are the descriptor's flags"
)]
pub struct Segment {
    /// The offset into the GDT.
    pub selector: u16,
    /// The first address.
    pub base: u64,
    /// The last offset, in bytes.
    pub limit: u32,
    /// The descriptor's type field, 4 bits.
    pub kind: u8,
    /// Code or data (`true`), or a system segment.
    pub s: bool,
    /// The privilege level.
    pub dpl: u8,
    /// Whether the segment is there.
    pub present: bool,
    /// 64-bit code.
    pub l: bool,
    /// 32-bit operands by default.
    pub db: bool,
    /// Whether the descriptor counts its limit in pages.
    pub g: bool,
}

impl Segment {
    const CODE: Self = Self {
        selector: 0x10,
        base: 0,
        limit: u32::MAX,
        kind: 0xb,
        s: true,
        dpl: 0,
        present: true,
        l: true,
        db: false,
        g: true,
    };
    const DATA: Self = Self {
        selector: 0x18,
        kind: 0x3,
        l: false,
        db: true,
        ..Self::CODE
    };
    /// Linux needs none, but VMX wants a valid task register at every entry.
    const TASK: Self = Self {
        selector: 0x20,
        limit: 0x67,
        kind: 0xb,
        s: false,
        l: false,
        g: false,
        ..Self::CODE
    };

    /// The descriptor as the GDT holds it.
    fn descriptor(&self) -> u64 {
        let limit = u64::from(if self.g { self.limit >> 12 } else { self.limit });
        (limit & 0xffff)
            | (self.base & 0xff_ffff) << 16
            | u64::from(self.kind & 0xf) << 40
            | u64::from(self.s) << 44
            | u64::from(self.dpl & 3) << 45
            | u64::from(self.present) << 47
            | (limit >> 16 & 0xf) << 48
            | u64::from(self.l) << 53
            | u64::from(self.db) << 54
            | u64::from(self.g) << 55
            | (self.base >> 24 & 0xff) << 56
    }
}

/// The boot processor's registers at the kernel's first instruction. All registers that are not
/// named are zero, and interrupts are off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryState {
    /// The kernel's 64-bit entry point, a physical address that is mapped to itself.
    pub rip: u64,
    /// The zero page's address.
    pub rsi: u64,
    /// The top of a small stack.
    pub rsp: u64,
    /// Control register 0.
    pub cr0: u64,
    /// The page tables' address.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// The extended feature register (MSR `0xc000_0080`).
    pub efer: u64,
    /// The GDT's address.
    pub gdt_base: u64,
    /// The GDT's last byte.
    pub gdt_limit: u16,
    /// The code segment.
    pub cs: Segment,
    /// The data segments: DS, ES, SS, FS and GS.
    pub ds: Segment,
    /// The task register.
    pub tr: Segment,
}

/// Writes GDT and page tables, and gives the registers to enter the kernel at `rip`.
pub(crate) fn load(memory: &GuestMemoryMmap, rip: u64) -> Result<EntryState, Error> {
    let gdt = gdt();
    memory
        .write_slice(gdt.as_bytes(), GuestAddress(GDT))
        .map_err(|source| Error::GuestMemory {
            what: "GDT",
            source,
        })?;
    memory
        .write_slice(page_tables().as_bytes(), GuestAddress(PAGE_TABLES))
        .map_err(|source| Error::GuestMemory {
            what: "page tables",
            source,
        })?;
    Ok(EntryState {
        rip,
        rsi: ZERO_PAGE,
        rsp: BOOT_STACK_TOP,
        cr0: CR0,
        cr3: PAGE_TABLES,
        cr4: CR4,
        efer: EFER,
        gdt_base: GDT,
        gdt_limit: u16::try_from(size_of_val(&gdt) - 1).expect("a GDT of a few entries"),
        cs: Segment::CODE,
        ds: Segment::DATA,
        tr: Segment::TASK,
    })
}

/// Selectors count in bytes; the task's descriptor takes two entries, the second of them zero.
fn gdt() -> [u64; 6] {
    let mut table = [0; 6];
    for segment in [Segment::CODE, Segment::DATA, Segment::TASK] {
        table[usize::from(segment.selector / 8)] = segment.descriptor();
    }
    table
}

/// Maps the first 4 GiB to themselves: one top-level table, one of directory pointers, and the
/// directories (Intel SDM volume 3A section 4.5).
fn page_tables() -> Vec<u64> {
    let table_address = |index: usize| PAGE_TABLES + index as u64 * TABLE_BYTES;
    let mut entries = vec![0; (2 + DIRECTORIES) * ENTRIES];
    entries[0] = table_address(1) | TABLE_ENTRY;
    for directory in 0..DIRECTORIES {
        entries[ENTRIES + directory] = table_address(2 + directory) | TABLE_ENTRY;
    }
    for (page, entry) in entries[2 * ENTRIES..].iter_mut().enumerate() {
        *entry = ((page as u64) << 21) | PAGE_2MIB;
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout;

    #[test]
    fn descriptors_are_those_of_flat_64_bit_segments() {
        assert_eq!(
            gdt(),
            [
                0,
                0,
                0x00af_9b00_0000_ffff,
                0x00cf_9300_0000_ffff,
                0x0000_8b00_0000_0067,
                0
            ]
        );
    }

    /// Walks the tables in guest memory as a processor does.
    fn translate(memory: &GuestMemoryMmap, cr3: u64, address: u64) -> Option<u64> {
        let mut table = cr3;
        for shift in [39, 30] {
            let index = address >> shift & 0x1ff;
            let entry: u64 = memory.read_obj(GuestAddress(table + 8 * index)).unwrap();
            if entry & 1 == 0 {
                return None;
            }
            table = entry & !0xfff;
        }
        let index = address >> 21 & 0x1ff;
        let entry: u64 = memory.read_obj(GuestAddress(table + 8 * index)).unwrap();
        (entry & 0x81 == 0x81).then_some((entry & !0x1f_ffff) | (address & 0x1f_ffff))
    }

    #[test]
    fn the_first_four_gib_are_mapped_to_themselves() {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram_ranges(2 << 20)).unwrap();
        let entry = load(&memory, 0x100_0000).unwrap();
        for address in [0, 0x7123, 0x100_0000, 0x7fff_ffff, 0xbfff_f000, 0xffff_ffff] {
            assert_eq!(
                translate(&memory, entry.cr3, address),
                Some(address),
                "{address:#x}"
            );
        }
        assert_eq!(translate(&memory, entry.cr3, 1 << 32), None);
        assert!(layout::PAGE_TABLES + page_tables().len() as u64 * 8 <= layout::CMDLINE);
    }

    #[test]
    fn the_gdt_in_memory_backs_the_segment_registers() {
        let memory = GuestMemoryMmap::from_ranges(&layout::ram_ranges(2 << 20)).unwrap();
        let entry = load(&memory, 0).unwrap();
        for segment in [entry.cs, entry.ds, entry.tr] {
            assert!(segment.selector + 7 <= entry.gdt_limit);
            let address = entry.gdt_base + u64::from(segment.selector);
            let descriptor: u64 = memory.read_obj(GuestAddress(address)).unwrap();
            assert_eq!(descriptor, segment.descriptor());
        }
        assert!(entry.gdt_base + u64::from(entry.gdt_limit) < layout::ZERO_PAGE);
    }
}
