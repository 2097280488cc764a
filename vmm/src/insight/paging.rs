//! The guest's page tables, as its processor walks them (AMD APM volume 2 section 5.3), and the
//! memory of its processes behind them.
//!
//! Nothing here is to be trusted, and nothing stays the same between two reads: every address is
//! looked up in the guest's memory, and every walk has at most five steps.

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const LARGE: u64 = 1 << 7;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const PAGE_BYTES: u64 = 4096;
/// Where the index for each level is in an address: 512 entries a table.
const LEVELS: [u32; 5] = [48, 39, 30, 21, 12];
/// The level whose entries are tables of 4 KiB pages or pages of 2 MiB: Linux's PMD.
const PMD_SHIFT: u32 = 21;

/// The root of the page tables of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Root {
    /// The physical address of the topmost table.
    pub(super) table: u64,
    /// Whether there are five levels.
    pub(super) five_levels: bool,
}

/// Where a virtual address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    pub(super) gpa: u64,
    user: bool,
    writable: bool,
}

impl Root {
    /// Of the registers CR3 and CR4.
    pub(super) fn new(cr3: u64, cr4: u64) -> Self {
        Self {
            table: cr3 & ADDRESS,
            five_levels: cr4 & (1 << 12) != 0,
        }
    }

    fn levels(self) -> &'static [u32] {
        if self.five_levels {
            &LEVELS
        } else {
            &LEVELS[1..]
        }
    }
}

/// The memory of a guest.
#[derive(Clone, Copy)]
pub(super) struct Memory<'a>(pub(super) &'a GuestMemoryMmap);

