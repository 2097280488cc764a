//! The memory behind the stub: a read-only slot of code and one of data, at the very top of the
//! guest's physical addresses, which no memory map of the guest's tells of.
#![expect(unsafe_code, reason = "lends memory to KVM")]

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use disk::mutant;
use kvm_bindings::{KVM_MEM_READONLY, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use libc::c_long;
use vm_memory::{Bytes, MmapRegion, VolatileMemory};

use super::stub::{
    self, DATA_DISTANCE, NOTES_MAX, QUIET_BITS, QUIET_BYTES, SHARED, STRIDE, data, note, shared,
};

/// The slots' numbers, beyond those of RAM.
const CODE_SLOT: u32 = 30;
const DATA_SLOT: u32 = 31;
const STRIDE_BYTES: usize = 0x1000;
const _: () = assert!(STRIDE_BYTES as u64 == STRIDE);
const SHARED_AT: usize = 0x10_0000;
const _: () = assert!(SHARED_AT as u64 == SHARED);
const CALL_WORDS: usize = 8;
const _: () = assert!(CALL_WORDS as u64 * 64 == stub::CALL_BITS);
/// What all vCPUs share is at one place, however many there are.
const DATA_BYTES: usize = SHARED_AT + shared::BYTES;
const _: () = assert!(DATA_BYTES as u64 <= DATA_DISTANCE);
const PROCESS_WORDS: usize = 512;
const _: () = assert!(PROCESS_WORDS as u64 * 64 == stub::PROCESS_BITS);

/// A call that went on to the kernel without an exit.
pub(super) struct Note {
    /// Calls that were noted before have a smaller one, on whatever vCPU.
    pub(super) serial: u64,
    /// RAX, RDI, RSI, RDX and R10; the others are not known.
    pub(super) regs: kvm_regs,
    pub(super) cr3: u64,
}

/// How a call looks at its descriptor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quiet {
    /// Reads from it are only noted.
    pub(super) reads: bool,
    /// Writes to it are.
    pub(super) writes: bool,
}

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
        let map =
            |len| MmapRegion::new(len).context("the host refuses memory for the system call hooks");
        let window = Self {
            code: map(usize::from(cpus) * STRIDE_BYTES)?,
            data: map(DATA_BYTES)?,
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
                memory_size: memory.len() as u64,
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
        Self {
            code: MmapRegion::new(usize::from(cpus) * STRIDE_BYTES).unwrap(),
            data: MmapRegion::new(DATA_BYTES).unwrap(),
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

    /// Has these system calls be looked at: of all processes, and of those that are watched.
    pub(super) fn set_calls(&self, always: &[c_long], watched: &[c_long]) {
        self.set_bits(data::ALWAYS, always);
        self.set_bits(data::WATCHED_CALLS, watched);
    }

    /// Says which of the calls of watched processes only read from their first argument, only write
    /// to it, or close it.
    pub(super) fn set_kinds(&self, reads: &[c_long], writes: &[c_long], closes: &[c_long]) {
        self.set_bits(data::READS, reads);
        self.set_bits(data::WRITES, writes);
        self.set_bits(data::CLOSES, closes);
    }

    fn set_bits(&self, at: usize, calls: &[c_long]) {
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

    /// Watches all processes, or none.
    pub(super) fn watch_all(&self, watched: bool) {
        let word = if watched { u64::MAX } else { 0 };
        for number in 0..PROCESS_WORDS {
            self.store(SHARED_AT + shared::PROCESSES + 8 * number, word);
        }
    }

    /// Watches the processes that share this bit, or not.
    pub(super) fn watch(&self, process_bit: u64, watched: bool) {
        let word = usize::try_from(process_bit / 64).unwrap_or_default();
        let at = SHARED_AT + shared::PROCESSES + 8 * word;
        self.change(at, process_bit % 64, watched);
    }

    /// Says how a descriptor of the processes that share this bit is looked at.
    pub(super) fn hush(&self, process_bit: u64, fd: i32, quiet: Quiet) {
        if let Some(fd) = u64::try_from(fd).ok().filter(|fd| *fd < QUIET_BITS) {
            let at = quiet_at(process_bit);
            self.change(at, fd, quiet.reads);
            self.change(at + 8, fd, quiet.writes);
        }
    }

    /// Looks at a descriptor of these processes again, but for what is `still` quiet of it.
    pub(super) fn listen(&self, process_bit: u64, fd: i32, still: Quiet) {
        if let Some(fd) = u64::try_from(fd).ok().filter(|fd| *fd < QUIET_BITS) {
            for (word, quiet) in [(0, still.reads), (8, still.writes)] {
                if !quiet {
                    self.change(quiet_at(process_bit) + word, fd, false);
                }
            }
        }
    }

    /// Looks at all descriptors of these processes again.
    pub(super) fn hush_nothing(&self, process_bit: u64) {
        let at = quiet_at(process_bit);
        self.store(at, 0);
        self.store(at + 8, 0);
    }

    /// The calls that were noted since this was last asked, in the order in which they were made.
    /// One thread at a time may ask.
    pub(super) fn take_notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        for cpu in 0..self.cpus {
            let end = self.counter(offset(cpu, data::NOTED));
            let start = self.counter(offset(cpu, data::TAKEN));
            // The guest's kernel could write there, if it knew.
            let waiting = end.wrapping_sub(start).min(NOTES_MAX);
            notes.extend((0..waiting).map(|n| self.note(cpu, start.wrapping_add(n))));
            if waiting > 0 {
                let memory = self.data.as_volatile_slice();
                let _ = memory.store(end, offset(cpu, data::TAKEN), Ordering::Release);
            }
        }
        if !mutant("notes come by processor") {
            notes.sort_unstable_by_key(|note| note.serial);
        }
        notes
    }

    /// How a descriptor is looked at.
    #[cfg(test)]
    pub(super) fn quiet(&self, process_bit: u64, fd: i32) -> Quiet {
        let at = quiet_at(process_bit);
        Quiet {
            reads: self.load(at) & 1 << fd != 0,
            writes: self.load(at + 8) & 1 << fd != 0,
        }
    }

    /// Notes a call, as the stub of vCPU `cpu` does.
    #[cfg(test)]
    pub(super) fn put_note(&self, cpu: u8, note: &Note) {
        let noted = self.counter(offset(cpu, data::NOTED));
        let at = offset(
            cpu,
            data::NOTES + (noted % NOTES_MAX) as usize * note::BYTES,
        );
        let regs = note.regs;
        let words = [
            regs.rax,
            regs.rdi,
            regs.rsi,
            regs.rdx,
            regs.r10,
            note.cr3,
            note.serial,
        ];
        for (word, value) in words.into_iter().enumerate() {
            self.store(at + 8 * word, value);
        }
        let memory = self.data.as_volatile_slice();
        let counter = offset(cpu, data::NOTED);
        memory
            .store(noted.wrapping_add(1), counter, Ordering::Release)
            .unwrap();
    }

    fn note(&self, cpu: u8, number: u32) -> Note {
        let slot = usize::try_from(number % NOTES_MAX).unwrap_or_default();
        let at = offset(cpu, data::NOTES + slot * note::BYTES);
        let [rax, rdi, rsi, rdx, r10, cr3] =
            [0, 1, 2, 3, 4, 5].map(|word| self.load(at + note::CALL + 8 * word));
        Note {
            serial: self.load(at + note::SERIAL),
            regs: kvm_regs {
                rax,
                rdi,
                rsi,
                rdx,
                r10,
                ..Default::default()
            },
            cr3,
        }
    }

    fn counter(&self, at: usize) -> u32 {
        let memory = self.data.as_volatile_slice();
        memory.load(at, Ordering::Acquire).unwrap_or_default()
    }

    fn load(&self, at: usize) -> u64 {
        let memory = self.data.as_volatile_slice();
        memory.load(at, Ordering::Relaxed).unwrap_or_default()
    }

    fn store(&self, at: usize, value: u64) {
        let memory = self.data.as_volatile_slice();
        // Each place is inside.
        let _ = memory.store(value, at, Ordering::Relaxed);
    }

    fn store_all(&self, at: usize, value: u64) {
        for cpu in 0..self.cpus {
            self.store(offset(cpu, at), value);
        }
    }

    /// Changes a bit of a word that stubs may change meanwhile.
    fn change(&self, at: usize, bit: u64, set: bool) {
        let memory = self.data.as_volatile_slice();
        if let Ok(word) = memory.get_atomic_ref::<AtomicU64>(at) {
            if set {
                word.fetch_or(1 << bit, Ordering::Relaxed);
            } else {
                word.fetch_and(!(1 << bit), Ordering::Relaxed);
            }
        }
    }
}

/// Where the words of a process's descriptors are.
fn quiet_at(process_bit: u64) -> usize {
    let process = usize::try_from(process_bit).unwrap_or_default();
    SHARED_AT + shared::QUIET + process * QUIET_BYTES
}

fn offset(cpu: u8, at: usize) -> usize {
    usize::from(cpu) * STRIDE_BYTES + at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(serial: u64) -> Note {
        Note {
            serial,
            regs: kvm_regs {
                rax: 1,
                rdi: 2,
                rsi: 3,
                rdx: 4,
                r10: 5,
                ..Default::default()
            },
            cr3: 0x1000,
        }
    }

    #[test]
    fn notes_come_once_and_in_the_order_of_the_calls() {
        let window = Window::detached(2);
        for round in 0..20 {
            for (cpu, serial) in [(1, 3), (1, 5), (0, 4), (0, 6)] {
                window.put_note(cpu, &note(round * 10 + serial));
            }
            let notes = window.take_notes();
            let serials: Vec<_> = notes.iter().map(|note| note.serial - round * 10).collect();
            assert_eq!(serials, [3, 4, 5, 6]);
            assert_eq!((notes[0].regs, notes[0].cr3), (note(0).regs, 0x1000));
            assert!(window.take_notes().is_empty());
        }
    }

    #[test]
    fn a_counter_that_is_wrong_costs_no_more_than_there_is_room_for() {
        let window = Window::detached(1);
        let memory = window.data.as_volatile_slice();
        memory
            .store(u32::MAX, offset(0, data::NOTED), Ordering::Relaxed)
            .unwrap();
        assert_eq!(window.take_notes().len(), NOTES_MAX as usize);
        assert!(window.take_notes().is_empty());
    }

    #[test]
    fn descriptors_are_hushed_one_by_one() {
        let window = Window::detached(1);
        let both = Quiet {
            reads: true,
            writes: true,
        };
        for fd in [0, 5, 63, 64, -1] {
            window.hush(7, fd, both);
        }
        assert_eq!([0, 5, 63].map(|fd| window.quiet(7, fd)), [both; 3]);
        let others = [window.quiet(7, 1), window.quiet(6, 63), window.quiet(8, 0)];
        assert_eq!(others, [Quiet::default(); 3]);
        window.hush(
            7,
            5,
            Quiet {
                writes: false,
                ..both
            },
        );
        assert_eq!(
            window.quiet(7, 5),
            Quiet {
                writes: false,
                ..both
            }
        );
        window.listen(7, 5, both);
        assert!(window.quiet(7, 5).reads && !window.quiet(7, 5).writes);
        window.listen(7, 5, Quiet::default());
        assert_eq!(window.quiet(7, 5), Quiet::default());
        window.hush_nothing(7);
        assert_eq!(window.quiet(7, 0), Quiet::default());
    }
}
