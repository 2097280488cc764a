//! The memory behind the stub: a read-only slot of code and one of data, at the very top of the
//! guest's physical addresses, which no memory map of the guest's tells of.
#![expect(unsafe_code, reason = "lends memory to KVM")]

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use libc::c_long;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::stub::{self, DATA_DISTANCE, STRIDE, data};

/// The slots' numbers, beyond those of RAM.
const CODE_SLOT: u32 = 30;
const DATA_SLOT: u32 = 31;
const STRIDE_BYTES: usize = 0x2000;
const _: () = assert!(STRIDE_BYTES as u64 == STRIDE);
const CALL_WORDS: usize = 8;
const _: () = assert!(CALL_WORDS as u64 * 64 == stub::CALL_BITS);
const PROCESS_WORDS: usize = 512;
const _: () = assert!(PROCESS_WORDS as u64 * 64 == stub::PROCESS_BITS);

/// Code and data of all vCPUs' copies of the stub.
pub(super) struct Window {
    code: MmapRegion,
    data: MmapRegion,
    gpa: u64,
    cpus: u8,
}

impl Window {
    /// Makes the memory a part of `vm`, whose physical addresses have `address_bits`.
    pub(super) fn new(vm: &VmFd, address_bits: u8, cpus: u8) -> Result<Self> {
        let len = u64::from(cpus) * STRIDE;
        let map = || {
            let len = usize::try_from(len)?;
            MmapRegion::new(len).context("the host refuses memory for the system call hooks")
        };
        let window = Self {
            code: map()?,
            data: map()?,
            gpa: (1 << address_bits) - 2 * DATA_DISTANCE,
            cpus,
        };
        for (slot, memory, gpa, flags) in [
            (CODE_SLOT, &window.code, window.gpa, KVM_MEM_READONLY),
            (DATA_SLOT, &window.data, window.gpa + DATA_DISTANCE, 0),
        ] {
            let region = kvm_userspace_memory_region {
                slot,
                flags,
                guest_phys_addr: gpa,
                memory_size: len,
                userspace_addr: memory.as_ptr() as u64,
            };
            // SAFETY: the slot is all of a mapping that lives as long as the machine does; were it
            // unmapped first, guest accesses would fail, not stray.
            unsafe { vm.set_user_memory_region(region) }
                .context("KVM refuses the memory of the system call hooks")?;
        }
        Ok(window)
    }

    /// Memory that no machine has.
    #[cfg(test)]
    pub(super) fn detached(cpus: u8) -> Self {
        let map = || MmapRegion::new(usize::from(cpus) * STRIDE_BYTES).unwrap();
        Self {
            code: map(),
            data: map(),
            gpa: 0,
            cpus,
        }
    }

    /// Where the code is in the guest's physical memory; the data is [`DATA_DISTANCE`] further on.
    pub(super) fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Puts the code of vCPU `cpu` in its place; that vCPU must not be using it.
    pub(super) fn write_code(&self, cpu: u8, code: &[u8]) -> Result<()> {
        let at = offset(cpu, 0);
        let memory = self.code.as_volatile_slice();
        memory.write_slice(code, at).context("the stub's code")
    }

    /// CR3 at the last exit of vCPU `cpu`'s copy.
    pub(super) fn cr3(&self, cpu: u8) -> u64 {
        self.load(offset(cpu, data::CR3))
    }

    /// Sets what R8 is when an insight-call comes back, and what it is where an application says
    /// what its data is.
    pub(super) fn set_marks(&self, nonce: u64, magic: u64) {
        self.store_all(data::NONCE, nonce);
        self.store_all(data::MAGIC, magic);
    }

    /// Has these system calls lead to an exit: of all processes, and of those that are watched.
    pub(super) fn set_calls(&self, always: &[c_long], watched: &[c_long]) {
        for (at, calls) in [(data::ALWAYS, always), (data::WATCHED_CALLS, watched)] {
            let mut words = [0_u64; CALL_WORDS];
            for call in calls
                .iter()
                .map(|call| call.cast_unsigned() % stub::CALL_BITS)
            {
                let word = usize::try_from(call / 64).unwrap_or_default();
                words[word] |= 1 << (call % 64);
            }
            for (number, word) in words.into_iter().enumerate() {
                self.store_all(at + 8 * number, word);
            }
        }
    }

    /// Watches all processes, or none.
    pub(super) fn watch_all(&self, watched: bool) {
        let word = if watched { u64::MAX } else { 0 };
        for number in 0..PROCESS_WORDS {
            self.store_all(data::PROCESSES + 8 * number, word);
        }
    }

    /// Watches the processes that share this bit, or not.
    pub(super) fn watch(&self, process_bit: u64, watched: bool) {
        let word = usize::try_from(process_bit / 64).unwrap_or_default();
        let at = data::PROCESSES + 8 * word;
        let mask = 1 << (process_bit % 64);
        let old = self.load(offset(0, at));
        self.store_all(at, if watched { old | mask } else { old & !mask });
    }

    fn load(&self, at: usize) -> u64 {
        let memory = self.data.as_volatile_slice();
        memory.load(at, Ordering::Relaxed).unwrap_or_default()
    }

    fn store_all(&self, at: usize, value: u64) {
        let memory = self.data.as_volatile_slice();
        for cpu in 0..self.cpus {
            // Each place is inside: the copies are as long as the stride says.
            let _ = memory.store(value, offset(cpu, at), Ordering::Relaxed);
        }
    }
}

fn offset(cpu: u8, at: usize) -> usize {
    usize::from(cpu) * STRIDE_BYTES + at
}