impl Memory<'_> {
    pub(super) fn entry(self, table: u64, index: u64) -> Option<u64> {
        let address = GuestAddress(table.checked_add(index * 8)?);
        self.0.read_obj(address).ok()
    }

    pub(super) fn set_entry(self, table: u64, index: u64, entry: u64) -> Option<()> {
        let address = GuestAddress(table.checked_add(index * 8)?);
        self.0.write_obj(entry, address).ok()
    }

    /// Where `address` leads.
    pub(super) fn translate(self, root: Root, address: u64) -> Option<Translation> {
        let mut table = root.table;
        let mut rights = USER | WRITABLE;
        for &shift in root.levels() {
            let entry = self.entry(table, (address >> shift) & 511)?;
            if entry & PRESENT == 0 {
                return None;
            }
            rights &= entry;
            let is_page = shift == 12 || (entry & LARGE != 0 && matches!(shift, 21 | 30));
            if is_page {
                let within = (1 << shift) - 1;
                return Some(Translation {
                    gpa: (entry & ADDRESS & !within) | (address & within),
                    user: rights & USER != 0,
                    writable: rights & WRITABLE != 0,
                });
            }
            table = entry & ADDRESS;
        }
        None
    }

    /// The physical address of the table of 2 MiB entries on the way to `address`.
    pub(super) fn pmd_table(self, root: Root, address: u64) -> Option<u64> {
        let mut table = root.table;
        for &shift in root.levels().iter().take_while(|shift| **shift > PMD_SHIFT) {
            let entry = self.entry(table, (address >> shift) & 511)?;
            if entry & PRESENT == 0 || entry & LARGE != 0 {
                return None;
            }
            table = entry & ADDRESS;
        }
        Some(table)
    }

    /// Copies what a process has at `address`, as far as it is in memory; returns how far that is.
    pub(super) fn read_user(self, root: Root, address: u64, target: &mut [u8]) -> usize {
        let mut done = 0;
        while done < target.len() {
            let Some((gpa, len)) = self.user_page(root, address, done, false) else {
                break;
            };
            let end = target.len().min(done + len);
            if self.0.read_slice(&mut target[done..end], gpa).is_err() {
                break;
            }
            done = end;
        }
        done
    }

    /// Writes to a process at `address`, if all of it is in memory that the process itself could
    /// write without a fault: no copy-on-write is ever broken. Whether it did.
    pub(super) fn write_user(self, root: Root, address: u64, source: &[u8]) -> bool {
        let mut done = 0;
        while done < source.len() {
            let Some((gpa, len)) = self.user_page(root, address, done, true) else {
                return false;
            };
            let end = source.len().min(done + len);
            if self.0.write_slice(&source[done..end], gpa).is_err() {
                return false;
            }
            done = end;
        }
        true
    }

    /// A text that ends with a zero byte, without that; cut after `max` bytes.
    pub(super) fn read_user_text(self, root: Root, address: u64, max: usize) -> Option<Vec<u8>> {
        let mut text = vec![0; max];
        let len = self.read_user(root, address, &mut text);
        text.truncate(len);
        match text.iter().position(|&byte| byte == 0) {
            Some(end) => text.truncate(end),
            None if len < max => return None,
            None => {}
        }
        Some(text)
    }

    /// Where byte `done` from `address` on is, and how many follow on its page.
    fn user_page(
        self,
        root: Root,
        address: u64,
        done: usize,
        write: bool,
    ) -> Option<(GuestAddress, usize)> {
        let at = address.checked_add(done as u64)?;
        let page = self.translate(root, at)?;
        if !page.user || (write && !page.writable) {
            return None;
        }
        let len = PAGE_BYTES - at % PAGE_BYTES;
        Some((GuestAddress(page.gpa), usize::try_from(len).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Root = Root {
        table: 0x1000,
        five_levels: false,
    };

    /// Memory with tables for one page at `0x40_0000` (user, read-only), the next (writable), and a
    /// large page at 2 MiB.
    fn memory() -> GuestMemoryMmap {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 8 << 20)]).unwrap();
        let tables = Memory(&memory);
        for (table, index, entry) in [
            (0x1000, 0, 0x2007),
            (0x2000, 0, 0x3007),
            (0x3000, 1, 0x40_0000 | 0x87),
            (0x3000, 2, 0x4007),
            (0x4000, 0, 0x5005),
            (0x4000, 1, 0x6007),
        ] {
            tables.set_entry(table, index, entry).unwrap();
        }
        memory
    }

    #[test]
    fn pages_of_both_sizes_are_found() {
        let memory = memory();
        let gpa = |address| {
            Memory(&memory)
                .translate(ROOT, address)
                .map(|page| page.gpa)
        };
        assert_eq!(gpa(0x40_0123), Some(0x5123));
        assert_eq!(gpa(0x20_1234), Some(0x40_1234));
        assert_eq!(gpa(0x40_2000), None);
        assert_eq!(gpa(0), None);
        assert_eq!(gpa(1 << 39), None);
        assert_eq!(Memory(&memory).pmd_table(ROOT, 0x40_0000), Some(0x3000));
    }

    #[test]
    fn a_copy_crosses_pages_and_ends_where_there_is_none() {
        let memory = memory();
        memory.write_slice(b"ab", GuestAddress(0x5ffe)).unwrap();
        memory.write_slice(b"cd\0", GuestAddress(0x6000)).unwrap();
        let tables = Memory(&memory);
        let mut bytes = [0; 4];
        assert_eq!(tables.read_user(ROOT, 0x40_0ffe, &mut bytes), 4);
        assert_eq!(&bytes, b"abcd");
        assert_eq!(tables.read_user(ROOT, 0x40_1ffe, &mut bytes), 2);
        assert_eq!(tables.read_user_text(ROOT, 0x40_0ffe, 64).unwrap(), b"abcd");
        assert_eq!(tables.read_user_text(ROOT, 0x40_0ffe, 3).unwrap(), b"abc");
        assert_eq!(tables.read_user(ROOT, u64::MAX - 1, &mut bytes), 0);
    }

    #[test]
    fn only_what_the_process_may_write_is_written() {
        let memory = memory();
        let tables = Memory(&memory);
        assert!(tables.write_user(ROOT, 0x40_1000, b"x"));
        assert!(!tables.write_user(ROOT, 0x40_0000, b"x"));
        assert!(!tables.write_user(ROOT, 0x40_1fff, b"xy"));
        tables.set_entry(0x4000, 1, 0x6003).unwrap();
        assert!(
            !tables.write_user(ROOT, 0x40_1000, b"x"),
            "the kernel's page"
        );
    }

    #[test]
    fn tables_that_point_at_themselves_or_nowhere_end_the_walk() {
        let memory = memory();
        let tables = Memory(&memory);
        tables.set_entry(0x1000, 0, 0x1007).unwrap();
        assert_eq!(tables.translate(ROOT, 0).map(|page| page.gpa), Some(0x1000));
        tables.set_entry(0x1000, 0, 0x000f_ffff_ffff_f007).unwrap();
        assert_eq!(tables.translate(ROOT, 0), None);
        let nowhere = Root {
            table: ADDRESS,
            five_levels: true,
        };
        assert_eq!(tables.translate(nowhere, u64::MAX), None);
    }
}
