//! The stub's two pages in the guest's virtual memory.
//!
//! Two entries of the table that has the kernel's own code are taken, which all processes share (with
//! page-table isolation: all their user halves), so that one change reaches them all. They were not
//! present before, so that nothing needs to be flushed. They are pages of 2 MiB themselves rather
//! than tables, because a table would have to be in memory that the guest does not know of, where
//! its own page-table dumper would go.

use kvm_bindings::kvm_sregs;

use super::paging::{Memory, Root};
use super::stub::DATA_DISTANCE;

const LARGE_PAGE_SHIFT: u32 = 21;
/// The reach of one table of entries for 2 MiB.
const TABLE_BYTES: u64 = 1 << 30;
/// Present, accessed, large: the kernel may read and execute it.
const CODE: u64 = 0xa1;
/// Present, writable, accessed, dirty, large and not to be executed.
const DATA: u64 = 0xe3 | 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffe0_0000;
/// Which half of the page tables is the user's, with page-table isolation (Linux's
/// `PTI_USER_PGTABLE_MASK`).
const USER_HALF: u64 = 0x1000;
/// Entries are taken from the end, where a kernel's code and modules reach last.
const FIRST_TAKEN_MIN: u64 = 64;
/// Long mode, paging and protection are on.
const EFER_LMA: u64 = 1 << 10;

/// Where the window is in the guest's virtual memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The virtual address of the code.
    pub(super) address: u64,
    /// The table that has its entry, and which one that is; the next is the data's.
    table: u64,
    index: u64,
}

impl Mapping {
    /// Whether a vCPU with these registers reaches the stub, whatever runs on it next.
    pub(super) fn reaches(
        &self,
        memory: Memory<'_>,
        sregs: &kvm_sregs,
        entry: u64,
        gpa: u64,
    ) -> bool {
        let leads_to = |root, address, gpa| {
            memory
                .translate(root, address)
                .is_some_and(|page| page.gpa == gpa)
        };
        let root = Root::new(sregs.cr3, sregs.cr4);
        if leads_to(root, self.address, gpa) {
            return true;
        }
        // In the kernel, with page-table isolation, its own half is in use. The other is one that
        // has the same entry.
        let user = Root {
            table: root.table | USER_HALF,
            ..root
        };
        let Some(page) = memory.translate(root, entry) else {
            return false;
        };
        leads_to(user, entry, page.gpa) && leads_to(user, self.address, gpa)
    }

    /// Maps the window where `entry` is reached from, through the page tables of the process that
    /// runs. None if none runs, or where there is no place.
    pub(super) fn install(
        memory: Memory<'_>,
        sregs: &kvm_sregs,
        entry: u64,
        gpa: u64,
    ) -> Option<Self> {
        let in_user_mode = sregs.efer & EFER_LMA != 0 && sregs.cs.selector & 3 == 3;
        if !in_user_mode {
            return None;
        }
        let table = memory.pmd_table(Root::new(sregs.cr3, sregs.cr4), entry)?;
        let at = |index: u64| Self {
            address: (entry & !(TABLE_BYTES - 1)) + (index << LARGE_PAGE_SHIFT),
            table,
            index,
        };
        for index in (FIRST_TAKEN_MIN..=510).rev().step_by(2) {
            let pair = (memory.entry(table, index)?, memory.entry(table, index + 1)?);
            if pair.0 & ADDRESS == gpa && pair.0 & 1 != 0 {
                return Some(at(index));
            }
            if pair == (0, 0) {
                memory.set_entry(table, index + 1, (gpa + DATA_DISTANCE) | DATA)?;
                memory.set_entry(table, index, gpa | CODE)?;
                return Some(at(index));
            }
        }
        None
    }

    /// Takes the entries back, unless they are somebody else's by now.
    pub(super) fn remove(&self, memory: Memory<'_>, gpa: u64) {
        for (index, page) in [(self.index, gpa), (self.index + 1, gpa + DATA_DISTANCE)] {
            if memory
                .entry(self.table, index)
                .is_some_and(|entry| entry & ADDRESS == page)
            {
                memory.set_entry(self.table, index, 0);
            }
        }
    }
}
