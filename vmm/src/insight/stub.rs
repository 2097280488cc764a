//! The code that stands before the guest kernel's entry for system calls.
//!
//! SYSCALL (AMD APM volume 2 section 6.1.1) has put the return address into RCX and the flags into
//! R11, masked the interrupts, and jumped to LSTAR with the user's stack and page tables. The stub
//! must leave everything but the flags as it found it. It decides by itself what is of no interest,
//! in about 1.5 ns; for the rest it goes to this program by an `OUT`, and then to the kernel.
//!
//! Each vCPU has a copy of its own, one [`STRIDE`] behind the other, with its own data
//! [`DATA_DISTANCE`] further on. So all copies are the same but for the jump to the real entry.
#![expect(
    unsafe_code,
    reason = "reads the assembled code, which is data to this program"
)]

use std::arch::global_asm;

/// The port of the stub's `OUT`. Nothing answers there but this program, and only to the stub.
pub(crate) const PORT: u16 = 0xe6;
/// From one vCPU's copy to the next, code and data alike, in bytes.
pub(super) const STRIDE: u64 = 0x2000;
/// From a copy of the code to its data, in bytes: a large page.
pub(super) const DATA_DISTANCE: u64 = 0x20_0000;

/// Where things are in a copy's data, in bytes.
pub(super) mod data {
    /// RAX as it was at the entry.
    pub(in super::super) const SCRATCH: usize = 0x00;
    /// CR3 at the last exit.
    pub(in super::super) const CR3: usize = 0x08;
    /// What R8 is when an insight-call comes back.
    pub(in super::super) const NONCE: usize = 0x10;
    /// What R8 is where an application says what its data is.
    pub(in super::super) const MAGIC: usize = 0x18;
    /// A bit for each system call that leads to an exit whoever makes it.
    pub(in super::super) const ALWAYS: usize = 0x40;
    /// A bit for each system call that leads to an exit where its process is watched.
    pub(in super::super) const WATCHED_CALLS: usize = 0x80;
    /// A bit for each process that is watched, by [`super::process_bit`].
    pub(in super::super) const PROCESSES: usize = 0x1000;
}

/// System calls that have a bit; numbers beyond count as what they are modulo this.
pub(super) const CALL_BITS: u64 = 512;
/// Bits for processes.
pub(super) const PROCESS_BITS: u64 = 0x8000;
/// The low bits of CR3 that name no process: the PCID, and which half of the page tables with
/// page-table isolation.
const CR3_SHIFT: u32 = 13;

global_asm!(
    ".pushsection .rodata.microvm_insight_stub, \"a\"",
    ".irp label, stub, out, target, stub_end",
    ".globl microvm_insight_\\label",
    ".hidden microvm_insight_\\label",
    ".endr",
    ".balign 16",
    ".set data, microvm_insight_stub + {distance}",
    "microvm_insight_stub:",
    "    mov [rip + data + {scratch}], rax",
    // An insight-call that comes back, whoever made it and on whichever processor.
    "    cmp r8, [rip + data + {nonce}]",
    "    je 2f",
    "    cmp r8, [rip + data + {magic}]",
    "    je 2f",
    // A mask, not a comparison that could be mispredicted.
    "    and eax, {call_mask}",
    "    bt [rip + data + {always}], rax",
    "    jc 2f",
    "    bt [rip + data + {watched_calls}], rax",
    "    jnc 3f",
    "    mov rax, cr3",
    "    shr rax, {cr3_shift}",
    "    and eax, {process_mask}",
    "    bt [rip + data + {processes}], rax",
    "    jnc 3f",
    "2:  mov rax, cr3",
    "    mov [rip + data + {cr3}], rax",
    "    mov rax, [rip + data + {scratch}]",
    "microvm_insight_out:",
    "    out {port}, al",
    "    jmp 4f",
    "3:  mov rax, [rip + data + {scratch}]",
    // To the real entry. A direct jump: nothing to predict, so nothing to protect.
    "4:  .byte 0xe9",
    "microvm_insight_target:",
    "    .long 0",
    "microvm_insight_stub_end:",
    ".popsection",
    distance = const DATA_DISTANCE,
    scratch = const data::SCRATCH,
    cr3 = const data::CR3,
    nonce = const data::NONCE,
    magic = const data::MAGIC,
    always = const data::ALWAYS,
    watched_calls = const data::WATCHED_CALLS,
    processes = const data::PROCESSES,
    call_mask = const CALL_BITS - 1,
    process_mask = const PROCESS_BITS - 1,
    cr3_shift = const CR3_SHIFT,
    port = const PORT,
);

unsafe extern "C" {
    static microvm_insight_stub: u8;
    static microvm_insight_out: u8;
    static microvm_insight_target: u8;
    static microvm_insight_stub_end: u8;
}

/// The code as it was assembled, with a jump that leads nowhere yet.
fn template() -> &'static [u8] {
    let start = &raw const microvm_insight_stub;
    let len = offset_of(&raw const microvm_insight_stub_end);
    // SAFETY: the two labels bound one stretch of read-only data of this program.
    unsafe { std::slice::from_raw_parts(start, len) }
}

fn offset_of(label: *const u8) -> usize {
    label.addr() - (&raw const microvm_insight_stub).addr()
}

/// The code of a copy at the guest address `address`, which goes on to `entry`; none if that is
/// further away than a jump goes.
pub(super) fn assemble(address: u64, entry: u64) -> Option<Vec<u8>> {
    let mut code = template().to_vec();
    let at = offset_of(&raw const microvm_insight_target);
    let after = address.wrapping_add(at as u64 + 4);
    let distance = i32::try_from(entry.wrapping_sub(after).cast_signed()).ok()?;
    code[at..at + 4].copy_from_slice(&distance.to_le_bytes());
    Some(code)
}

/// Where the `OUT` is in a copy, in bytes.
pub(super) fn out_offset() -> u64 {
    offset_of(&raw const microvm_insight_out) as u64
}

/// The bit of a process, by its page tables.
pub(super) fn process_bit(cr3: u64) -> u64 {
    (cr3 >> CR3_SHIFT) & (PROCESS_BITS - 1)
}

#[cfg(test)]
mod tests;
